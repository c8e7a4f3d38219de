"""Normalized discounted cumulative gain."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pml_hashing.evaluation._orders import Order, Orders
from pml_hashing.evaluation._rankings import TieGroups, TopK, check_top_k
from pml_hashing.evaluation.metrics._base import Metric

LARGEST_GRADE = 960  # the gains of 2**63 items of this grade have a sum in float64


@dataclass(frozen=True)
class NDCG(Metric):
    r"""Discounted gain of the first `top_k` items, over that of the best possible ranking.

    $$\mathrm{DCG@}k = \sum_{r \le k} \frac{2^{g(r)} - 1}{\log_2(r + 1)}$$
    """

    top_k: TopK = None

    def __post_init__(self) -> None:
        check_top_k(self.top_k)

    def expected(self, groups: TieGroups) -> Tensor:
        cuts = groups.cuts(self.top_k)
        discounts = cumulative_discounts(int(cuts.max()), cuts.device)
        mean_gains = (groups.counts * gains(groups.counts.shape[2], cuts.device)).sum(dim=2)
        mean_gains /= groups.items.clamp(min=1)
        starts = (groups.ends - groups.items).minimum(cuts[:, None])
        spans = discounts[starts + groups.places(cuts)] - discounts[starts]
        best = ideal_gains(groups.counts.sum(dim=1), cuts, discounts)
        return (mean_gains * spans).sum(dim=1) / torch.where(best > 0, best, 1)

    def ordered(self, orders: Orders) -> Tensor:
        cuts = orders.cuts(self.top_k).cpu()
        levels = 1 + max((int(o.grades.max(initial=0)) for o in orders.orders), default=0)
        discounts = cumulative_discounts(int(cuts.max()), cuts.device)
        each, gain = discounts.diff().numpy(), gains(levels, cuts.device).numpy()
        counts = [np.bincount(order.grades, minlength=levels) for order in orders.orders]
        counts = torch.from_numpy(np.stack(counts))
        counts[:, 0] = orders.total - counts.sum(dim=1)
        best = ideal_gains(counts, cuts, discounts)

        def score(order: Order, k: int) -> float:
            found = np.searchsorted(order.ranks, k, side="right")
            gained = gain[order.grades[:found].astype(np.int64)]
            return float(gained @ each[order.ranks[:found] - 1])

        best = torch.where(best > 0, best, 1).to(orders.num_relevant.device)
        return orders.map(score, self.top_k) / best


def cumulative_discounts(length: int, device: torch.device) -> Tensor:
    r"""Return the sums $\sum_{r \le k} 1 / \log_2(r + 1)$ for $k$ from 0 to `length`."""
    ranks = torch.arange(2, length + 2, dtype=torch.float64, device=device)
    return torch.nn.functional.pad(ranks.log2().reciprocal().cumsum(dim=0), (1, 0))


def gains(num_levels: int, device: torch.device) -> Tensor:
    """Return the gain of each grade.

    Raises:
        ValueError: If sums of the gains might be too large for float64.
    """
    if num_levels > LARGEST_GRADE + 1:
        raise ValueError(
            f"Expected grades of at most {LARGEST_GRADE} for NDCG, whose gain is 2^grade - 1, "
            f"got {num_levels - 1}."
        )
    return torch.arange(num_levels, dtype=torch.float64, device=device).exp2() - 1


def ideal_gains(level_counts: Tensor, cuts: Tensor, discounts: Tensor) -> Tensor:
    """Return the discounted gains of the best ranking of items counted by grade."""
    best_first = level_counts.flip(1)
    ends = best_first.cumsum(dim=1)
    spans = discounts[ends.minimum(cuts[:, None])]
    spans = spans - discounts[(ends - best_first).minimum(cuts[:, None])]
    return (spans * gains(level_counts.shape[1], cuts.device).flip(0)).sum(dim=1)
