"""The scores of a Hamming ranking as a PML accuracy calculator."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pml_hashing._arrays import from_array
from pml_hashing._checks import check_choice
from pml_hashing._compat import AccuracyCalculator
from pml_hashing.evaluation._rankings import Rankings
from pml_hashing.evaluation._retrieval import Retrieval
from pml_hashing.evaluation.metrics import Metric, reported_metrics
from pml_hashing.evaluation.ranking import TIES, HammingRanking, RankingOptions, Ties

PREFIX = "hamming_"  # of the names of our metrics: every other metric is PML's

Names: TypeAlias = tuple[str, ...] | list[str]


class HammingAccuracyCalculator(AccuracyCalculator):
    r"""PML's accuracy calculator with the metrics of the hashing literature.

    They are those of the table in `pml_hashing.evaluation.metrics`, with `hamming_` before their
    names: `hamming_mean_average_precision`, `hamming_mean_average_precision_at_100`,
    `hamming_precision_within_radius_2`, and so on. `get_curr_metrics` lists them.

    These, and those that a subclass adds as PML has it (`calculate_...`, `requires_knn`), are
    computed where `include` is empty. Any of them is a valid `primary_metric` of PML's
    `HookContainer`. PML's own metrics (`precision_at_1`, `mean_average_precision_at_r`, ...) keep
    PML's meaning, and are computed only if `include` names them. `get_accuracy` leaves the scores
    of every query in `query_scores`, and in `curves` the means over all queries of
    `precision_by_radius`, `recall_by_radius`, `precision_by_rank` and `recall_by_rank`.

    `get_accuracy` takes packed codes (uint8), binary codes (-1 and 1), or real codes. Real codes
    are binarized first, for PML's metrics too, so that all of them score the Hamming ranking.
    Labels are class ids `(n,)` or `(n, 1)`, whole numbers of any dtype, or multi-hot rows
    `(n, num_classes)`, for which PML's metrics need a `label_comparison_fn`. Where the queries are
    the first rows of the reference (`reference=None` or `ref_includes_query=True`), each is left
    out of its own ranking.

    Args:
        include: Names of the metrics to compute. All those of the table if empty.
        exclude: Names of metrics not to compute.
        avg_of_avgs: Whether means are means of the classes' means, of all metrics.
        return_per_class: Whether the value of each class is returned, of all metrics.
        k: PML's number of neighbors, for PML's metrics.
        label_comparison_fn: PML's, for PML's metrics.
        device: Where to compute. The GPU if there is one, as in PML, if `None`.
        knn_func: PML's, for PML's metrics.
        kmeans_func: PML's, for PML's metrics.
        top_k: The numbers of items $k$ of the table, or a single one.
        radius: The radius $r$ of the table, in bits.
        ties: `"expected"` for the mean over all orders inside ties, `"stable"` for the order of
            the reference, `"optimistic"` or `"pessimistic"` for the best or the worst. PML's
            metrics take ties in the order that `knn_func` gives them.

    Raises:
        TypeError: If `top_k` or `radius` is not an integer, or `include` or `exclude` not a tuple
            or list.
        ValueError: If `top_k`, `radius`, `ties` or a metric's name is out of range.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import HammingAccuracyCalculator
        >>> calculator = HammingAccuracyCalculator(top_k=2, device="cpu")
        >>> codes = torch.tensor([[0.3, 0.9], [0.1, 0.2], [-0.5, -0.1]])
        >>> scores = calculator.get_accuracy(
        ...     codes[:1], torch.tensor([1]), codes, torch.tensor([1, 2, 1])
        ... )
        >>> for name in ("mean_average_precision", "recall_at_2", "precision_within_radius_2"):
        ...     print(f"{name} {scores['hamming_' + name]:.4f}")
        mean_average_precision 0.7083
        recall_at_2 0.5000
        precision_within_radius_2 0.6667
        >>> calculator.curves["recall_by_rank"]
        tensor([0.2500, 0.5000, 1.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        include: Names = (),
        exclude: Names = (),
        avg_of_avgs: bool = False,
        return_per_class: bool = False,
        k: int | Literal["max_bin_count"] | None = None,
        label_comparison_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
        knn_func: Callable[..., Any] | None = None,
        kmeans_func: Callable[..., Any] | None = None,
        *,
        top_k: int | Iterable[int] = (100,),
        radius: int = 2,
        ties: Ties = "expected",
    ) -> None:
        self.top_k = tuple(top_k) if isinstance(top_k, Iterable) else (top_k,)
        check_choice(ties, TIES, "ties")
        self.radius = radius
        self.ties: Ties = ties
        self.curves: dict[str, Tensor] = {}
        self.query_scores: dict[str, Tensor] = {}
        table = reported_metrics(self.top_k, radius)
        self._reported = {PREFIX + name: reported for name, reported in table.items()}
        for name in self._reported:  # PML finds metrics by the names of attributes
            setattr(self, f"calculate_{name}", partial(self._summarize, name))
        included = include if len(include) else self._names_of_default_metrics()
        device = None if device is None else torch.device(device)
        options = avg_of_avgs, return_per_class, k, label_comparison_fn, device
        super().__init__(included, exclude, *options, knn_func, kmeans_func)

    def _names_of_default_metrics(self) -> list[str]:
        """Return the metrics of the table, and those that a subclass adds as PML has it."""
        methods = [name for name in dir(self) if name.startswith("calculate_")]
        added = [name for name in methods if not hasattr(AccuracyCalculator, name)]
        return list(
            dict.fromkeys([*self._reported, *(name[len("calculate_") :] for name in added)])
        )

    def get_accuracy(
        self,
        query: Tensor | np.ndarray,
        query_labels: Tensor | np.ndarray,
        reference: Tensor | np.ndarray | None = None,
        reference_labels: Tensor | np.ndarray | None = None,
        ref_includes_query: bool = False,
        include: Names = (),
        exclude: Names = (),
    ) -> dict[str, float | list[float]]:
        """Return the value of every metric, by name.

        Args:
            query: Packed, binary or real codes of the queries.
            query_labels: Class ids `(n,)` or `(n, 1)`, or multi-hot rows `(n, num_classes)`.
            reference: Codes of the database, of the same kind. The queries if `None`.
            reference_labels: Their labels, of the same kind.
            ref_includes_query: Whether the first rows of the reference are the queries, which
                then are left out of their own rankings.
            include: Names of the metrics to compute, out of the constructor's. All if empty.
            exclude: Names of metrics not to compute.

        Raises:
            TypeError: As `average_precision`, under the names of its arguments.
            ValueError: As `average_precision`, and if `ref_includes_query` is true of a reference
                that does not begin with the queries, or PML's metrics are asked of multi-hot labels
                without a `label_comparison_fn`.
        """
        if reference is None:
            reference, reference_labels, ref_includes_query = query, query_labels, True
        queries = (
            self._to_tensor(query, "query"),
            self._to_labels(query_labels, "query_labels"),
        )
        database = (
            self._to_tensor(reference, "reference"),
            self._to_labels(reference_labels, "reference_labels"),
        )
        options: RankingOptions = {"ties": self.ties, "query_in_database": ref_includes_query}
        ranking = HammingRanking(*queries, *database, **options)
        functions = self.get_function_dict(include, exclude)
        own = {name: f for name, f in functions.items() if name in self._reported}
        scores = self._score_queries(ranking, own)
        self.query_scores = {n: v for n, v in scores.items() if not self._reported[n].summary}
        accuracies = self._get_accuracy(own, ranking=ranking, scores=scores) | self._pml_accuracy(
            ranking.retrieval, [name for name in functions if name not in own]
        )
        self.curr_function_dict = functions
        return {name: accuracies[name] for name in functions}

    def _to_tensor(self, array: Any, name: str) -> Any:
        tensor = from_array(array, name) if isinstance(array, np.ndarray) else array
        return tensor.to(self.device) if isinstance(tensor, Tensor) else tensor

    def _to_labels(self, array: Any, name: str) -> Any:
        labels = self._to_tensor(array, name)
        if not isinstance(labels, Tensor):
            return labels
        labels = labels.squeeze(1) if labels.ndim == 2 else labels
        if labels.ndim != 1 or not labels.is_floating_point():
            return labels
        # PML's two-stream tester makes class ids floats. The difference of infinite ones is NaN.
        is_whole = bool((labels - labels.trunc() == 0).all())
        return labels.long() if is_whole else labels

    def _score_queries(self, ranking: HammingRanking, names: Iterable[str]) -> dict[str, Tensor]:
        """Return our metrics of these names for every query, and keep the curves."""
        asked = {name: self._reported[name].metric for name in names}
        in_order = {m: m for m in asked.values() if isinstance(m, Metric)}
        by_rank = {f.__name__: f for f in (Rankings.precision_by_rank, Rankings.recall_by_rank)}
        scores, curves = ranking.pass_over(in_order, by_rank)
        curves["precision_by_radius"] = ranking.precision_by_radius().mean(dim=0)
        curves["recall_by_radius"] = ranking.recall_by_radius().mean(dim=0)
        self.curves = {name: curve.cpu() for name, curve in curves.items()}
        return {
            name: scores[m] if isinstance(m, Metric) else ranking.evaluate(m)
            for name, m in asked.items()
        }

    def _summarize(
        self, name: str, *, ranking: HammingRanking, scores: dict[str, Tensor]
    ) -> float | list[float]:
        reported, values = self._reported[name], scores[name]
        if reported.summary is not None:
            return reported.summary(values)
        labels = ranking.retrieval.query_labels
        if reported.needs_relevant_items:
            kept = ranking.num_relevant > 0
            values, labels = values[kept], labels[kept]
        if not (self.avg_of_avgs or self.return_per_class):
            return values.sum().item() / max(1, len(values))
        _, classes, sizes = labels.unique(dim=0, return_inverse=True, return_counts=True)
        means = values.new_zeros(len(sizes)).index_add(0, classes, values) / sizes
        return means.tolist() if self.return_per_class else means.sum().item() / max(1, len(means))

    def _pml_accuracy(self, retrieval: Retrieval, names: list[str]) -> dict[str, Any]:
        """Return the values of PML's metrics of these names, for binary codes."""
        if not names:  # to PML, no name means all of them
            return {}
        labels = retrieval.query_labels, retrieval.database_labels
        if self.label_comparison_fn is torch.eq:
            labels = _renumber(*labels)
        sides = retrieval.query_codes, retrieval.database_codes
        query, database = (retrieval.signs(codes) for codes in sides)
        data = query, labels[0], database, labels[1]
        return super().get_accuracy(*data, retrieval.query_in_database, include=names)


def _renumber(query_labels: Tensor, database_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return class ids from 0 on, in the same order: PML casts them to float32."""
    if query_labels.ndim == 2:
        raise ValueError(
            "Expected a `label_comparison_fn` for PML's metrics and multi-hot labels, got none."
        )
    ids = torch.cat([query_labels, database_labels]).unique(return_inverse=True)[1]
    return ids[: len(query_labels)], ids[len(query_labels) :]
