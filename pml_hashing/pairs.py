"""What "similar" means: two samples are similar if they share at least one label."""

from typing import TypeAlias

import torch
from torch import Tensor

from pml_hashing._compat import loss_and_miner_utils as lmu

IndicesTuple: TypeAlias = tuple[Tensor, ...]
"""PML's pairs `(anchors, positives, anchors, negatives)` or triplets, as indices into a batch."""


def similarity(labels: Tensor, ref_labels: Tensor) -> Tensor:
    """Return a boolean matrix, true where a row of `labels` and one of `ref_labels` are similar.

    Args:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        ref_labels: Labels of the same kind, `(m,)` or `(m, num_classes)`.

    Raises:
        ValueError: If one side holds class ids and the other multi-hot rows, or the two hold
            multi-hot rows of different widths.

    Examples:
        >>> import torch
        >>> from pml_hashing.pairs import similarity
        >>> similarity(torch.tensor([[1, 1, 0]]), torch.tensor([[0, 1, 1], [0, 0, 1]]))
        tensor([[ True, False]])
    """
    if labels.shape[1:] != ref_labels.shape[1:]:
        raise ValueError(
            "Expected `labels` and `ref_labels` of the same kind and number of classes, "
            f"got {tuple(labels.shape)} and {tuple(ref_labels.shape)}."
        )
    if labels.ndim == 1:
        return labels[:, None] == ref_labels[None, :]
    return labels.float() @ ref_labels.float().T > 0


def to_pairs(
    indices_tuple: IndicesTuple | None, labels: Tensor | None, ref_labels: Tensor | None
) -> IndicesTuple:
    """Return the miner's pairs, or all pairs of the batch where no miner chose any.

    This is PML's `convert_to_pairs` for labels of both kinds. A sample is never paired with
    itself, which is known from `ref_labels` being the same object as `labels`.

    Raises:
        ValueError: If neither labels nor pairs are given.
    """
    if indices_tuple is not None:
        return lmu.convert_to_pairs(indices_tuple, labels, ref_labels)
    if labels is None or ref_labels is None:
        raise ValueError("Expected `labels` or `indices_tuple`, got neither.")
    similar = similarity(labels, ref_labels)
    dissimilar = ~similar
    if ref_labels is labels:
        similar.fill_diagonal_(False)
        dissimilar.fill_diagonal_(False)  # a multi-hot row may be empty
    return (*torch.where(similar), *torch.where(dissimilar))
