"""Checks of arguments. Every message says what was expected and what came."""

import math
import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence, Sized
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # torch cannot sort or compare them all
BITS = (torch.bool, torch.uint8, *UNSIGNED)
MOST_CLASSES = 2**24  # of which nobody has told: a class id is rather a hash or a time
MOST_CLASSES_TOLD = 2**31  # more are a mistake, which would end in a lack of memory
LONGEST_CODE = 2**16  # bits: longer than any features that codes are to take the place of
LABELS_OF_A_BLOCK = 2**20  # of multi-hot rows that are checked together


def check(holds: object, expected: str, got: object) -> None:
    """Raise unless a condition holds, with what was expected and what came."""
    if not holds:
        raise ValueError(f"Expected {expected}, got {got}.")


def to_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return `path` as one. An empty text, as of a variable that is not set, is none.

    Raises:
        ValueError: If it is empty.
    """
    if not os.fspath(path):
        raise ValueError(
            f"Expected `{name}` to be a path, got an empty one: '.' is the current folder."
        )
    return Path(path)


def check_codes(codes: Tensor, name: str, code_length: int | None = None) -> None:
    """Raise unless `codes` is a matrix with one code per row and at least one row."""
    if not isinstance(codes, Tensor):
        raise TypeError(f"Expected `{name}` to be a torch.Tensor, got {type(codes).__name__}.")
    shape = codes.shape
    if len(shape) != 2 or 0 in shape or code_length not in (None, shape[1]):
        length = "code_length" if code_length is None else code_length
        raise ValueError(
            f"Expected `{name}` of shape (batch_size, {length}), not empty, got {tuple(shape)}."
        )


def check_finite(codes: Tensor, name: str) -> None:
    """Raise if `codes` holds NaN or infinity, or 0 and 1 alone, which have the sign of ones.

    Reads the smallest and the largest value back from the device. Booleans and bytes are bits.
    """
    if codes.dtype in BITS or codes.is_complex() or not codes.numel():
        return
    low, high = torch.aminmax(codes.detach())
    # On another device they are read back in one copy.
    low, high = (low.item(), high.item()) if codes.is_cpu else torch.stack([low, high]).tolist()
    if not math.isfinite(high - low):
        rows = (~codes.isfinite()).view(len(codes), -1).any(dim=1).nonzero().flatten()
        if len(rows) > 0:  # else the difference alone is too large
            raise ValueError(
                f"Expected finite values in `{name}`, got NaN or infinity in {len(rows)} of "
                f"{len(codes)} rows, the first of them row {rows[0].item()}."
            )
    if (low, high) == (0, 1) and bool(((codes == 0) | (codes == 1)).all()):
        raise ValueError(
            f"Expected `{name}` whose signs are the bits, such as -1 and 1, got 0 and 1 alone, "
            f"which would all be set bits: pass `2 * {name} - 1`, or `{name}.bool()`, whose values "
            "are the bits."
        )


def check_labels(labels: Tensor, codes: Sized, name: str) -> None:
    """Raise unless `labels` holds one class id or one multi-hot row per code.

    A single column is refused: PML reads it as class ids, and multi-label code as rows.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"Expected `{name}` to be a torch.Tensor, got {type(labels).__name__}.")
    if labels.ndim not in (1, 2) or len(labels) != len(codes):
        size = len(codes)
        raise ValueError(
            f"Expected `{name}` of shape ({size},) with class ids or ({size}, num_classes) "
            f"with multi-hot rows, got {tuple(labels.shape)}."
        )
    check_kind_of_labels(labels, name)


