"""Scores of rankings in one order: that of the database inside ties, the best or the worst."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pml_hashing.evaluation._scores import (
    Divisor,
    QueryScores,
    cumulative_discounts,
    gains,
    ideal_gains,
)


@dataclass(frozen=True)
class Order:
    """The relevant items of a query's ranking.

    Attributes:
        ranks: From 1 on, ascending, `(num_relevant,)`.
        grades: Of the items on these ranks.
        ends: Where the groups of ties end, if the order inside them is the best or the worst.
            Empty if it is neither.
        best: Whether it is the best.
    """

    ranks: np.ndarray
    grades: np.ndarray
    ends: np.ndarray = field(default_factory=lambda: np.empty(0))
    best: bool = False


class OrderedScores(QueryScores):
    """Scores of the rankings of a block of queries, each in one order.

    Args:
        orders: One for each query.
        total: Length of every ranking.
        device: Of the results; the work is done on the CPU.
    """

    def __init__(self, orders: list[Order], total: int, device: torch.device) -> None:
        self.orders, self.total = orders, total
        self.num_relevant = torch.tensor([len(order.ranks) for order in orders], device=device)

    def average_precision(
        self,
        top_k: int | Tensor | None = None,
        *,
        divisor: Divisor = "retrieved",
        weighted: bool = False,
    ) -> Tensor:
        def score(order: Order, k: int) -> float:
            grades = order.grades.astype(np.int64) if weighted else None
            if divisor == "retrieved" and len(order.ends) and k < self.total:
                return _extreme_over_found(order, grades, k)
            found = int(np.searchsorted(order.ranks, k, side="right"))
            sums = _precisions(order, grades, found).sum()
            return sums / max(1, found if divisor == "retrieved" else len(order.ranks))

        return self._map(score, top_k)

    def precision(self, top_k: int | Tensor) -> Tensor:
        return self._map(lambda order, k: np.searchsorted(order.ranks, k, side="right") / k, top_k)

    def ndcg(self, top_k: int | None = None) -> Tensor:
        cuts = self.cuts(top_k).cpu()
        levels = 1 + max((int(order.grades.max(initial=0)) for order in self.orders), default=0)
        discounts = cumulative_discounts(int(cuts.max()), cuts.device)
        each, gain = discounts.diff().numpy(), gains(levels, cuts.device).numpy()
        counts = [np.bincount(order.grades, minlength=levels) for order in self.orders]
        counts = torch.from_numpy(np.stack(counts))
        counts[:, 0] = self.total - counts.sum(dim=1)
        best = ideal_gains(counts, cuts, discounts)

        def score(order: Order, k: int) -> float:
            found = np.searchsorted(order.ranks, k, side="right")
            gained = gain[order.grades[:found].astype(np.int64)]
            return float(gained @ each[order.ranks[:found] - 1])

        return self._map(score, top_k) / torch.where(best > 0, best, 1).to(self.num_relevant.device)

    def reciprocal_rank(self) -> Tensor:
        return self._map(lambda order, k: 1 / order.ranks[0] if len(order.ranks) else 0.0, None)

    def hits_by_rank(self, weights: Tensor) -> Tensor:
        hits = np.zeros(self.total)
        for order, weight in zip(self.orders, weights.tolist(), strict=True):
            hits[order.ranks - 1] += weight
        return torch.from_numpy(hits).to(self.num_relevant.device)

    def _map(self, score: Callable[[Order, int], float], top_k: int | Tensor | None) -> Tensor:
        cuts = self.cuts(top_k)
        pairs = zip(self.orders, cuts.tolist(), strict=True)
        return torch.tensor([score(*pair) for pair in pairs], dtype=torch.float64).to(cuts.device)


def extreme_orders(counts: Tensor, best: bool) -> Iterator[Order]:
    """Yield the best or worst order of each query, from its items by group of ties and grade."""
    levels = np.arange(counts.shape[2])
    levels = np.append(levels[:0:-1], 0) if best else levels
    for by_group in counts.cpu().numpy():
        sizes = by_group[:, levels].ravel().astype(np.int64)
        ends = sizes.cumsum()
        sizes[np.tile(levels, len(by_group)) == 0] = 0
        # Ranks count on from where a run of equal items starts.
        skipped = ends - sizes.cumsum()
        ranks = np.arange(1, sizes.sum() + 1) + np.repeat(skipped, sizes)
        grades = np.repeat(np.tile(levels, len(by_group)), sizes)
        yield Order(ranks, grades, by_group.sum(axis=1).cumsum(), best)


def _precisions(order: Order, grades: np.ndarray | None, found: int) -> np.ndarray:
    """Return the precision, or the mean grade so far, at each of the first relevant items."""
    if grades is None:
        return np.arange(1, found + 1) / order.ranks[:found]
    return grades[:found].cumsum() / order.ranks[:found]


def _extreme_over_found(order: Order, grades: np.ndarray | None, k: int) -> float:
    """Return the largest or smallest AP@`k` over all orders, if a cut splits a group of ties.

    The relevant items of the group that fall before the cut can be as many as they will, from
    `least` to `most`. Each number of them has its best order, with all of them in front and the
    highest grades first, and its worst, with all of them just before the cut and the lowest first.
    """
    group = int(np.searchsorted(order.ends, k, side="right"))
    before = int(order.ends[group - 1]) if group else 0
    both_ends = before, int(order.ends[group])
    hits, hits_after = np.searchsorted(order.ranks, both_ends, side="right").tolist()
    places, relevant = k - before, int(hits_after - hits)
    least = max(0, places + relevant - int(order.ends[group]) + before)
    most = min(places, relevant)
    if order.best:
        sums = np.append(0.0, _precisions(order, grades, hits + most).cumsum())
        found = np.arange(hits + least, hits + most + 1)
        return float((sums[found] / found.clip(min=1)).max())
    weights = np.ones(len(order.ranks), dtype=np.int64) if grades is None else grades
    sum_before = _precisions(order, grades, hits).sum()
    so_far = weights[:hits].sum() + weights[hits : hits + most].cumsum()

    def score(found: int) -> float:
        sums = sum_before + (so_far[:found] / np.arange(k - found + 1, k + 1)).sum()
        return sums / max(1, hits + found)

    return _smallest(score, least if hits + least else 0, most) if hits + least else 0.0


def _smallest(score: Callable[[int], float], low: int, high: int) -> float:
    """Return the smallest value of a function that falls and then rises."""
    while low < high:
        middle = (low + high) // 2
        if score(middle + 1) < score(middle):
            low = middle + 1
        else:
            high = middle
    return float(score(low))
