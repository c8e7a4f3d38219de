"""Rankings by Hamming distance: one pass over the database, and every score of it."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

import torch
from torch import Tensor

from pml_hashing._checks import check_choice, check_integer
from pml_hashing.evaluation import _asymmetric, _cpu, _gpu
from pml_hashing.evaluation._orders import Order, Orders, extreme_orders
from pml_hashing.evaluation._rankings import Rankings, TieGroups, values_at_a_time
from pml_hashing.evaluation._relevance import RelevanceLike
from pml_hashing.evaluation._retrieval import Retrieval
from pml_hashing.evaluation._scores import QueryScores, ScoresOfBlock
from pml_hashing.evaluation.metrics import LookupMetric, Metric, NumRelevant
from pml_hashing.evaluation.metrics.precision import precision_by_radius, recall_by_radius

Ties: TypeAlias = Literal["expected", "stable", "optimistic", "pessimistic"]
"""`"expected"`: the mean over all orders inside ties. `"stable"`: items at equal distance in
database order. `"optimistic"` and `"pessimistic"`: the largest and smallest value over all orders.
"""
TIES: tuple[Ties, ...] = ("expected", "stable", "optimistic", "pessimistic")

Scorer: TypeAlias = Metric | Callable[[QueryScores], Tensor]
"""A metric, or a function of an object with the methods of `HammingRanking`."""

Key = TypeVar("Key")

RANKED_AT_A_TIME = 2**18  # items of rankings in one order that are scored together


class LookupOptions(TypedDict, total=False):
    """Options of `HammingRanking` that hold for lookups within a radius, too."""

    relevance: RelevanceLike | None
    query_in_database: bool
    block_size: int | None


class RankingOptions(LookupOptions, total=False):
    """All options of `HammingRanking`."""

    ties: Ties
    asymmetric: bool


class HammingRanking(QueryScores):
    r"""The ranking of a database by its Hamming distance to each of many queries.

    The database is counted once, by query and distance, when the first score is asked for; all
    others come from the counts. Only `ties="stable"` and `asymmetric=True`, which need an order, go
    through the database again for each call: with these, ask `score` for many at once.

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
            of its own ranking. Its code, unless `asymmetric`, and its labels must be the same.
        asymmetric: Whether to rank by the inner product of the real query and the binary code of
            an item, instead of the Hamming distance. It is exact: equal products are ties.
        block_size: Pairs of a query and an item that are held at a time, some 10 bytes each on the
            CPU and 30 on a GPU. `"stable"` and `asymmetric` hold at least all pairs of one query.
            A number that suits the device if `None`.

    Raises:
        TypeError: If codes are packed on one side only, or of a wrong dtype, or labels or
            `relevance` are not integers.
        ValueError: If a shape or length is wrong, a side is empty, codes are NaN or infinite, the
            labels of the two sides differ in kind, multi-hot rows hold other values than 0 and 1
            or have a single column, `relevance` is negative or comes with labels, item `i` is not
            query `i` (`query_in_database`), or `ties` or `block_size` is out of range.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import HammingRanking
        >>> from pml_hashing.evaluation.metrics import AveragePrecision
        >>> query, database = torch.ones(1, 3), torch.ones(4, 3)
        >>> database[1, 0] = database[2, 1] = database[3, 2] = -1
        >>> label, labels = torch.tensor([7]), torch.tensor([7, 1, 7, 2])
        >>> ranking = HammingRanking(query, label, database, labels)  # ranks 1, and 2, 3 or 4
        >>> ranking.precision(2)
        tensor([0.6667], dtype=torch.float64)
        >>> scores = ranking.score({"ap": AveragePrecision(), "r": lambda s: s.recall(1)})
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
        relevance: RelevanceLike | None = None,
        query_in_database: bool = False,
        asymmetric: bool = False,
        block_size: int | None = None,
    ) -> None:
        check_choice(ties, TIES, "ties")
        self.ties: Ties = ties
        data = query_codes, query_labels, database_codes, database_labels
        self.retrieval = Retrieval(*data, query_in_database, block_size, relevance, asymmetric)

    def evaluate(self, metric: Metric | LookupMetric) -> Tensor:
        """Return the score of every query under any metric, such as your own."""
        if isinstance(metric, LookupMetric):
            return metric.of_counts(self.counts)
        return self.score({"": metric})[""]

    @cached_property
    def counts(self) -> Tensor:
        """Items by distance and grade, `(num_queries, code_length + 1, num_grades)`, integers."""
        if self.retrieval.asymmetric:
            raise ValueError("Expected Hamming distances to count by, got `asymmetric=True`.")
        return self._kernel.count_by_distance(self.retrieval)

    @property
    def num_relevant(self) -> Tensor:
        """Number of relevant items of every query, int64."""
        return self._num_relevant

    @cached_property
    def _num_relevant(self) -> Tensor:
        if self.retrieval.asymmetric:
            return self.evaluate(NumRelevant())
        return self.counts[:, :, 1:].sum(dim=(1, 2))

    @property
    def num_queries_without_relevant_items(self) -> int:
        """Number of queries without relevant items. They score 0 in everything."""
        return int((self.num_relevant == 0).sum())

    def precision_by_radius(self) -> Tensor:
        """Return the share of relevant items within each radius from 0 to `code_length`.

        The shape is `(num_queries, code_length + 1)`. Where nothing is within a radius, it is 0.
        """
        return precision_by_radius(self.counts)

    def recall_by_radius(self) -> Tensor:
        """Return the share of the relevant items that is within each radius, as above."""
        return recall_by_radius(self.counts)

    def precision_by_rank(self, top_k: int | None = None) -> Tensor:
        """Return the means over all queries of `precision(k)`, for every k up to `top_k`."""
        return self._by_rank(Rankings.precision_by_rank, top_k)

    def recall_by_rank(self, top_k: int | None = None) -> Tensor:
        """Return the means over all queries of `recall(k)`, for every k up to `top_k`."""
        return self._by_rank(Rankings.recall_by_rank, top_k)

    def score(self, metrics: Mapping[str, Scorer]) -> dict[str, Tensor]:
        """Return many scores in one pass.

        Args:
            metrics: By name, metrics, or functions of an object with the methods of this class,
                which stands for a block of queries.
        """
        return self.pass_over(metrics, {})[0]

    def pass_over(
        self, metrics: Mapping[Key, Scorer], curves: Mapping[str, Callable[[Rankings], Tensor]]
    ) -> tuple[dict[Key, Tensor], dict[str, Tensor]]:
        """Return scores of every query, and curves as means over all queries, in one pass."""
        scores: dict[Key, list[Tensor]] = {name: [] for name in metrics}
        sums: dict[str, Tensor] = {}
        for rankings in self._blocks():
            block = ScoresOfBlock(rankings)
            for name, metric in metrics.items():
                of_block = block.evaluate(metric) if isinstance(metric, Metric) else metric(block)
                scores[name].append(of_block)
            for name, curve in curves.items():
                part = curve(rankings)
                sums[name] = sums[name].add_(part) if name in sums else part
        size = len(self.retrieval.query_codes)
        means = {name: total / size for name, total in sums.items()}
        return {name: torch.cat(parts) for name, parts in scores.items()}, means

    def _by_rank(self, curve: Callable[[Rankings], Tensor], top_k: int | None) -> Tensor:
        if top_k is not None:
            check_integer(top_k, 1, "top_k")
        return self.pass_over({}, {"": curve})[1][""][:top_k]

    @property
    def _kernel(self) -> Any:
        return _cpu if self.retrieval.device.type == "cpu" else _gpu

    def _blocks(self) -> Iterator[TieGroups | Orders]:
        retrieval = self.retrieval
        if self.ties == "stable":
            kernel = _asymmetric if retrieval.asymmetric else self._kernel
            for orders in kernel.orders(retrieval):
                ordered = [Order(ranks, grades) for ranks, grades in orders]
                yield Orders(ordered, retrieval.total, retrieval.device)
            return
        for counts in self._blocks_of_counts():
            if self.ties == "expected":
                yield TieGroups(counts)
            else:
                orders = list(extreme_orders(counts, best=self.ties == "optimistic"))
                yield Orders(orders, retrieval.total, retrieval.device)

    def _blocks_of_counts(self) -> Iterator[Tensor]:
        if self.retrieval.asymmetric:
            return _asymmetric.group_counts(self.retrieval)
        most, of_query = values_at_a_time(self.retrieval.device), self.counts[0].numel()
        if self.ties != "expected":  # every relevant item is listed
            most, of_query = RANKED_AT_A_TIME, max(of_query, self.retrieval.total)
        return iter(self.counts.split(max(1, most // of_query)))
