"""Binary codes that lie as far apart as can be: the source of the codes of classes."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from pml_hashing._checks import (
    MOST_CLASSES,
    check_at_least,
    check_code_length,
    check_num_classes,
)
from pml_hashing.centers.linear_codes import linear_codes
from pml_hashing.codes import bits_to_signs

MOST_CODES_TO_IMPROVE = 1024
"""More codes are too many to hold against each other: they are words of a linear code."""
DIGITS = 40  # of the largest term of a sum


def spread_codes(num_codes: int, code_length: int, seed: int = 0, draws: int = 10) -> Tensor:
    r"""Return binary codes that lie far apart, about as far as is possible.

    $$\max_{c_1, \dots, c_m \in \{-1, 1\}^K} \; \min_{i < j} d_H(c_i, c_j)$$

    Random codes are improved bit by bit: each code in turn flips the bit that lowers
    $\sum_{i < j} e^{\langle c_i, c_j \rangle / 2}$ most, until no flip lowers it. Of several
    draws, that with the largest smallest distance is taken, then that with the fewest pairs at this
    distance. For 10 codes of 12, 24, 32 and 48 bits it is 6, 12, 17 and 26; no 10 codes have more
    than 6, 13, 17 and 26 (Plotkin's bound). More than 1,024 codes are those of `linear_codes`,
    which lower the same sum: 1,025 codes of 64 bits have a smallest distance of 24, 10,000 of 22.

    Args:
        num_codes: Number of codes $m$.
        code_length: Number of bits $K$.
        seed: Seed of the draws.
        draws: Number of draws, fewer where there are many codes.

    Returns:
        Codes, -1 and 1, float32 `(num_codes, code_length)`, on the CPU.

    Raises:
        ValueError: If a number is less than 1, or there are more than 2^24 codes or 65,536 bits.
    """
    check_num_classes(num_codes, most=MOST_CLASSES, name="num_codes")
    check_code_length(code_length)
    check_at_least(draws, 1, "draws")
    if num_codes > MOST_CODES_TO_IMPROVE:
        return linear_codes(num_codes, code_length, seed, draws)
    draws = min(draws, 1 + 20_000 // num_codes**2)
    return _spread_of_draws(num_codes, code_length, seed, draws).clone()


@lru_cache(maxsize=32)  # losses that are compared start from the same codes
def _spread_of_draws(num_codes: int, code_length: int, seed: int, draws: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (num_codes, code_length)

    def draw() -> Tensor:
        return bits_to_signs(torch.randint(2, shape, generator=generator, device="cpu"))

    return max((_spread(draw()) for _ in range(draws)), key=_separation)


def _spread(codes: Tensor) -> Tensor:
    """Flip the bits of `codes` in place, in the way of `spread_codes`."""
    # Flipping bit k of code c changes the sum by (cosh 1 - 1) w.1 - sinh 1 c_k (w C)_k, where w
    # are its terms of the other codes; and (cosh 1 - 1) / sinh 1 = tanh 1/2.
    exact = codes.double()
    terms_at = _terms_at(codes.shape[1])
    improved = True
    while improved:
        improved = False
        for place, code in enumerate(exact):
            while True:
                distances = ((len(code) - exact @ code) / 2).long()
                distances[place] = len(code)
                terms = terms_at[distances - distances.min()]
                terms[place] = 0
                gain, bit = ((terms @ exact) * code).max(dim=0)  # the first of equal ones
                if not gain > (math.tanh(0.5) + 1e-5) * terms.sum():  # flip no bit for ever
                    break
                code[bit] *= -1
                improved = True
    return codes.copy_(exact)


def _terms_at(code_length: int) -> Tensor:
    """Return $e^{-d}$ for every distance, rounded so that sums of 1,024 of them are exact.

    Flips that gain the same are then equal on every processor, and so are the codes.
    """
    whole = [round(math.exp(-distance) * 2**DIGITS) for distance in range(code_length + 1)]
    return torch.tensor(whole, dtype=torch.float64, device="cpu")


def _separation(codes: Tensor) -> tuple[float, int]:
    """Return a score that grows with the smallest distance, then as fewer pairs have it."""
    inner = (codes @ codes.T).fill_diagonal_(float("-inf"))
    closest = inner.max()
    return -closest.item(), -int((inner == closest).sum())


def smallest_distance(codes: Tensor) -> int:
    """Return the smallest Hamming distance of two of the codes, in blocks of pairs.

    Args:
        codes: Codes, -1 and 1, `(n, code_length)`, of which there are at least two.

    Raises:
        ValueError: If there is but one code.

    Examples:
        >>> import torch
        >>> from pml_hashing.centers import smallest_distance
        >>> smallest_distance(torch.tensor([[1, 1, 1], [1, -1, 1], [-1, 1, -1]]))
        1
    """
    if len(codes) < 2:
        raise ValueError(f"Expected `codes` of at least 2 rows, got {len(codes)}.")
    codes = codes.to(torch.float32)
    closest = -codes.shape[1]
    for start in range(0, len(codes), 1024):
        inner = codes[start : start + 1024] @ codes[start:].T
        closest = max(closest, int(inner.fill_diagonal_(closest).max()))
    return (codes.shape[1] - closest) // 2
