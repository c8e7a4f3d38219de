r"""The discrete sub-problems that hashing methods share, as pure functions of tensors.

$Y \in \{0, 1\}^{n \times C}$ stands for labels of either kind: class ids `(n,)` are its rows with
one 1 each, and are never expanded; multi-hot rows `(n, C)` are the matrix itself, or `LabelRows`
its ones alone.
"""

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least, check_integer
from pml_hashing.label_rows import LabelRows

CACHE_ROWS = 8192
"""Codes that `dcc` works on at a time on the CPU: their bits and targets stay in the cache."""
MOST_SWEEPS = 10_000
"""Sweeps that `dcc` accepts: a few dozen leave no bit to change."""


def check_sweeps(sweeps: int) -> None:
    """Raise unless this is a number of sweeps that `dcc` can make in a time one may wait for."""
    check_integer(sweeps, 1, "sweeps")
    if sweeps > MOST_SWEEPS:
        raise ValueError(f"Expected `sweeps` of at most {MOST_SWEEPS}, got {sweeps}.")


def _check_dcc(binary_codes: Tensor, gram: Tensor, target: Tensor) -> None:
    code_length = target.shape[-1]
    if target.ndim != 2 or binary_codes.shape != target.shape:
        raise ValueError(
            "Expected `binary_codes` and `target` of one shape (n, code_length), "
            f"got {tuple(binary_codes.shape)} and {tuple(target.shape)}."
        )
    if gram.shape != (code_length, code_length):
        raise ValueError(
            f"Expected `gram` of shape ({code_length}, {code_length}), got {tuple(gram.shape)}."
        )


@torch.no_grad()
def dcc(binary_codes: Tensor, gram: Tensor, target: Tensor, sweeps: int = 1) -> Tensor:
    r"""Improve binary codes by discrete cyclic coordinate descent.

    $$
    \min_{B \in \{-1, 1\}^{n \times K}}
        \operatorname{tr}(B G B^\top) - 2 \operatorname{tr}(B^\top P)
    $$

    One sweep visits the bits in order; bit $l$ of all codes takes its minimum given the rest,
    $b_l \leftarrow \operatorname{sign}(p_l - \sum_{k \ne l} G_{kl} b_k)$, and keeps its old
    value where the argument is 0: the objective never rises. Rows do not depend on each other, so
    all sweeps are made on one block of rows, while it is in the cache, before the next.

    Args:
        binary_codes: The codes $B$ to start from, -1 and 1, `(n, code_length)`, of any dtype.
        gram: The symmetric matrix $G$, `(code_length, code_length)`. Its diagonal does not matter.
        target: The matrix $P$, `(n, code_length)`.
        sweeps: Number of sweeps over the bits.

    Returns:
        The improved codes, a new tensor of the dtype of `binary_codes`.

    Raises:
        TypeError: If `sweeps` is no integer.
        ValueError: If the shapes do not agree, or `sweeps` is less than 1 or more than 10,000.

    Examples:
        >>> import torch
        >>> from pml_hashing.solvers import dcc
        >>> target = torch.tensor([[0.5, -2.0]])
        >>> dcc(torch.ones(1, 2), torch.zeros(2, 2), target)
        tensor([[ 1., -1.]])

    References:
        Shen et al., [Supervised Discrete Hashing](https://arxiv.org/abs/1503.01557), CVPR 2015.
    """
    _check_dcc(binary_codes, gram, target)
    check_sweeps(sweeps)
    coupling = gram.to(target, copy=True).fill_diagonal_(0)
    rows = CACHE_ROWS if target.device.type == "cpu" else len(target)
    improved = torch.empty_like(binary_codes)
    for start in range(0, len(target), max(rows, 1)):
        block = slice(start, start + rows)
        # Bits are rows here: each update reads and writes contiguous memory.
        bits = binary_codes[block].T.clone(memory_format=torch.contiguous_format).to(target.dtype)
        _sweep(bits, coupling, target[block].T.contiguous(), sweeps)
        improved[block] = bits.T.to(improved.dtype)
    return improved


