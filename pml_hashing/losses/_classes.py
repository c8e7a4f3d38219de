"""What the losses against one code per class share: their arguments, and three formulas."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pml_hashing._checks import check_at_least, check_label_values, require_labels
from pml_hashing.centers import hash_centers, spread_codes
from pml_hashing.codes import at_least_float32, bits_to_signs

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
                f"Expected `{name}` of shape ({len(embeddings)}, {code_length}), one code per "
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


def margin_cosine_losses(
    codes: Tensor, class_codes: Tensor, rows: Tensor, scale: float, margin: float
) -> Tensor:
    r"""Return the cross entropy of $s (\cos(u_i, c_c) - m\, y_{ic})$ of every sample.

    Args:
        codes: `(num_networks, batch_size, code_length)`.
        class_codes: `(num_classes, code_length)`.
        rows: Labels as rows of zeros and ones, `(batch_size, num_classes)`.
        scale: Scale $s$ of the cosines.
        margin: Margin $m$.

    Returns:
        The sum over the networks, `(batch_size,)`.
    """
    cosines = unit(codes) @ unit(class_codes.to(codes)).T
    return cross_entropy(scale * (cosines - margin * rows), rows)


def unit(codes: Tensor) -> Tensor:
    """Return `codes` divided by their norm, so that products of two are cosines."""
    return F.normalize(codes, dim=-1, eps=SMALLEST_NORM)


def codes_of_classes(given: Tensor | None, num_classes: int, code_length: int, seed: int) -> Tensor:
    """Return the class codes that a user gave, float32, or the hash centers of `seed`."""
    check_sizes(num_classes, code_length)
    if given is None:
        return hash_centers(num_classes, code_length, seed)
    return check_class_codes(given, num_classes, code_length)


def codes_with_tie_code(
    given: Tensor | None, num_classes: int, code_length: int, seed: int
) -> Tensor:
    """Return class codes and one code more, `(num_classes + 1, code_length)`.

    The last row breaks ties between the classes of a sample with several.

    Args:
        given: The class codes of a user, `(num_classes, code_length)`; then the last row is drawn.
            If `None`, all rows are those of `spread_codes`.
        num_classes: Number of classes.
        code_length: Number of bits.
        seed: Seed of the codes.
    """
    check_sizes(num_classes, code_length)
    if given is None:
        return spread_codes(num_classes + 1, code_length, seed)
    return with_tie_code(check_class_codes(given, num_classes, code_length), seed)


def with_tie_code(class_codes: Tensor, seed: int) -> Tensor:
    """Return `class_codes` and a row of random bits below them."""
    generator = torch.Generator("cpu").manual_seed(seed)
    bits = torch.randint(2, (1, class_codes.shape[1]), generator=generator, device="cpu")
    return torch.cat([class_codes, bits_to_signs(bits).to(class_codes)])


def check_class_codes(class_codes: Tensor, num_classes: int, code_length: int) -> Tensor:
    """Return a copy, float32, or raise unless there is one code of -1 and 1 per class."""
    shape = (num_classes, code_length)
    if class_codes.shape != shape or not (class_codes.abs() == 1).all():
        raise ValueError(
            f"Expected `class_codes` of shape {shape} with values -1 and 1, got shape "
            f"{tuple(class_codes.shape)} with values {class_codes.unique()[:4].tolist()} ..."
        )
    return class_codes.detach().to(torch.float32, copy=True)
