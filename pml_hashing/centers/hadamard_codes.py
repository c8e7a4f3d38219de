"""Hash centers of CSQ, from Hadamard matrices."""

import torch
from torch import Tensor

from pml_hashing._checks import (
    LONGEST_CODE,
    MOST_CLASSES,
    check_at_least,
    check_at_most,
    check_code_length,
    check_num_classes,
)
from pml_hashing.centers.spread import smallest_distance, spread_codes
from pml_hashing.codes import bits_to_signs


def hash_centers(num_classes: int, code_length: int, seed: int = 0) -> Tensor:
    r"""Return one binary code per class: those of CSQ where none are known to lie farther apart.

    For up to $2K$ classes, CSQ takes rows of a Hadamard matrix $H$ and of $-H$, of which any two
    differ in half of the bits or in all. They are taken where `hadamard` knows a matrix of order
    $K$ and `spread_codes` finds none that lie farther apart, as it does for few classes: two can
    differ in all bits. Everywhere else they are the codes of `spread_codes`.

    Args:
        num_classes: Number of classes.
        code_length: Number of bits $K$.
        seed: Seed of `spread_codes`, and of which rows of $H$ are taken, with which sign.

    Returns:
        Codes, -1 and 1, float32 `(num_classes, code_length)`, on the CPU.

    Raises:
        ValueError: If a size is less than 1, or there are more than 2^24 classes or 65,536 bits.

    Note: Differences from the paper
        The paper takes the first rows of $H$, for $K$ a power of 2 only. All of them have 1 as
        their first bit, which then tells no class from another: so signs are drawn. Beyond $2K$
        classes it draws half of the bits of every code at random: 100 such codes of 48 bits, the
        best of 200 draws, have a smallest distance of 14, where `spread_codes` has 20.

    Examples:
        >>> from pml_hashing.centers import hash_centers
        >>> from pml_hashing.codes import hamming_distance
        >>> codes = hash_centers(6, 4)
        >>> hamming_distance(codes[:3], codes[:3])
        tensor([[0, 2, 2],
                [2, 0, 2],
                [2, 2, 0]], dtype=torch.int32)

    References:
        Yuan et al., [Central Similarity Quantization for Efficient Image and Video
        Retrieval](https://arxiv.org/abs/1908.00347), CVPR 2020, Algorithm 1.
    """
    check_num_classes(num_classes, most=MOST_CLASSES)
    check_code_length(code_length)
    spread = spread_codes(num_classes, code_length, seed)
    matrix = hadamard(code_length) if num_classes <= 2 * code_length else None
    if matrix is None:
        return spread
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(code_length, generator=generator, device="cpu")
    signs = bits_to_signs(torch.randint(2, (code_length, 1), generator=generator, device="cpu"))
    rows = matrix[order] * signs
    published = torch.cat([rows, -rows])[:num_classes].clone()
    if num_classes == 1 or smallest_distance(published) >= smallest_distance(spread):
        return published
    return spread


def hadamard(order: int) -> Tensor | None:
    r"""Return a matrix of -1 and 1 with orthogonal rows, or `None` where we know none.

    Sylvester's construction doubles a matrix, $\begin{pmatrix} H & H \\ H & -H \end{pmatrix}$.
    Paley's makes one of order $q + 1$ for a prime $q \equiv 3 \pmod 4$. Together they give the
    orders 1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 44, 48, 60, 64 and 68, and many above.

    Returns:
        The matrix, float32 `(order, order)`, on the CPU.

    Raises:
        ValueError: If the order is less than 1 or above 65,536.
    """
    check_at_least(order, 1, "order")
    check_at_most(order, LONGEST_CODE, "order")
    if order == 1:
        return torch.ones(1, 1, device="cpu")
    half = hadamard(order // 2) if order % 2 == 0 else None
    if half is not None:
        return torch.cat([torch.cat([half, half], dim=1), torch.cat([half, -half], dim=1)])
    return _paley(order - 1) if order % 4 == 0 and _is_prime(order - 1) else None


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _paley(prime: int) -> Tensor:
    r"""Return $I + S$: $S = (0, 1; -1, Q)$, $Q_{ij} = \chi(i - j)$ is skew, $S S^\top = q I$."""
    numbers = torch.arange(prime, device="cpu")
    is_square = torch.full((prime,), -1.0, device="cpu")
    is_square[numbers.square() % prime] = 1.0  # 0 among them: that is the identity's part
    matrix = torch.ones(prime + 1, prime + 1, device="cpu")
    matrix[1:, 0] = -1.0
    matrix[1:, 1:] = is_square[(numbers[:, None] - numbers) % prime]
    return matrix