def check_kind_of_labels(labels: Tensor, name: str) -> None:
    """Raise if it cannot be told whether `labels` are class ids or multi-hot rows, or compared."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        size = len(labels)
        raise ValueError(
            f"Expected `{name}` of shape ({size},) with class ids, such as `{name}.squeeze(1)`, or "
            f"multi-hot `{name}` of zeros and ones of shape ({size}, num_classes), with at least "
            f"2 classes, got ({size}, 1), which can be read as either."
        )
    if labels.dtype in UNSIGNED:
        raise TypeError(
            f"Expected `{name}` of a signed integer dtype or uint8, such as `{name}.long()`, "
            f"got {labels.dtype}."
        )
    is_integer = not (labels.is_floating_point() or labels.is_complex())
    if labels.ndim == 1 and (labels.dtype == torch.bool or not is_integer):
        raise TypeError(f"Expected `{name}` with integer class ids, got {labels.dtype}.")


def num_classes_of(labels: Tensor) -> int:
    """Return how many classes there are by labels alone.

    Raises:
        ValueError: If there are so many that class ids are rather something else.
    """
    num_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    if num_classes > MOST_CLASSES:
        raise ValueError(
            f"Expected `labels` with class ids that count classes from 0, got {num_classes - 1}, "
            f"which would be of {num_classes:,} classes: number those that there are, as "
            "`labels.unique(return_inverse=True)[1]` does, or pass `num_classes`."
        )
    return num_classes


def check_label_values(labels: Tensor, num_classes: int, name: str) -> None:
    """Raise unless class ids are integers from 0 to `num_classes - 1`, or multi-hot rows 0 or 1.

    Reads the result back from the device: a loss calls this for labels on the CPU only.
    """
    check_kind_of_labels(labels, name)
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise ValueError(
                f"Expected `{name}` of shape ({len(labels)}, {num_classes}) with multi-hot rows, "
                f"got {tuple(labels.shape)}."
            )
        if not _are_zeros_and_ones(labels):
            other = labels[(labels != 0) & (labels != 1)][0].item()
            raise ValueError(f"Expected multi-hot `{name}` of zeros and ones, got {other}.")
    elif len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"Expected `{name}` with class ids from 0 to {num_classes - 1}, "
            f"got {labels.min().item()} to {labels.max().item()}."
        )


def _are_zeros_and_ones(labels: Tensor) -> bool:
    valid = torch.ones((), dtype=torch.bool, device=labels.device)
    for rows in labels.split(max(1, LABELS_OF_A_BLOCK // max(1, labels.shape[1]))):
        valid.logical_and_(((rows == 0) | (rows == 1)).all())
    return bool(valid)


def require_labels(
    labels: Tensor | None, name: str = "labels", *, num_classes: int | None = None
) -> Tensor:
    """Return `labels`, or raise if there are none, or they hold values that they cannot.

    Args:
        labels: Class ids or multi-hot rows. Values on a GPU, which it would stop to read back, are
            not checked.
        name: Of the argument.
        num_classes: Number of classes. Class ids may be any, and rows of any width, if `None`.
    """
    if labels is None:
        raise ValueError(f"Expected `{name}`, got None.")
    if labels.is_cpu and (num_classes is not None or labels.ndim == 2):
        check_label_values(labels, labels.shape[1] if num_classes is None else num_classes, name)
    return labels


def check_same_kind(**labels: Tensor) -> None:
    """Raise unless the labels of two sides, by name, are of one kind and number of classes."""
    if len({of_side.shape[1:] for of_side in labels.values()}) > 1:
        names = " and ".join(f"`{name}`" for name in labels)
        got = " and ".join(str(tuple(of_side.shape)) for of_side in labels.values())
        raise ValueError(f"Expected {names} of the same kind and number of classes, got {got}.")


def check_sample_indices(sample_indices: Tensor | None, size: int, num_samples: int) -> Tensor:
    """Return `sample_indices`, or raise unless they are `size` places in a bank of samples."""
    if sample_indices is not None and not isinstance(sample_indices, Tensor):
        got = type(sample_indices).__name__
        raise TypeError(f"Expected `sample_indices` to be a torch.Tensor, got {got}.")
    if sample_indices is None or sample_indices.shape != (size,):
        got = None if sample_indices is None else tuple(sample_indices.shape)
        raise ValueError(
            f"Expected `sample_indices` of shape ({size},) with the places of the samples in "
            f"the code bank, got {got}."
        )
    if sample_indices.is_floating_point() or sample_indices.dtype == torch.bool:
        raise TypeError(f"Expected integer `sample_indices`, got {sample_indices.dtype}.")
    if sample_indices.device.type == "cpu":  # reading values back from a GPU would stop it
        low, high = sample_indices.min().item(), sample_indices.max().item()
        if low < 0 or high >= num_samples:
            raise ValueError(
                f"Expected `sample_indices` from 0 to {num_samples - 1}, got {low} to {high}."
            )
    return sample_indices


def check_at_least(value: float, minimum: float, name: str) -> None:
    """Raise unless `value` is a number of at least `minimum`."""
    if not value >= minimum:  # also catches NaN
        raise ValueError(f"Expected `{name}` of at least {minimum}, got {value}.")


def check_at_most(value: float, maximum: int, name: str) -> None:
    """Raise if `value` is above `maximum`."""
    if value > maximum:
        raise ValueError(f"Expected `{name}` of at most {maximum:,}, got {value:,}.")


def check_num_classes(
    num_classes: int, least: int = 1, most: int = MOST_CLASSES_TOLD, name: str = "num_classes"
) -> None:
    """Raise unless this is a number of classes that memory can hold something for each of."""
    check_at_least(num_classes, least, name)
    check_at_most(num_classes, most, name)


def check_code_length(code_length: int) -> None:
    """Raise unless codes can be of so many bits."""
    check_at_least(code_length, 1, "code_length")
    check_at_most(code_length, LONGEST_CODE, "code_length")


def check_positive(value: float, name: str) -> None:
    """Raise unless `value` is a finite number above 0."""
    if not 0 < value < float("inf"):
        raise ValueError(f"Expected a finite, positive `{name}`, got {value}.")


def check_weights(**weights: float) -> None:
    """Raise if a weight is negative or NaN."""
    for name, weight in weights.items():
        check_at_least(weight, 0, name)


def check_integer(value: object, minimum: int, name: str) -> None:
    """Raise unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"Expected `{name}` to be an integer, got {value!r}.")
    check_at_least(int(value), minimum, name)


def check_choice(value: object, choices: tuple[object, ...], name: str) -> None:
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, got {value!r}."
        )


def check_distinct(ids: Sequence[Hashable]) -> None:
    """Raise if an id comes twice."""
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_, count in Counter(ids).items() if count > 1)
        raise ValueError(f"Expected `ids` without duplicates, got {twice!r} twice.")


def check_options(options: Mapping[str, object], kind: type, of: str) -> None:
    """Raise unless all options are those of a `TypedDict`, which Python itself does not check.

    Args:
        options: The keyword arguments that came.
        kind: The `TypedDict` of those that there are.
        of: What they are of, for the message.

    Raises:
        TypeError: If there is another.
    """
    known = kind.__annotations__
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"Expected options {of} ({', '.join(known)}), got {', '.join(unknown)}.")