def _sweep(bits: Tensor, coupling: Tensor, target: Tensor, sweeps: int) -> None:
    """Improve `bits` in place, `(code_length, rows)`."""
    codes = bits.T
    for _ in range(sweeps):
        for bit, weights, wanted in zip(bits, coupling, target, strict=True):
            pull = torch.addmv(wanted, codes, weights, alpha=-1)
            bit.copysign_(pull.nextafter_(bit))  # 0 becomes the least number with the sign of bit


def dcc_objective(binary_codes: Tensor, gram: Tensor, target: Tensor) -> Tensor:
    r"""Return $b_i^\top G b_i - 2\, b_i^\top p_i$ of every row: `dcc` minimizes the sum.

    Args:
        binary_codes: Codes $B$, `(n, code_length)`.
        gram: The matrix $G$, `(code_length, code_length)`.
        target: The matrix $P$, `(n, code_length)`.

    Returns:
        One value per row, `(n,)`, in the dtype of `target`.

    Raises:
        ValueError: If the shapes do not agree.
    """
    _check_dcc(binary_codes, gram, target)
    codes = binary_codes.to(target.dtype)
    return (codes * (codes @ gram - 2 * target)).sum(dim=1)


def ridge(gram: Tensor, cross: Tensor, penalty: float) -> Tensor:
    r"""Solve a ridge regression from its inner products.

    $$
    \arg\min_W \lVert T - X W \rVert^2 + \nu \lVert W \rVert^2 = (X^\top X + \nu I)^{-1} X^\top T
    $$

    Solved in float64: codes of a class are nearly equal, so that $X^\top X$ is nearly singular.

    Args:
        gram: $X^\top X$, `(d, d)`.
        cross: $X^\top T$, `(d, num_targets)`.
        penalty: The number $\nu$, not negative.

    Returns:
        $W$, `(d, num_targets)`, in the dtype of `cross`.

    Raises:
        ValueError: If the shapes do not agree or `penalty` is negative.
        torch.linalg.LinAlgError: If `penalty` is 0 and `gram` is singular.
    """
    if cross.ndim != 2 or gram.shape != (len(cross), len(cross)):
        raise ValueError(
            "Expected `gram` of shape (d, d) and `cross` of shape (d, num_targets), "
            f"got {tuple(gram.shape)} and {tuple(cross.shape)}."
        )
    check_at_least(penalty, 0, "penalty")
    system = gram.double() + penalty * torch.eye(len(gram), dtype=torch.double, device=gram.device)
    # With a positive penalty there is a solution; to look whether there is would stop a GPU.
    solution, _ = torch.linalg.solve_ex(system, cross.double(), check_errors=penalty == 0)
    return solution.to(cross.dtype)


def class_sums(values: Tensor, labels: Tensor | LabelRows, num_classes: int) -> Tensor:
    r"""Return $Y^\top V$: the sum of the rows of `values` over the samples of every class.

    Args:
        values: The matrix $V$, `(n, width)`.
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        num_classes: Number of classes.

    Returns:
        Sums, `(num_classes, width)`.

    Examples:
        >>> import torch
        >>> from pml_hashing.solvers import class_sums
        >>> class_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1, 0, 1]), 2)
        tensor([[2.],
                [5.]])
    """
    if isinstance(labels, LabelRows):
        return labels.transposed_times(values)
    if labels.ndim == 2:
        return labels.T.to(values.dtype) @ values
    return values.new_zeros(num_classes, values.shape[1]).index_add(0, labels.long(), values)


def label_sums(class_values: Tensor, labels: Tensor | LabelRows) -> Tensor:
    r"""Return $Y Z$: the sum of the rows of `class_values` over the labels of every sample.

    Args:
        class_values: The matrix $Z$, `(num_classes, width)`.
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.

    Returns:
        Sums, `(n, width)`. For a class id it is the row of its class.
    """
    if isinstance(labels, LabelRows):
        return labels.times(class_values)
    if labels.ndim == 2:
        return labels.to(class_values.dtype) @ class_values
    return class_values[labels.long()]  # uint8 would be a mask


def label_counts(labels: Tensor | LabelRows, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Return $\lvert y_i \rvert$, the number of labels of every sample, `(n,)`."""
    if isinstance(labels, LabelRows):
        return labels.counts.to(dtype)
    if labels.ndim == 2:
        return labels.sum(dim=1, dtype=dtype)
    return torch.ones_like(labels, dtype=dtype)
