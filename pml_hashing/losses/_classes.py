"""What the losses against one code a class share: their arguments, and two formulas."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pml_hashing._checks import check_at_least, check_label_values, require_labels
from pml_hashing.centers import hash_centers
from pml_hashing.codes import at_least_float32

SMALLEST_NORM = 1e-3
"""Shorter codes are divided by this: else the gradient at zero is too large for half precision."""


def check_sizes(num_classes: int, code_length: int) -> None:
    """Raise unless there are two classes and a bit."""
    check_at_least(num_classes, 2, "num_classes")
    check_at_least(code_length, 1, "code_length")


def batch_of_classes(
    class_codes: Tensor,
    embeddings: Tensor,
    ref_emb: Tensor,
    labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Check the arguments of a loss, and return codes and labels in one form.

    Args:
        class_codes: What stands for the classes, `(num_classes, code_length)`.
        embeddings: As for `compute_loss`.
        ref_emb: Codes of the same samples by a second network, or `embeddings` themselves.
        labels: As for `compute_loss`.

    Returns:
        Codes of each network, `(num_networks, batch_size, code_length)`, and labels as rows of
        zeros and ones, `(batch_size, num_classes)`, in the dtype of the codes.
    """
    num_classes, code_length = class_codes.shape
    networks = [embeddings] if ref_emb is embeddings else [embeddings, ref_emb]
    for name, codes in zip(("embeddings", "ref_emb"), networks, strict=False):
        if codes.shape != (len(embeddings), code_length):
            raise ValueError(
                f"Expected `{name}` of shape ({len(embeddings)}, {code_length}), one code a "
                f"sample, got {tuple(codes.shape)}."
            )
    labels = require_labels(labels)
    if not labels.is_cuda:  # reading values back from a GPU would stop it
        check_label_values(labels, num_classes, "labels")
    rows = F.one_hot(labels.long(), num_classes) if labels.ndim == 1 else labels
    codes = torch.stack([at_least_float32(codes) for codes in networks])
    return codes, rows.to(codes.dtype)


def cross_entropy(logits: Tensor, rows: Tensor) -> Tensor:
    r"""Return $-\frac{1}{\lvert y \rvert} \sum_c y_c \log p_c$ of every sample, 0 of no label.

    Args:
        logits: `(num_networks, batch_size, num_classes)`.
        rows: Labels as rows of zeros and ones, `(batch_size, num_classes)`.

    Returns:
        The sum over the networks, `(batch_size,)`.
    """
    target = rows / rows.sum(dim=1, keepdim=True).clamp(min=1)
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).sum(dim=0)


def unit(codes: Tensor) -> Tensor:
    """Return `codes` divided by their norm, so that products of two are cosines."""
    return F.normalize(codes, dim=-1, eps=SMALLEST_NORM)


def centers_of_classes(
    given: Tensor | None, num_classes: int, code_length: int, seed: int
) -> Tensor:
    """Return the hash centers that a user gave, float32, or those of `seed`."""
    check_sizes(num_classes, code_length)
    if given is None:
        return hash_centers(num_classes, code_length, seed)
    if given.shape != (num_classes, code_length) or not (given.abs() == 1).all():
        raise ValueError(
            f"Expected `hash_centers` of shape ({num_classes}, {code_length}) with values -1 and "
            f"1, got shape {tuple(given.shape)} with values {given.unique()[:4].tolist()} ..."
        )
    return given.to(torch.float32)
