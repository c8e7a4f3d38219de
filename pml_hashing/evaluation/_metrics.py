"""The metrics of `HammingAccuracyCalculator`, by name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from pml_hashing.evaluation._scores import QueryScores

PREFIX = "hamming_"  # of the names of our metrics: every other metric is PML's
LONE_QUERIES = f"{PREFIX}num_lone_queries"
MEAN = f"{PREFIX}mean_average_precision"
BOUNDS = (f"{MEAN}_low", f"{MEAN}_high")


@dataclass(frozen=True)
class Metric:
    """A score of every query, and which queries its mean is over.

    Attributes:
        score: Of a block of queries.
        skips_lone_queries: Whether queries without a relevant item do not count.
    """

    score: Callable[[QueryScores], Tensor]
    skips_lone_queries: bool = False


def ranking_metrics(top_ks: Iterable[int]) -> dict[str, Metric]:
    """Return the metrics that depend on the order of items."""
    metrics = {
        "mean_average_precision_at_r": Metric(lambda s: s.average_precision_at_r()),
        "r_precision": Metric(lambda s: s.r_precision()),
        "precision_at_1": Metric(lambda s: s.precision(1)),
        "mean_reciprocal_rank": Metric(lambda s: s.reciprocal_rank()),
    }
    for top_k in (None, *top_ks):
        metrics |= _metrics_at(top_k, "" if top_k is None else f"_at_{top_k}")
    return {f"{PREFIX}{name}": metric for name, metric in metrics.items()}


def _metrics_at(top_k: int | None, suffix: str) -> dict[str, Metric]:
    metrics = {
        "mean_average_precision": Metric(lambda s: s.average_precision(top_k)),
        "pml_mean_average_precision": Metric(
            lambda s: s.average_precision(top_k, divisor="relevant"), skips_lone_queries=True
        ),
        "weighted_mean_average_precision": Metric(
            lambda s: s.average_precision(top_k, weighted=True)
        ),
        "ndcg": Metric(lambda s: s.ndcg(top_k)),
    }
    if top_k is not None:
        metrics["precision"] = Metric(lambda s: s.precision(top_k))
        metrics["recall"] = Metric(lambda s: s.recall(top_k))
    return {name + suffix: metric for name, metric in metrics.items()}
