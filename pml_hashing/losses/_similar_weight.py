"""How much similar pairs weigh in a likelihood of pairs: one meaning in all losses."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from pml_hashing.label_rows import LabelRows
from pml_hashing.pairs import similar_sums
from pml_hashing.solvers import label_counts

SimilarWeight: TypeAlias = float | Literal["balanced"]
"""The weight of a similar pair over that of a dissimilar one, or `"balanced"`."""


def check_similar_weight(similar_weight: SimilarWeight) -> None:
    """Raise unless this is a positive number or "balanced".

    Raises:
        ValueError: If it is neither.
    """
    if similar_weight == "balanced":
        return
    number = isinstance(similar_weight, int | float) and not isinstance(similar_weight, bool)
    if not number or not 0 < similar_weight < float("inf"):
        raise ValueError(
            f"Expected `similar_weight` to be 'balanced' or a positive number, "
            f"got {similar_weight!r}."
        )


def kind_weights(
    similar_weight: SimilarWeight, num_similar: Tensor, num_dissimilar: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Return the weights of a similar and of a dissimilar pair.

    A similar pair counts $r$ times as much as a dissimilar one, and the mean over all pairs is 1:
    with $p$ the share of similar pairs, $r / (r p + 1 - p)$ and $1 / (r p + 1 - p)$. Balanced, both
    kinds together have the same weight, $r = (1 - p) / p$: $1 / (2 p)$ and $1 / (2 (1 - p))$. A
    kind of which there is no pair then leaves the other half of the whole.

    Args:
        similar_weight: The number $r$, or `"balanced"`.
        num_similar: Number of similar pairs.
        num_dissimilar: Number of dissimilar pairs.
    """
    total = num_similar + num_dissimilar
    if similar_weight == "balanced":
        return total / (2 * num_similar).clamp(min=1), total / (2 * num_dissimilar).clamp(min=1)
    if similar_weight == 1:
        return torch.ones_like(total), torch.ones_like(total)
    one = total / (similar_weight * num_similar + num_dissimilar).clamp(min=1e-30)
    return similar_weight * one, one


def kind_counts(
    labels: Tensor | LabelRows, counts: Tensor, *, with_itself: bool = True
) -> tuple[Tensor, Tensor]:
    """Return how many pairs of samples are similar, and how many dissimilar, in float64.

    Args:
        labels: Distinct class ids `(d,)` or multi-hot rows `(d, num_classes)`.
        counts: How many samples have each, `(d,)`.
        with_itself: Whether a sample is paired with itself.
    """
    counts = counts.double()
    similar = (counts * similar_sums(counts[:, None], labels)[:, 0]).sum()
    total = counts.sum().square()
    if not with_itself:
        has_label = label_counts(labels) > 0
        similar, total = similar - (counts * has_label).sum(), total - counts.sum()
    return similar, total - similar
