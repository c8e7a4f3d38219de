"""Sums of rows from which sums of squared distances, and statistics of bits, can be read."""

import torch
from torch import Tensor


def moments(values: Tensor) -> Tensor:
    r"""Return $(1, v_i, \lVert v_i \rVert^2)$ of every row, `(n, 1 + width + 1)`.

    Weighted sums of these rows give weighted sums of squared distances: see `spread`.
    """
    square = values.square().sum(dim=1, keepdim=True)
    return torch.cat([torch.ones_like(square), values, square], dim=1)


def spread(values: Tensor, sums: Tensor) -> Tensor:
    r"""Return $\sum_j A_{ij} \lVert x_i - v_j \rVert^2$ of every row, from sums of moments.

    Args:
        values: The rows $x_i$, `(n, width)`.
        sums: The sums $\sum_j A_{ij}\,(1, v_j, \lVert v_j \rVert^2)$, `(n, 1 + width + 1)`.

    Returns:
        One value per row, `(n,)`.
    """
    weight, mean, square = sums[:, 0], sums[:, 1:-1], sums[:, -1]
    return weight * values.square().sum(dim=1) - 2 * (values * mean).sum(dim=1) + square


def gram_of(values: Tensor) -> Tensor:
    r"""Return $(1, V)^\top (1, V)$, `(1 + width, 1 + width)`."""
    rows = torch.cat([torch.ones_like(values[:, :1]), values], dim=1)
    return rows.T @ rows
