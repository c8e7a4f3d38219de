"""How well the bits of codes are used: their balance and how far they repeat each other."""

import torch
from torch import Tensor

from pml_hashing.codes import check_codes_of_any_kind, to_signs


def checked_signs(codes: Tensor, code_length: int | None = None) -> Tensor:
    """Return real, binary or packed codes (uint8) as -1 and 1 in float64, checked."""
    check_codes_of_any_kind(codes, "codes", code_length)
    return to_signs(codes, code_length, torch.float64)


def bit_balance(codes: Tensor, code_length: int | None = None) -> Tensor:
    r"""Return the share of codes in which each bit is set: 0.5 for a bit that tells the most.

    Args:
        codes: Real or binary codes `(n, code_length)`, or packed codes (uint8).
        code_length: Number of bits, for packed codes of a length that is no multiple of 8.

    Returns:
        Shares from 0 to 1, float64 `(code_length,)`.

    Raises:
        ValueError: If a shape is wrong, or a code is NaN or infinite.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import bit_balance
        >>> bit_balance(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    return (checked_signs(codes, code_length).mean(dim=0) + 1) / 2


def bit_correlation(codes: Tensor, code_length: int | None = None) -> Tensor:
    r"""Return the Pearson correlation of every two bits over all codes.

    Args:
        codes: Real or binary codes `(n, code_length)`, or packed codes (uint8).
        code_length: Number of bits, for packed codes of a length that is no multiple of 8.

    Returns:
        Correlations from -1 to 1, float64 `(code_length, code_length)`. A bit that is the same in
        all codes tells nothing of the others: its correlations are 0, that with itself too.

    Raises:
        ValueError: If a shape is wrong, or a code is NaN or infinite.
    """
    signs = checked_signs(codes, code_length)
    signs = signs - signs.mean(dim=0)
    deviation = signs.square().mean(dim=0).sqrt()
    covariance = signs.T @ signs / len(signs)
    return covariance / torch.outer(deviation, deviation).where(covariance != 0, 1)


def mean_absolute_correlation(codes: Tensor, code_length: int | None = None) -> float:
    r"""Return mAC, the mean absolute correlation of two different bits: lower is less redundant.

    $$
    \mathrm{mAC} = \frac{1}{K (K - 1)} \sum_{k \ne l} \lvert \operatorname{corr}(b_k, b_l) \rvert
    $$

    This is the obvious reading: the paper that shows it (DSAHA, ICANN 2019) was not available.

    Args:
        codes: Real or binary codes `(n, code_length)`, or packed codes (uint8), of at least 2 bits.
        code_length: Number of bits, for packed codes of a length that is no multiple of 8.

    Raises:
        ValueError: If a shape is wrong, a code is NaN or infinite, or there is one bit only.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import mean_absolute_correlation
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> mean_absolute_correlation(codes)
        0.0
    """
    correlation = bit_correlation(codes, code_length).abs()
    size = len(correlation)
    if size < 2:
        raise ValueError(f"Expected `codes` of at least 2 bits, got {size}.")
    return ((correlation.sum() - correlation.trace()) / (size * (size - 1))).item()
