"""Rankings by Hamming distance: one pass over the database, and every score of it."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least, check_choice
from pml_hashing.evaluation import _asymmetric, _cpu, _gpu
from pml_hashing.evaluation._expected import ExpectedScores
from pml_hashing.evaluation._ordered import Order, OrderedScores, extreme_orders
from pml_hashing.evaluation._relevance import Given
from pml_hashing.evaluation._retrieval import Retrieval
from pml_hashing.evaluation._scores import DIVISORS, Divisor, QueryScores

Ties: TypeAlias = Literal["expected", "stable", "optimistic", "pessimistic"]
"""`"expected"`: the mean over all orders inside ties. `"stable"`: items at equal distance in
database order. `"optimistic"` and `"pessimistic"`: the largest and smallest value over all orders.
"""
TIES: tuple[Ties, ...] = ("expected", "stable", "optimistic", "pessimistic")

COUNTERS_AT_A_TIME = 2**18  # that are scored together: a few megabytes in float64


class HammingRanking:
    r"""The ranking of a database by its Hamming distance to each of many queries.

    The database is counted once, by query and distance, when the first score is asked for; all
    others come from the counts. Only `ties="stable"` and `asymmetric=True`, which need an order,
    go through the database again for each call: there, ask `score` for many at once.

    All scores are of every query, float64, `(num_queries,)`, on the device of `query_codes`.
    Take their mean, or see `bootstrap_interval` and `mean_by_class`.

    Args:
        query_codes: Codes of the queries: real (their signs count) or binary `(num_queries,
            code_length)`, or packed (uint8).
        query_labels: Class ids `(num_queries,)` or multi-hot rows `(num_queries, num_classes)`.
            An item is relevant if it shares a label with the query, and its grade is the number of
            labels that it shares.
        database_codes: Codes of the database, of the same kind and length.
        database_labels: Labels of the database, of the same kind.
        ties: What holds for items at equal distance: `"expected"` for the mean over all orders, in
            closed form, `"stable"` for the order of the database, `"optimistic"` and
            `"pessimistic"` for the largest and smallest value over all orders.
        relevance: Instead of labels, which then are `None`: a matrix `(num_queries,
            num_database)`, or a function that returns its part for a slice of queries and a slice
            of items. Booleans, or grades from 0 on.
        query_in_database: Whether item `i` of the database is query `i`, which then is left out
            of its own ranking.
        asymmetric: Whether to rank by the inner product of the real query and the binary code of
            an item, instead of the Hamming distance. It is exact: equal products are ties.
        block_size: Pairs of a query and an item that are held at a time, some 10 bytes each on the
            CPU and 30 on a GPU. `"stable"` and `asymmetric` hold at least all pairs of one query.
            A number that suits the device if `None`.

    Raises:
        TypeError: If codes are packed on one side only, or of a wrong dtype, or labels or
            `relevance` are no integers.
        ValueError: If a shape or length is wrong, a side is empty, codes are NaN or infinite, the
            labels of the two sides differ in kind, multi-hot rows hold other values than 0 and 1,
            `relevance` is negative or comes with labels, or `ties` or `block_size` is out of range.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import HammingRanking
        >>> query, database = torch.ones(1, 3), torch.ones(4, 3)
        >>> database[1, 0] = database[2, 1] = database[3, 2] = -1
        >>> label, labels = torch.tensor([7]), torch.tensor([7, 1, 7, 2])
        >>> ranking = HammingRanking(query, label, database, labels)  # ranks 1, and 2, 3 or 4
        >>> ranking.precision(2)
        tensor([0.6667], dtype=torch.float64)
        >>> scores = ranking.score(
        ...     {"ap": lambda s: s.average_precision(), "r": lambda s: s.recall(1)}
        ... )
        >>> scores["ap"], scores["r"]
        (tensor([0.8611], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """

    def __init__(
        self,
        query_codes: Tensor,
        query_labels: Tensor | None,
        database_codes: Tensor,
        database_labels: Tensor | None,
        *,
        ties: Ties = "expected",
        relevance: Given | None = None,
        query_in_database: bool = False,
        asymmetric: bool = False,
        block_size: int | None = None,
    ) -> None:
        check_choice(ties, TIES, "ties")
        self.ties: Ties = ties
        self.retrieval = Retrieval(
            query_codes,
            query_labels,
            database_codes,
            database_labels,
            query_in_database,
            block_size,
            relevance,
            asymmetric,
        )

    @cached_property
    def counts(self) -> Tensor:
        """Items by distance and grade, `(num_queries, code_length + 1, num_grades)`, integers."""
        if self.retrieval.asymmetric:
            raise ValueError("Expected Hamming distances to count by, got `asymmetric=True`.")
        return self._kernel.count_by_distance(self.retrieval)

    @cached_property
    def num_relevant(self) -> Tensor:
        """Number of relevant items of every query, int64."""
        if self.retrieval.asymmetric:
            return self._score(lambda scores: scores.num_relevant)
        return self.counts[:, :, 1:].sum(dim=(1, 2))

    @property
    def num_lone_queries(self) -> int:
        """Number of queries without a relevant item. They score 0 in everything."""
        return int((self.num_relevant == 0).sum())

    def average_precision(
        self,
        top_k: int | None = None,
        *,
        divisor: Divisor = "retrieved",
        weighted: bool = False,
    ) -> Tensor:
        r"""Return $\sum_{r \le k} P(r)\, \delta(r)$ over a number of relevant items.

        Args:
            top_k: Number $k$ of items that count. All if `None`, or if there are fewer.
            divisor: `"retrieved"` divides by the relevant items among the first $k$, as the
                hashing literature does, `"relevant"` by all that there are, as PML does.
            weighted: Whether the mean grade of the first $r$ items takes the place of $P(r)$, the
                share of relevant ones: the weighted AP of multi-label retrieval.
        """
        check_top_k(top_k)
        check_choice(divisor, DIVISORS, "divisor")
        return self._score(lambda s: s.average_precision(top_k, divisor=divisor, weighted=weighted))

    def precision(self, top_k: int) -> Tensor:
        """Return the share of relevant items among the first `top_k`."""
        check_integer(top_k, 1, "top_k")
        return self._score(lambda s: s.precision(top_k))

    def recall(self, top_k: int) -> Tensor:
        """Return the share of the relevant items that is among the first `top_k`."""
        check_integer(top_k, 1, "top_k")
        return self._score(lambda s: s.recall(top_k))

    def r_precision(self) -> Tensor:
        """Return the precision among as many items as are relevant."""
        return self._score(lambda s: s.r_precision())

    def average_precision_at_r(self) -> Tensor:
        """Return the average precision among as many items as are relevant: PML's MAP@R."""
        return self._score(lambda s: s.average_precision_at_r())

    def reciprocal_rank(self) -> Tensor:
        """Return one over the rank of the first relevant item."""
        return self._score(lambda s: s.reciprocal_rank())

    def ndcg(self, top_k: int | None = None) -> Tensor:
        r"""Return the discounted gain, over that of the best ranking there could be.

        $$\mathrm{DCG@}k = \sum_{r \le k} \frac{2^{g(r)} - 1}{\log_2(r + 1)}$$
        """
        check_top_k(top_k)
        return self._score(lambda s: s.ndcg(top_k))

    def precision_by_radius(self) -> Tensor:
        """Return the share of relevant items within each radius from 0 to `code_length`.

        The shape is `(num_queries, code_length + 1)`. Where nothing is within a radius, it is 0.
        """
        counts = self.counts.cumsum(dim=1)
        return counts[:, :, 1:].sum(dim=2) / counts.sum(dim=2).clamp(min=1).double()

    def recall_by_radius(self) -> Tensor:
        """Return the share of the relevant items that is within each radius, as above."""
        hits = self.counts[:, :, 1:].sum(dim=2).cumsum(dim=1)
        return hits / hits[:, -1:].clamp(min=1).double()

    def precision_by_rank(self, top_k: int | None = None) -> Tensor:
        """Return the means over all queries of `precision(k)`, for every k up to `top_k`."""
        check_top_k(top_k)
        return self.pass_over({}, {"": precision_curve})[1][""][:top_k]

    def recall_by_rank(self, top_k: int | None = None) -> Tensor:
        """Return the means over all queries of `recall(k)`, for every k up to `top_k`."""
        check_top_k(top_k)
        return self.pass_over({}, {"": recall_curve})[1][""][:top_k]

    def score(self, metrics: Mapping[str, Callable[[QueryScores], Tensor]]) -> dict[str, Tensor]:
        """Return many scores in one pass.

        Args:
            metrics: Functions of an object with the methods of this class, which stands for a block
                of queries.
        """
        return self.pass_over(metrics, {})[0]

    def pass_over(
        self,
        metrics: Mapping[str, Callable[[QueryScores], Tensor]],
        curves: Mapping[str, Callable[[QueryScores], Tensor]],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return scores of every query, and curves as means over all queries, in one pass."""
        scores: dict[str, list[Tensor]] = {name: [] for name in metrics}
        sums: dict[str, Tensor] = {}
        for block in self._blocks():
            for name, metric in metrics.items():
                scores[name].append(metric(block))
            for name, curve in curves.items():
                part = curve(block)
                sums[name] = sums[name].add_(part) if name in sums else part
        size = len(self.retrieval.query_codes)
        return (
            {name: torch.cat(parts) for name, parts in scores.items()},
            {name: total / size for name, total in sums.items()},
        )

    def _score(self, metric: Callable[[QueryScores], Tensor]) -> Tensor:
        return self.score({"": metric})[""]

    @property
    def _kernel(self) -> Any:
        return _cpu if self.retrieval.device.type == "cpu" else _gpu

    def _blocks(self) -> Iterator[QueryScores]:
        retrieval = self.retrieval
        if self.ties == "stable":
            kernel = _asymmetric if retrieval.asymmetric else self._kernel
            for orders in kernel.orders(retrieval):
                ordered = [Order(ranks, grades) for ranks, grades in orders]
                yield OrderedScores(ordered, retrieval.total, retrieval.device)
            return
        for counts in self._blocks_of_counts():
            if self.ties == "expected":
                yield ExpectedScores(counts)
            else:
                orders = list(extreme_orders(counts, best=self.ties == "optimistic"))
                yield OrderedScores(orders, retrieval.total, retrieval.device)

    def _blocks_of_counts(self) -> Iterator[Tensor]:
        if self.retrieval.asymmetric:
            return _asymmetric.group_counts(self.retrieval)
        counters = self.counts[0].numel()
        if self.ties != "expected":  # of which every relevant item is listed
            counters = max(counters, self.retrieval.total)
        return iter(self.counts.split(max(1, COUNTERS_AT_A_TIME // counters)))


def precision_curve(scores: QueryScores) -> Tensor:
    """Return the sums over a block of queries of the precision at every rank."""
    hits = scores.hits_by_rank(torch.ones_like(scores.num_relevant, dtype=torch.float64))
    return hits.cumsum(dim=0) / torch.arange(1, len(hits) + 1, device=hits.device)


def recall_curve(scores: QueryScores) -> Tensor:
    """Return the sums over a block of queries of the recall at every rank."""
    return scores.hits_by_rank(1 / scores.num_relevant.clamp(min=1).double()).cumsum(dim=0)


def check_top_k(top_k: object) -> None:
    """Raise unless `top_k` is a positive integer or `None`."""
    if top_k is not None:
        check_integer(top_k, 1, "top_k")


def check_integer(value: object, minimum: int, name: str) -> None:
    """Raise unless `value` is an integer of at least `minimum`."""
    if not isinstance(value, Integral):
        raise TypeError(f"Expected `{name}` to be an integer, got {value!r}.")
    check_at_least(int(value), minimum, name)
