"""How early the first relevant item comes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pml_hashing.evaluation._orders import Orders
from pml_hashing.evaluation._rankings import TieGroups, values_at_a_time
from pml_hashing.evaluation.metrics._base import Metric


@dataclass(frozen=True)
class ReciprocalRank(Metric):
    """One over the rank of the first relevant item, 0 if there is none."""

    def expected(self, groups: TieGroups) -> Tensor:
        r"""Average over where the first relevant item falls in the first group that has any.

        Of $n$ items, $\rho$ of them relevant, the first relevant one is at place $j$ with
        probability $p_j$, $p_1 = \rho / n$ and $p_{j+1} / p_j = (n - \rho - j + 1) / (n - j)$.
        """
        group = (groups.relevant > 0).byte().argmax(dim=1, keepdim=True)
        items, relevant, ends = (
            x.gather(1, group).double() for x in (groups.items, groups.relevant, groups.ends)
        )
        # p_j < exp(-j rho / n): beyond 50 n / rho places less than 1e-21 is left
        most = ((50 * items / relevant.clamp(min=1)).ceil()).minimum(items - relevant + 1)
        length = max(1, int(most.max()))
        size = max(1, values_at_a_time(ends.device) // length)
        columns = zip(items.split(size), relevant.split(size), ends.split(size), strict=True)
        return torch.cat([_reciprocal_of_first(n, r, e - n, length) for n, r, e in columns])

    def ordered(self, orders: Orders) -> Tensor:
        return orders.map(lambda order, k: 1 / order.ranks[0] if len(order.ranks) else 0.0, None)


def _reciprocal_of_first(items: Tensor, relevant: Tensor, before: Tensor, length: int) -> Tensor:
    """Return the mean of one over the rank of the first relevant item of a group."""
    place = torch.arange(1, length + 1, dtype=torch.float64, device=items.device)
    left = (items - relevant - place[:-1] + 1).clamp(min=0)
    log_ratio = (left / (items - place[:-1]).clamp(min=1)).log().cumsum(dim=1)
    first = torch.nn.functional.pad(log_ratio, (1, 0)).exp() * relevant / items.clamp(min=1)
    return (first / (before + place)).sum(dim=1)
