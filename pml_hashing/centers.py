"""Hash centers: binary codes of classes, far apart and fixed before training."""

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.codes import bits_to_signs
from pml_hashing.solvers import farthest_apart


def hash_centers(num_classes: int, code_length: int, seed: int = 0) -> Tensor:
    r"""Return one binary code a class: orthogonal ones where we can construct them.

    Rows of a Hadamard matrix $H$, of which any two differ in exactly half of the bits, for up to
    $K$ classes; for up to $2K$ classes, rows of $H$ and $-H$. Where `hadamard` knows no matrix of
    order $K$, or there are more classes, each code has half of its bits set at random: of 200
    draws, that whose codes lie farthest apart.

    Args:
        num_classes: Number of classes.
        code_length: Number of bits $K$.
        seed: Of the draws, and of which rows of $H$ are taken, with which sign.

    Returns:
        Codes, -1 and 1, float32 `(num_classes, code_length)`, on the CPU.

    Raises:
        ValueError: If a size is less than 1.

    Note: Differences from the paper
        The paper takes the first rows of $H$, for $K$ a power of 2 only. All of them have 1 as
        their first bit, which then tells no class from another: so signs are drawn.

    Examples:
        >>> from pml_hashing.centers import hash_centers
        >>> from pml_hashing.codes import hamming_distance
        >>> codes = hash_centers(3, 12)
        >>> hamming_distance(codes, codes)
        tensor([[0, 6, 6],
                [6, 0, 6],
                [6, 6, 0]], dtype=torch.int32)

    References:
        Yuan et al., [Central Similarity Quantization for Efficient Image and Video
        Retrieval](https://arxiv.org/abs/1908.00347), CVPR 2020, Algorithm 1.
    """
    check_at_least(num_classes, 1, "num_classes")
    check_at_least(code_length, 1, "code_length")
    matrix = hadamard(code_length)
    if matrix is None or num_classes > 2 * code_length:
        return _balanced_codes(num_classes, code_length, seed)
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(code_length, generator=generator, device="cpu")
    signs = bits_to_signs(torch.randint(2, (code_length, 1), generator=generator, device="cpu"))
    rows = matrix[order] * signs
    return torch.cat([rows, -rows])[:num_classes].clone()


def _balanced_codes(num_codes: int, code_length: int, seed: int) -> Tensor:
    """Return random codes with half of the bits set: of 200 draws, the one farthest apart."""
    generator = torch.Generator("cpu").manual_seed(seed)

    def draw() -> Tensor:  # of a random order of the bits, those in the first half are set
        order = torch.rand(num_codes, code_length, generator=generator, device="cpu").argsort(dim=1)
        return bits_to_signs(order < code_length // 2)

    draws = min(200, 1 + 10**9 // (num_codes**2 * max(code_length, 64)))
    # A single draw has no rival, and thousands of codes have too many distances to look at.
    return draw() if draws == 1 else farthest_apart(draw() for _ in range(draws))


def hadamard(order: int) -> Tensor | None:
    r"""Return a matrix of -1 and 1 with orthogonal rows, or `None` where we know none.

    Sylvester's construction doubles a matrix, $\begin{pmatrix} H & H \\ H & -H \end{pmatrix}$.
    Paley's makes one of order $q + 1$ for a prime $q \equiv 3 \pmod 4$. Together they give the
    orders 1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 44, 48, 60, 64 and 68, and many above.

    Returns:
        The matrix, float32 `(order, order)`, on the CPU.
    """
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
