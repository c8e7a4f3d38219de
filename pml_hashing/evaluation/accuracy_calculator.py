"""The scores of a Hamming ranking as a PML accuracy calculator."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_choice
from pml_hashing._compat import AccuracyCalculator
from pml_hashing.evaluation._counts import Retrieval
from pml_hashing.evaluation.ranking import (
    TIES,
    Scores,
    Ties,
    check_integer,
    score_balls,
    score_rankings,
)

PREFIX = "hamming_"  # of the names of our metrics: every other metric is PML's


class HammingAccuracyCalculator(AccuracyCalculator):
    r"""PML's accuracy calculator with the metrics of the hashing literature.

    | Metric | What it is |
    | --- | --- |
    | `hamming_mean_average_precision` | `mean_average_precision` of the whole ranking |
    | `hamming_mean_average_precision_at_{k}` | the same of the first $k$ items |
    | `hamming_precision_at_{k}` | `precision_at_k` |
    | `hamming_precision_within_radius_{r}` | `precision_within_radius` |

    These are computed where `include` is empty. Any of them is a valid `primary_metric` of PML's
    `HookContainer`. PML's own metrics (`precision_at_1`, `mean_average_precision_at_r`, ...) keep
    PML's meaning, and are computed only if `include` names them.

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
        ties: `"expected"` for the mean over all orders inside ties, or `"stable"` for the order of
            the reference. PML's metrics take ties in the order that `knn_func` gives them.
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
        >>> for name, score in scores.items():
        ...     print(f"{name} {score:.4f}")
        hamming_mean_average_precision 0.7083
        hamming_mean_average_precision_at_2 0.7500
        hamming_precision_at_2 0.5000
        hamming_precision_within_radius_2 0.6667
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
        own = [
            *(_name(metric, k) for k in self.top_k for metric in Scores._fields),
            _name("average_precision", None),
            self._radius_name,
        ]
        for name in own:  # PML finds metrics by the names of attributes
            setattr(self, f"calculate_{name}", partial(self._summarize, name))
        super().__init__(
            include=include if len(include) else own,
            exclude=exclude,
            device=None if device is None else torch.device(device),
            **kwargs,
        )

    @property
    def _radius_name(self) -> str:
        return f"{PREFIX}precision_within_radius_{self.radius}"

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
        retrieval = Retrieval(
            self._to_tensor(query),
            self._to_labels(query_labels),
            self._to_tensor(reference),
            self._to_labels(reference_labels),
            query_in_database=ref_includes_query,
        )
        if ref_includes_query:
            _check_queries_come_first(retrieval)
        functions = self.get_function_dict(include, exclude)
        own = {name: f for name, f in functions.items() if name.startswith(PREFIX)}
        values = self._score_queries(retrieval, own)
        accuracies = self._get_accuracy(
            own, values=values, query_labels=retrieval.query_labels
        ) | self._pml_accuracy(retrieval, [name for name in functions if name not in own])
        self.curr_function_dict = functions
        return {name: accuracies[name] for name in functions}

    def _to_tensor(self, array: Any) -> Any:
        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
        return tensor.to(self.device) if isinstance(tensor, Tensor) else tensor

    def _to_labels(self, array: Any) -> Any:
        labels = self._to_tensor(array)
        return labels.squeeze(1) if isinstance(labels, Tensor) and labels.ndim == 2 else labels

    def _score_queries(self, retrieval: Retrieval, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the values of all queries for our metrics of these names."""
        wanted = {
            k: fields
            for k in (None, *self.top_k)
            if (fields := [field for field in Scores._fields if _name(field, k) in names])
        }
        scores = score_rankings(retrieval, wanted, self.ties)
        values = {
            _name(field, k): getattr(scores[k], field)
            for k, fields in wanted.items()
            for field in fields
        }
        if self._radius_name in names:
            values[self._radius_name] = score_balls(retrieval.counts, self.radius)
        return values

    def _summarize(
        self, name: str, *, values: dict[str, Tensor], query_labels: Tensor
    ) -> float | list[float]:
        if not (self.avg_of_avgs or self.return_per_class):
            return values[name].mean().item()
        _, classes, sizes = query_labels.unique(dim=0, return_inverse=True, return_counts=True)
        means = values[name].new_zeros(len(sizes)).index_add(0, classes, values[name]) / sizes
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


def _name(field: str, top_k: int | None) -> str:
    metric = "mean_average_precision" if field == "average_precision" else field
    return f"{PREFIX}{metric}" + ("" if top_k is None else f"_at_{top_k}")


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
