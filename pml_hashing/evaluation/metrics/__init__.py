"""Metrics of a ranking, and the table of all that is reported, by name.

| Name | The mean over all queries of |
| --- | --- |
| `mean_average_precision`, `..._at_{k}` | average precision, over the relevant items found |
| `pml_mean_average_precision`, `..._at_{k}` | average precision, over all relevant items |
| `weighted_mean_average_precision`, `..._at_{k}` | average precision by shared labels |
| `ndcg`, `ndcg_at_{k}` | normalized discounted gain by shared labels |
| `precision_at_{k}`, `precision_at_1` | share of relevant items among the first $k$ |
| `recall_at_{k}` | share of the relevant items that is among the first $k$ |
| `precision_within_radius_{r}` | share of relevant items within $r$ bits |
| `recall_within_radius_{r}` | share of the relevant items that is within $r$ bits |
| `r_precision` | precision among as many items as are relevant |
| `mean_average_precision_at_r` | average precision among them, over all of them |
| `mean_reciprocal_rank` | one over the rank of the first relevant item |
| `mean_average_precision_low`, `..._high` | (the ends of the 95 % interval of the first line) |
| `num_queries_without_relevant_items` | (their number, no mean) |

Only `pml_...` leaves out queries without relevant items, which score 0 elsewhere.

A new metric is a file beside this one, with a `Metric` in it, and a line in the table of this file.
`HammingRanking.score` takes any `Metric`, including your own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from pml_hashing.evaluation._orders import Order, Orders
from pml_hashing.evaluation._rankings import TieGroups
from pml_hashing.evaluation.metrics._base import LookupMetric, Metric
from pml_hashing.evaluation.metrics.average_precision import AveragePrecision
from pml_hashing.evaluation.metrics.ndcg import NDCG
from pml_hashing.evaluation.metrics.precision import (
    NumRelevant,
    Precision,
    PrecisionWithinRadius,
    Recall,
    RecallWithinRadius,
)
from pml_hashing.evaluation.metrics.reciprocal_rank import ReciprocalRank
from pml_hashing.evaluation.statistics import bootstrap_interval

__all__ = [
    "NDCG",
    "AveragePrecision",
    "LookupMetric",
    "Metric",
    "NumRelevant",
    "Order",
    "Orders",
    "Precision",
    "PrecisionWithinRadius",
    "Recall",
    "RecallWithinRadius",
    "ReciprocalRank",
    "Reported",
    "TieGroups",
    "reported_metrics",
]


@dataclass(frozen=True)
class Reported:
    """A number that is reported for all queries together.

    Attributes:
        metric: What it is made of: a score of every query.
        needs_relevant_items: Whether queries without relevant items are left out of the mean.
        summary: Turns all scores into one number. Their mean, which can be taken class by class, if
            `None`.
    """

    metric: Metric | LookupMetric
    needs_relevant_items: bool = False
    summary: Callable[[Tensor], float] | None = None


def reported_metrics(top_ks: Iterable[int], radius: int) -> dict[str, Reported]:
    """Return the table: all that is reported, by name.

    Args:
        top_ks: The numbers of items $k$ of the table above.
        radius: The radius $r$ of the table above, in bits.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is out of range.
    """
    table = {
        "mean_average_precision_at_r": Reported(AveragePrecision("relevant", "relevant")),
        "r_precision": Reported(Precision("relevant")),
        "precision_at_1": Reported(Precision(1)),
        "mean_reciprocal_rank": Reported(ReciprocalRank()),
    }
    for top_k in (None, *top_ks):
        table |= _reported_at(top_k, "" if top_k is None else f"_at_{top_k}")
    return table | {
        f"precision_within_radius_{radius}": Reported(PrecisionWithinRadius(radius)),
        f"recall_within_radius_{radius}": Reported(RecallWithinRadius(radius)),
        "mean_average_precision_low": Reported(AveragePrecision(), summary=_low_end),
        "mean_average_precision_high": Reported(AveragePrecision(), summary=_high_end),
        "num_queries_without_relevant_items": Reported(NumRelevant(), summary=_number_of_zeros),
    }


def _reported_at(top_k: int | None, suffix: str) -> dict[str, Reported]:
    relevant = AveragePrecision(top_k, "relevant")
    metrics = {
        "mean_average_precision": Reported(AveragePrecision(top_k)),
        "pml_mean_average_precision": Reported(relevant, needs_relevant_items=True),
        "weighted_mean_average_precision": Reported(AveragePrecision(top_k, weighted=True)),
        "ndcg": Reported(NDCG(top_k)),
    }
    if top_k is not None:
        metrics |= {"precision": Reported(Precision(top_k)), "recall": Reported(Recall(top_k))}
    return {name + suffix: reported for name, reported in metrics.items()}


def _low_end(scores: Tensor) -> float:
    return bootstrap_interval(scores).low


def _high_end(scores: Tensor) -> float:
    return bootstrap_interval(scores).high


def _number_of_zeros(scores: Tensor) -> float:
    return float((scores == 0).sum())
