"""Summaries of the scores of many queries: means by class, and how sure the mean is."""

from typing import NamedTuple

import torch
from torch import Tensor

from pml_hashing._checks import check_integer, check_labels

DRAWS_AT_A_TIME = 2**20


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def bootstrap_interval(
    scores: Tensor, confidence: float = 0.95, *, num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return a confidence interval of the mean over queries, by percentiles of bootstrap means.

    It says how far the mean would move with other queries from the same source, not with another
    database or another training.

    Args:
        scores: Values of all queries, `(num_queries,)`.
        confidence: Share of the bootstrap means that lie inside.
        num_resamples: Number of draws of as many queries, with replacement.
        seed: Of the draws: the same scores have the same interval.

    Returns:
        The lower and the upper end.

    Raises:
        TypeError: If `num_resamples` is not an integer.
        ValueError: If `scores` is not a vector, is empty or not finite, or a number is out of
            range.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import bootstrap_interval
        >>> bootstrap_interval(torch.full((10,), 0.5))
        Interval(low=0.5, high=0.5)
    """
    if scores.ndim != 1 or not len(scores):
        raise ValueError(
            f"Expected `scores` of shape (num_queries,), not empty, got {tuple(scores.shape)}."
        )
    if not scores.isfinite().all():
        raise ValueError("Expected finite `scores`, got NaN or infinity.")
    if not 0 < confidence < 1:
        raise ValueError(f"Expected `confidence` between 0 and 1, got {confidence}.")
    check_integer(num_resamples, 1, "num_resamples")
    scores = scores.double().cpu()
    generator = torch.Generator("cpu").manual_seed(seed)
    means = scores.new_empty(num_resamples)
    for part in means.split(max(1, DRAWS_AT_A_TIME // len(scores))):
        draws = torch.randint(
            len(scores), (len(part), len(scores)), generator=generator, device="cpu"
        )
        part.copy_(scores[draws].mean(dim=1))
    tails = scores.new_tensor([(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(*means.quantile(tails).tolist())


def mean_by_class(scores: Tensor, query_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean score of each class over its queries.

    Args:
        scores: Values of all queries, `(num_queries,)`.
        query_labels: Class ids `(num_queries,)` or multi-hot rows `(num_queries, num_classes)`. A
            query counts for each of its labels.

    Returns:
        The classes that occur, ascending, and their means, float64.

    Raises:
        ValueError: If there are not as many labels as scores.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import mean_by_class
        >>> mean_by_class(torch.tensor([1.0, 0.0, 0.5]), torch.tensor([7, 2, 7]))
        (tensor([2, 7]), tensor([0.0000, 0.7500], dtype=torch.float64))
    """
    check_labels(query_labels, scores, "query_labels")
    labels = query_labels.to(scores.device)
    if labels.ndim == 1:
        classes, membership, sizes = labels.unique(return_inverse=True, return_counts=True)
        sums = scores.double().new_zeros(len(sizes)).index_add(0, membership, scores.double())
        return classes, sums / sizes
    sums, sizes = labels.double().T @ scores.double(), labels.double().sum(dim=0)
    classes = sizes.nonzero().flatten()
    return classes, sums[classes] / sizes[classes]
