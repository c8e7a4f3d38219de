"""The scores of a Hamming ranking as a PML accuracy calculator."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_choice
from pml_hashing._compat import AccuracyCalculator
from pml_hashing.evaluation._metrics import BOUNDS, LONE_QUERIES, MEAN, PREFIX, ranking_metrics
from pml_hashing.evaluation._retrieval import Retrieval
from pml_hashing.evaluation.ranking import (
    TIES,
    HammingRanking,
    Ties,
    check_integer,
    precision_curve,
    recall_curve,
)
from pml_hashing.evaluation.statistics import bootstrap_interval


class HammingAccuracyCalculator(AccuracyCalculator):
    r"""PML's accuracy calculator with the metrics of the hashing literature.

    | Metric | What it is the mean of, over all queries |
    | --- | --- |
    | `hamming_mean_average_precision` | average precision, over the relevant items found |
    | `hamming_mean_average_precision_at_{k}` | the same of the first $k$ items |
    | `hamming_pml_mean_average_precision`, `..._at_{k}` | average precision over all relevant |
    | `hamming_weighted_mean_average_precision`, `..._at_{k}` | average precision by shared labels |
    | `hamming_ndcg`, `hamming_ndcg_at_{k}` | normalized discounted gain by shared labels |
    | `hamming_precision_at_{k}`, `hamming_precision_at_1` | share of relevant among the first |
    | `hamming_recall_at_{k}` | share of the relevant items that is among the first $k$ |
    | `hamming_precision_within_radius_{r}` | share of relevant items within $r$ bits |
    | `hamming_recall_within_radius_{r}` | share of the relevant items that is within $r$ bits |
    | `hamming_r_precision` | precision among as many items as are relevant |
    | `hamming_mean_average_precision_at_r` | average precision among them, over all of them |
    | `hamming_mean_reciprocal_rank` | one over the rank of the first relevant item |
    | `hamming_mean_average_precision_low`, `..._high` | 95 % interval of the first line |
    | `hamming_num_lone_queries` | number of queries without a relevant item, no mean |

    Only `hamming_pml_...` leaves out queries without a relevant item, which score 0 elsewhere.

    These are computed where `include` is empty. Any of them is a valid `primary_metric` of PML's
    `HookContainer`. PML's own metrics (`precision_at_1`, `mean_average_precision_at_r`, ...) keep
    PML's meaning, and are computed only if `include` names them. `get_accuracy` leaves the values
    of every query in `query_scores`, and in `curves` the means over all queries of
    `precision_by_radius`, `recall_by_radius`, `precision_by_rank` and `recall_by_rank`.

    `get_accuracy` takes packed codes (uint8), binary codes (-1 and 1), or real codes. Real codes
    are binarized first, for PML's metrics too, so that all of them score the Hamming ranking.
    Labels are class ids `(n,)` or `(n, 1)`, or multi-hot rows `(n, num_classes)`, for which PML's
    metrics need a `label_comparison_fn`. Where the queries are the first rows of the reference
    (`reference=None` or `ref_includes_query=True`), each is left out of its own ranking.

    Args:
        include: Names of the metrics to compute. All those of the table if empty.
        exclude: Names of metrics not to compute.
        top_k: The numbers of items $k$ of the table, or a single one.
        radius: The radius $r$ of the table, in bits.
        ties: `"expected"` for the mean over all orders inside ties, `"stable"` for the order of
            the reference, `"optimistic"` or `"pessimistic"` for the best or the worst. PML's
            metrics take ties in the order that `knn_func` gives them.
        device: Where to compute. The GPU if there is one, as in PML, if `None`.
        **kwargs: PML's `avg_of_avgs` and `return_per_class`, which hold for all metrics, and `k`,
            `label_comparison_fn`, `knn_func` and `kmeans_func`, which hold for PML's.

    Raises:
        TypeError: If `top_k` or `radius` is no integer, or `include` or `exclude` no tuple or list.
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
        *,
        include: tuple[str, ...] | list[str] = (),
        exclude: tuple[str, ...] | list[str] = (),
        top_k: int | Iterable[int] = (100,),
        radius: int = 2,
        ties: Ties = "expected",
        device: torch.device | str | None = None,
        **kwargs: Any,
    ) -> None:
        self.top_k = tuple(top_k) if isinstance(top_k, Iterable) else (top_k,)
        for k in self.top_k:
            check_integer(k, 1, "top_k")
        check_integer(radius, 0, "radius")
        check_choice(ties, TIES, "ties")
        self.radius = radius
        self.ties: Ties = ties
        self.curves: dict[str, Tensor] = {}
        self.query_scores: dict[str, Tensor] = {}
        own = [*ranking_metrics(self.top_k), *self._radius_names, *BOUNDS, LONE_QUERIES]
        for name in own:  # PML finds metrics by the names of attributes
            setattr(self, f"calculate_{name}", partial(self._summarize, name))
        super().__init__(
            include=include if len(include) else own,
            exclude=exclude,
            device=None if device is None else torch.device(device),
            **kwargs,
        )

    @property
    def _radius_names(self) -> tuple[str, str]:
        suffix = f"within_radius_{self.radius}"
        return f"{PREFIX}precision_{suffix}", f"{PREFIX}recall_{suffix}"

    def get_accuracy(
        self,
        query: Tensor | np.ndarray,
        query_labels: Tensor | np.ndarray,
        reference: Tensor | np.ndarray | None = None,
        reference_labels: Tensor | np.ndarray | None = None,
        ref_includes_query: bool = False,
        include: tuple[str, ...] | list[str] = (),
        exclude: tuple[str, ...] | list[str] = (),
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
        ranking = HammingRanking(
            self._to_tensor(query),
            self._to_labels(query_labels),
            self._to_tensor(reference),
            self._to_labels(reference_labels),
            ties=self.ties,
            query_in_database=ref_includes_query,
        )
        if ref_includes_query:
            _check_queries_come_first(ranking.retrieval)
        functions = self.get_function_dict(include, exclude)
        own = {name: f for name, f in functions.items() if name.startswith(PREFIX)}
        self._score_queries(ranking, own)
        accuracies = self._get_accuracy(own, ranking=ranking) | self._pml_accuracy(
            ranking.retrieval, [name for name in functions if name not in own]
        )
        self.curr_function_dict = functions
        return {name: accuracies[name] for name in functions}

    def _to_tensor(self, array: Any) -> Any:
        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
        return tensor.to(self.device) if isinstance(tensor, Tensor) else tensor

    def _to_labels(self, array: Any) -> Any:
        labels = self._to_tensor(array)
        return labels.squeeze(1) if isinstance(labels, Tensor) and labels.ndim == 2 else labels

    def _score_queries(self, ranking: HammingRanking, names: Iterable[str]) -> None:
        """Note the values of all queries for our metrics of these names, and the curves."""
        by_radius = {
            "precision_by_radius": ranking.precision_by_radius(),
            "recall_by_radius": ranking.recall_by_radius(),
        }
        metrics = {
            name: metric.score
            for name, metric in ranking_metrics(self.top_k).items()
            if name in names or (name == MEAN and any(bound in names for bound in BOUNDS))
        }
        curves = {"precision_by_rank": precision_curve, "recall_by_rank": recall_curve}
        self.query_scores, by_rank = ranking.pass_over(metrics, curves)
        for name, values in zip(self._radius_names, by_radius.values(), strict=True):
            if name in names:
                self.query_scores[name] = values[:, min(self.radius, values.shape[1] - 1)]
        means = {name: values.mean(dim=0) for name, values in by_radius.items()}
        self.curves = {name: curve.cpu() for name, curve in (means | by_rank).items()}

    def _summarize(self, name: str, *, ranking: HammingRanking) -> float | list[float]:
        if name == LONE_QUERIES:
            return float(ranking.num_lone_queries)
        if name in BOUNDS:
            return bootstrap_interval(self.query_scores[MEAN])[BOUNDS.index(name)]
        values, labels = self.query_scores[name], ranking.retrieval.query_labels
        metric = ranking_metrics(self.top_k).get(name)
        if metric is not None and metric.skips_lone_queries:
            kept = ranking.num_relevant > 0
            values, labels = values[kept], labels[kept]
        if not (self.avg_of_avgs or self.return_per_class):
            return values.sum().item() / max(1, len(values))
        _, classes, sizes = labels.unique(dim=0, return_inverse=True, return_counts=True)
        means = values.new_zeros(len(sizes)).index_add(0, classes, values) / sizes
        return means.tolist() if self.return_per_class else means.mean().item()

    def _pml_accuracy(self, retrieval: Retrieval, names: list[str]) -> dict[str, Any]:
        """Return the values of PML's metrics of these names, for binary codes."""
        if not names:  # to PML, no name means all of them
            return {}
        labels = retrieval.query_labels, retrieval.database_labels
        if self.label_comparison_fn is torch.eq:
            labels = _renumber(*labels)
        return super().get_accuracy(
            retrieval.signs(retrieval.query_codes),
            labels[0],
            retrieval.signs(retrieval.database_codes),
            labels[1],
            retrieval.query_in_database,
            include=names,
        )


def _renumber(query_labels: Tensor, database_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return class ids from 0 on, in the same order: PML casts them to float32."""
    if query_labels.ndim == 2:
        raise ValueError(
            "Expected a `label_comparison_fn` for PML's metrics and multi-hot labels, got none."
        )
    ids = torch.cat([query_labels, database_labels]).unique(return_inverse=True)[1]
    return ids[: len(query_labels)], ids[len(query_labels) :]


def _check_queries_come_first(retrieval: Retrieval) -> None:
    size = len(retrieval.query_codes)
    codes = retrieval.query_codes, retrieval.database_codes[:size]
    queries, items = (c if c.dtype == torch.uint8 else c >= 0 for c in codes)
    labels = retrieval.query_labels, retrieval.database_labels[:size]
    if not (torch.equal(queries, items) and torch.equal(*labels)):
        raise ValueError(
            f"Expected the first {size} rows of `reference` and `reference_labels` to be the "
            "queries and their labels (`ref_includes_query`), got others."
        )
