"""What the losses against one code per class share: arguments, codes, sums, three formulas."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pml_hashing._checks import (
    check,
    check_choice,
    check_code_length,
    check_label_values,
    check_num_classes,
    require_labels,
)
from pml_hashing._eval_mode import eval_mode
from pml_hashing.centers import assigned_codes, hash_centers, spread_codes
from pml_hashing.codes import at_least_float32, bits_to_signs
from pml_hashing.losses._base import codes_of_networks
from pml_hashing.solvers import class_sums, label_counts

ClassCodes: TypeAlias = Tensor | Literal["spread", "assigned"]
"""Codes of the classes, `(num_classes, code_length)`; or those that lie far apart; or these, given
to the classes by features of their samples, as soon as there are some."""
CHOICES = ("spread", "assigned")

SMALLEST_NORM = 1e-3
"""Shorter codes are divided by this: else the gradient at zero is too large for half precision."""


def check_sizes(num_classes: int, code_length: int) -> None:
    """Raise unless there are two classes and a bit, and not absurdly many of them."""
    check_num_classes(num_classes, least=2)
    check_code_length(code_length)


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
    codes = torch.stack(codes_of_networks(embeddings, ref_emb, code_length))
    labels = require_labels(labels, num_classes=num_classes)
    rows = F.one_hot(labels.long(), num_classes) if labels.ndim == 1 else labels
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


def codes_of_classes(given: ClassCodes, num_classes: int, code_length: int, seed: int) -> Tensor:
    """Return the class codes that a user gave, float32, or the hash centers of `seed`."""
    check_sizes(num_classes, code_length)
    if isinstance(given, str):
        check_choice(given, CHOICES, "class_codes")
        return hash_centers(num_classes, code_length, seed)
    return check_class_codes(given, num_classes, code_length)


def codes_with_tie_code(given: ClassCodes, num_classes: int, code_length: int, seed: int) -> Tensor:
    """Return class codes and one code more, `(num_classes + 1, code_length)`.

    The last row breaks ties between the classes of a sample with several.

    Args:
        given: The class codes of a user, `(num_classes, code_length)`; then the last row is drawn.
            If `"spread"` or, before there are features, `"assigned"`, all rows are those of
            `spread_codes`.
        num_classes: Number of classes.
        code_length: Number of bits.
        seed: Seed of the codes.
    """
    check_sizes(num_classes, code_length)
    if isinstance(given, str):
        check_choice(given, CHOICES, "class_codes")
        return spread_codes(num_classes + 1, code_length, seed)
    return with_tie_code(check_class_codes(given, num_classes, code_length), seed)


def _as_they_are(codes: Tensor) -> Tensor:
    return codes


@torch.no_grad()
def sums_by_class(
    model: nn.Module,
    batches: Iterable[Any],
    class_codes: Tensor,
    to_code: Callable[[Tensor], Tensor] = _as_they_are,
    *,
    shared: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return sums of codes over the samples of each class, in one pass of a model in eval mode.

    Args:
        model: Maps inputs to codes.
        batches: Inputs and labels, such as a `DataLoader`; more entries are left aside.
        class_codes: What stands for the classes, `(num_classes, code_length)`: sums are like it.
        to_code: Makes what is summed of the codes.
        shared: Whether the classes of a sample have equal parts of it, which add up to one. Each
            has the whole otherwise.

    Returns:
        Sums, `(num_classes, code_length)`, and of how many samples, `(num_classes,)`.

    Raises:
        ValueError: If a label is out of range.
    """
    num_classes, code_length = class_codes.shape
    sums = class_codes.new_zeros(num_classes, code_length + 1)
    with eval_mode(model):
        for inputs, labels, *_ in batches:
            check_label_values(labels, num_classes, "labels")
            codes = at_least_float32(model(inputs.to(class_codes.device))).to(class_codes)
            rows = torch.cat([to_code(codes), torch.ones_like(codes[:, :1])], dim=1)
            of_rows = labels.to(class_codes.device)
            if shared:
                rows /= label_counts(of_rows, rows.dtype).clamp(min=1)[:, None]
            sums += class_sums(rows, of_rows, num_classes)
    return sums[:, :-1], sums[:, -1]


def with_tie_code(class_codes: Tensor, seed: int) -> Tensor:
    """Return `class_codes` and a row of random bits below them."""
    generator = torch.Generator("cpu").manual_seed(seed)
    bits = torch.randint(2, (1, class_codes.shape[1]), generator=generator, device="cpu")
    return torch.cat([class_codes, bits_to_signs(bits).to(class_codes)])


def check_class_codes(class_codes: Tensor, num_classes: int, code_length: int) -> Tensor:
    """Return a copy, float32, or raise unless there is one code of -1 and 1 per class."""
    if not isinstance(class_codes, Tensor):
        known = "a torch.Tensor, or one of " + ", ".join(map(repr, CHOICES))
        raise TypeError(f"Expected `class_codes` to be {known}, got {type(class_codes).__name__}.")
    shape = (num_classes, code_length)
    if class_codes.shape != shape or not (class_codes.abs() == 1).all():
        raise ValueError(
            f"Expected `class_codes` of shape {shape} with values -1 and 1, got shape "
            f"{tuple(class_codes.shape)} with values {class_codes.unique()[:4].tolist()} ..."
        )
    return class_codes.detach().to(torch.float32, copy=True)


class Assignment(nn.Module):
    """Whether the class codes of a loss are to be assigned by features, and whether they are.

    A part of the loss, so that it is saved with it: a training that is resumed assigns no more.

    Args:
        class_codes: The argument of the loss.
        seed: Seed of the codes.
    """

    is_made: Tensor

    def __init__(self, class_codes: ClassCodes, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.is_wanted = isinstance(class_codes, str) and class_codes == "assigned"
        if self.is_wanted:  # the state of other losses is without it
            self.register_buffer("is_made", torch.tensor(False))

    @property
    def is_open(self) -> bool:
        """Whether features are still wanted. A GPU has to wait for it."""
        return self.is_wanted and not self.is_made.item()

    @torch.no_grad()
    def make(self, class_codes: Tensor, features: Tensor, labels: Tensor) -> None:
        """Overwrite `class_codes`, `(num_classes, code_length)`, by those that features assign.

        Raises:
            ValueError: If the loss has other codes, or features or labels are wrong.
        """
        check(self.is_wanted, 'a loss with `class_codes="assigned"`', "one with other codes")
        class_codes.copy_(assigned_codes(features, labels, *class_codes.shape, seed=self.seed))
        self.is_made.fill_(True)
