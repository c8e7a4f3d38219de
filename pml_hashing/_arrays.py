"""What callers have in hand, as tensors: numpy arrays of any layout, and labels of any kind."""

import numpy as np
import torch
from torch import Tensor

OF_NUMBERS = "biufc"
"""The kinds of numpy's types that torch may have."""


def from_array(array: np.ndarray, name: str) -> Tensor:
    """Return an array as a tensor, in its memory where torch can take it as it lies there.

    torch takes none that cannot be written, runs backwards, or has the bytes of its numbers in
    another order than the machine: these are copied.

    Raises:
        TypeError: If it holds no numbers, or some that torch does not have.
    """
    if array.dtype.kind in OF_NUMBERS and array.dtype != np.longdouble:
        native = array.dtype.newbyteorder("=")
        return torch.from_numpy(np.require(array, dtype=native, requirements=["C", "W"]))
    raise TypeError(
        f"Expected `{name}` with numbers that torch has, got an array of {array.dtype}."
    )


def is_time(values: object) -> bool:
    """Return whether these are times of numpy: `tolist` makes integers of nanoseconds."""
    return isinstance(values, np.generic | np.ndarray) and values.dtype.kind in "mM"


def to_labels(labels: object, name: str) -> Tensor:
    """Return labels as a tensor, whose values are not checked.

    Args:
        labels: A tensor or array, a list of numbers, or a list of the columns of several labels:
            torch collates items whose label is a list so, and PML reads them so.
        name: That of the argument, for messages.

    Raises:
        TypeError: If they are something else, such as strings.
    """
    if isinstance(labels, Tensor):
        return labels
    if isinstance(labels, np.ndarray):
        return from_array(labels, name)
    expected = f"Expected `{name}` that are a tensor, an array or a list of numbers"
    if not isinstance(labels, list | tuple):
        raise TypeError(f"{expected}, got {type(labels).__name__}.")
    try:
        columns = [column for column in labels if isinstance(column, Tensor) and column.ndim == 1]
        if columns and len(columns) == len(labels):
            return torch.stack(columns, dim=1)
        return torch.as_tensor(labels, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = ", ".join(sorted({type(label).__name__ for label in labels}))
        shapes = sorted({tuple(label.shape) for label in labels if isinstance(label, Tensor)})
        of_shapes = f" of shapes {', '.join(map(str, shapes))}" if shapes else ""
        got = f"a {type(labels).__name__} of {kinds}{of_shapes}"
        raise TypeError(f"{expected}, got {got}.") from error
