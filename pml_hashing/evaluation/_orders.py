"""Rankings in one order: that of the database inside ties, the best or the worst."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pml_hashing.evaluation._rankings import Rankings, TopK


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


class Orders(Rankings):
    """The rankings of a block of queries, each in one order.

    Args:
        orders: One for each query.
        total: Length of every ranking.
        device: Of the results; the work is done on the CPU.
    """

    def __init__(self, orders: list[Order], total: int, device: torch.device) -> None:
        self.orders, self.total = orders, total
        self.num_relevant = torch.tensor([len(order.ranks) for order in orders], device=device)

    def hits_by_rank(self, weights: Tensor) -> Tensor:
        hits = np.zeros(self.total)
        for order, weight in zip(self.orders, weights.tolist(), strict=True):
            hits[order.ranks - 1] += weight
        return torch.from_numpy(hits).to(self.num_relevant.device)

    def map(self, score: Callable[[Order, int], float], top_k: TopK) -> Tensor:
        """Return `score` of each ranking and of the rank at which it is cut."""
        cuts = self.cuts(top_k)
        pairs = zip(self.orders, cuts.tolist(), strict=True)
        scores = [score(*pair) for pair in pairs]
        return torch.tensor(scores, dtype=torch.float64, device=cuts.device)


def extreme_orders(counts: Tensor, best: bool) -> Iterator[Order]:
    """Yield the best or worst order of each query, from its items by group of ties and grade."""
    levels = np.arange(counts.shape[2])
    levels = levels[::-1] if best else levels
    for by_group in counts.cpu().numpy():
        sizes = by_group[:, levels].ravel()  # a copy
        ends = sizes.cumsum()
        sizes[np.tile(levels, len(by_group)) == 0] = 0
        # Ranks count on from where a run of equal items starts.
        skipped = ends - sizes.cumsum()
        ranks = np.arange(1, sizes.sum() + 1) + np.repeat(skipped, sizes)
        grades = np.repeat(np.tile(levels, len(by_group)), sizes)
        yield Order(ranks, grades, by_group.sum(axis=1).cumsum(), best)
