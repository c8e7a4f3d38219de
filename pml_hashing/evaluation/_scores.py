"""What can be asked of the rankings of a block of queries, whatever the rule for ties."""

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Divisor: TypeAlias = Literal["retrieved", "relevant"]
"""Of average precision: the relevant items found among the first $k$, or all there are."""
DIVISORS: tuple[Divisor, ...] = ("retrieved", "relevant")


class QueryScores(ABC):
    r"""Scores of a block of queries, float64, `(num_queries,)` each.

    `top_k` is a number of items for all queries, or one for each; a ranking that is shorter counts
    whole. With $\delta(r)$ 1 if the item at rank $r$ is relevant and $g(r)$ its grade, which is the
    number of labels that it shares with the query:

    Attributes:
        total: Length of every ranking.
        num_relevant: Number $R$ of relevant items of every query, int64.
    """

    total: int
    num_relevant: Tensor

    @abstractmethod
    def average_precision(
        self,
        top_k: int | Tensor | None = None,
        *,
        divisor: Divisor = "retrieved",
        weighted: bool = False,
    ) -> Tensor:
        r"""Return $\sum_{r \le k} P(r) \delta(r)$ over the relevant items found, or over all.

        Weighted, $\frac{1}{r} \sum_{t \le r} g(t)$ takes the place of $P(r)$.
        """

    @abstractmethod
    def precision(self, top_k: int | Tensor) -> Tensor:
        """Return the share of relevant items among the first `top_k`."""

    @abstractmethod
    def ndcg(self, top_k: int | None = None) -> Tensor:
        r"""Return $\sum_{r \le k} (2^{g(r)} - 1) / \log_2(r + 1)$ over that of the best ranking."""

    @abstractmethod
    def reciprocal_rank(self) -> Tensor:
        """Return one over the rank of the first relevant item, 0 if there is none."""

    @abstractmethod
    def hits_by_rank(self, weights: Tensor) -> Tensor:
        """Return the numbers of relevant items at each rank, weighted by query and summed."""

    def recall(self, top_k: int | Tensor) -> Tensor:
        """Return the share of the relevant items that is found among the first `top_k`."""
        hits = self.precision(top_k) * self.cuts(top_k)
        return hits / self.num_relevant.clamp(min=1)

    def r_precision(self) -> Tensor:
        """Return the precision at as many items as are relevant."""
        return self.precision(self.num_relevant)

    def average_precision_at_r(self) -> Tensor:
        """Return the average precision at as many items as are relevant, over all of them."""
        return self.average_precision(self.num_relevant, divisor="relevant")

    def cuts(self, top_k: int | Tensor | None) -> Tensor:
        """Return where each ranking is cut, at least after one item."""
        k = torch.as_tensor(self.total if top_k is None else top_k).to(self.num_relevant)
        return k.clamp(1, self.total).expand_as(self.num_relevant)


def cumulative_discounts(length: int, device: torch.device) -> Tensor:
    r"""Return the sums $\sum_{r \le k} 1 / \log_2(r + 1)$ for $k$ from 0 to `length`."""
    ranks = torch.arange(2, length + 2, dtype=torch.float64, device=device)
    return torch.nn.functional.pad(ranks.log2().reciprocal().cumsum(dim=0), (1, 0))


def gains(num_levels: int, device: torch.device) -> Tensor:
    """Return the gain of each grade."""
    return torch.arange(num_levels, dtype=torch.float64, device=device).exp2() - 1


def ideal_gains(level_counts: Tensor, cuts: Tensor, discounts: Tensor) -> Tensor:
    """Return the discounted gains of the best ranking of items counted by grade."""
    best_first = level_counts.flip(1)
    ends = best_first.cumsum(dim=1)
    spans = discounts[ends.minimum(cuts[:, None])]
    spans = spans - discounts[(ends - best_first).minimum(cuts[:, None])]
    return (spans * gains(level_counts.shape[1], cuts.device).flip(0)).sum(dim=1)
