"""Shares of items that are relevant, and of relevant items that are found."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pml_hashing._checks import check_integer
from pml_hashing.evaluation._orders import Orders
from pml_hashing.evaluation._rankings import Rankings, TieGroups, TopK, check_top_k
from pml_hashing.evaluation.metrics._base import LookupMetric, Metric


@dataclass(frozen=True)
class Precision(Metric):
    """Share of relevant items among the first `top_k`, all if `None`."""

    top_k: TopK

    def __post_init__(self) -> None:
        check_top_k(self.top_k)

    def expected(self, groups: TieGroups) -> Tensor:
        cuts = groups.cuts(self.top_k)
        places = groups.places(cuts).double()
        return (groups.relevant * places / groups.items.clamp(min=1)).sum(dim=1) / cuts

    def ordered(self, orders: Orders) -> Tensor:
        return orders.map(
            lambda order, k: np.searchsorted(order.ranks, k, side="right") / k, self.top_k
        )


@dataclass(frozen=True)
class Recall(Metric):
    """Share of the relevant items that is among the first `top_k`, all if `None`."""

    top_k: TopK

    def __post_init__(self) -> None:
        check_top_k(self.top_k)

    def expected(self, groups: TieGroups) -> Tensor:
        return self._of_precision(Precision(self.top_k).expected(groups), groups)

    def ordered(self, orders: Orders) -> Tensor:
        return self._of_precision(Precision(self.top_k).ordered(orders), orders)

    def _of_precision(self, precision: Tensor, rankings: Rankings) -> Tensor:
        return precision * rankings.cuts(self.top_k) / rankings.num_relevant.clamp(min=1)


@dataclass(frozen=True)
class NumRelevant(Metric):
    """Number of relevant items, int64."""

    def expected(self, groups: TieGroups) -> Tensor:
        return groups.num_relevant

    def ordered(self, orders: Orders) -> Tensor:
        return orders.num_relevant


@dataclass(frozen=True)
class PrecisionWithinRadius(LookupMetric):
    """Share of relevant items among those within a Hamming distance, 0 if none is there."""

    radius: int

    def __post_init__(self) -> None:
        check_integer(self.radius, 0, "radius")

    def of_counts(self, counts: Tensor) -> Tensor:
        return _at_radius(precision_by_radius(counts), self.radius)


@dataclass(frozen=True)
class RecallWithinRadius(LookupMetric):
    """Share of the relevant items that is within a Hamming distance."""

    radius: int

    def __post_init__(self) -> None:
        check_integer(self.radius, 0, "radius")

    def of_counts(self, counts: Tensor) -> Tensor:
        return _at_radius(recall_by_radius(counts), self.radius)


def precision_by_radius(counts: Tensor) -> Tensor:
    """Return the precision within each radius, `(num_queries, code_length + 1)`, of such counts."""
    within = counts.cumsum(dim=1)
    return within[:, :, 1:].sum(dim=2) / within.sum(dim=2).clamp(min=1).double()


def recall_by_radius(counts: Tensor) -> Tensor:
    """Return the recall within each radius, `(num_queries, code_length + 1)`, of such counts."""
    hits = counts[:, :, 1:].sum(dim=2).cumsum(dim=1)
    return hits / hits[:, -1:].clamp(min=1).double()


def _at_radius(values: Tensor, radius: int) -> Tensor:
    return values[:, min(radius, values.shape[1] - 1)]
