"""The rankings of a block of queries: all that a metric sees of codes and labels."""

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from pml_hashing._checks import check_integer

TopK: TypeAlias = int | Literal["relevant"] | None
"""A number of items, for each query as many items as are relevant to it, or all."""

VALUES_AT_A_TIME = {"cpu": 2**15, "cuda": 2**20}
"""Float64 values that are computed with together: in the cache of a core, or to fill a GPU."""


class Rankings(ABC):
    """The rankings of a block of queries.

    Attributes:
        total: Length of every ranking.
        num_relevant: Number of relevant items of every query, int64 `(num_queries,)`.
    """

    total: int
    num_relevant: Tensor

    @abstractmethod
    def hits_by_rank(self, weights: Tensor) -> Tensor:
        """Return the numbers of relevant items at each rank, weighted by query and summed."""

    def cuts(self, top_k: TopK) -> Tensor:
        """Return after how many items each ranking is cut: at least one, at most all."""
        if top_k == "relevant":
            return self.num_relevant.clamp(1, self.total)
        cut = min(max(1, self.total if top_k is None else top_k), self.total)
        return torch.full_like(self.num_relevant, cut)

    def precision_by_rank(self) -> Tensor:
        """Return the precision at every rank, summed over the queries."""
        hits = self.hits_by_rank(torch.ones_like(self.num_relevant, dtype=torch.float64))
        return hits.cumsum(dim=0) / torch.arange(1, len(hits) + 1, device=hits.device)

    def recall_by_rank(self) -> Tensor:
        """Return the recall at every rank, summed over the queries."""
        return self.hits_by_rank(1 / self.num_relevant.clamp(min=1).double()).cumsum(dim=0)


class TieGroups(Rankings):
    """Rankings in which items at equal distance are in no order: a metric is its mean over all.

    Args:
        counts: Items of each query, group of ties and grade, nearest group first,
            `(num_queries, num_groups, num_levels)`.

    Attributes:
        items: Number of items of each query and group, `(num_queries, num_groups)`.
        relevant: Number of them that are relevant.
        ends: Number of items up to the end of the group.
        hits: Number of relevant items up to there.
    """

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts
        self.items, self.relevant = counts.sum(dim=2), counts[:, :, 1:].sum(dim=2)
        self.ends, self.hits = self.items.cumsum(dim=1), self.relevant.cumsum(dim=1)
        self.total = int(self.ends[0, -1])
        self.num_relevant = self.hits[:, -1]

    def hits_by_rank(self, weights: Tensor) -> Tensor:
        # A group spreads its relevant items evenly over its ranks: note where this rate of hits
        # begins and where it ends, and sum over queries, then over ranks.
        rates = self.relevant / self.items.clamp(min=1).double() * weights[:, None]
        changes = rates.new_zeros(self.total + 1)
        changes.index_add_(0, (self.ends - self.items).flatten(), rates.flatten())
        changes.index_add_(0, self.ends.flatten(), -rates.flatten())
        return changes.cumsum(dim=0)[:-1]

    def places(self, cuts: Tensor) -> Tensor:
        """Return how many places of each group lie before the cut."""
        return (cuts[:, None] - self.ends + self.items).clamp(min=0).minimum(self.items)

    def harmonic(self, cuts: Tensor) -> Tensor:
        r"""Return the sum of $1 / r$ over the ranks $r$ of each group that lie before the cut."""
        ends = torch.nn.functional.pad(self.ends.minimum(cuts[:, None]), (1, 0)).double()
        return torch.digamma(ends + 1).diff(dim=1)

    def grade_sums(self) -> Tensor:
        """Return the sum of the grades of each group."""
        grades = torch.arange(self.counts.shape[2], device=self.counts.device)
        return (self.counts * grades).sum(dim=2)


def values_at_a_time(device: torch.device) -> int:
    """Return how many values a metric computes with together."""
    return VALUES_AT_A_TIME.get(device.type, VALUES_AT_A_TIME["cuda"])


def check_top_k(top_k: object) -> None:
    """Raise unless `top_k` is a positive integer, `"relevant"` or `None`."""
    if top_k is not None and top_k != "relevant":
        check_integer(top_k, 1, "top_k")
