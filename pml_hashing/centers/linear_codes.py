"""Linear codes: very many binary codes, far apart, from one small matrix."""

import torch
from torch import Tensor

from pml_hashing._checks import (
    MOST_CLASSES,
    check_at_least,
    check_code_length,
    check_num_classes,
)
from pml_hashing.codes import bits_to_signs

SWEEPS = 6
"""Times that all columns are chosen anew. More changed nothing at 11 to 14 bits of words."""
WORK_OF_ALL_DRAWS = 50_000_000
"""Words times their bits times columns that all draws together may look at."""


def linear_codes(num_codes: int, code_length: int, seed: int = 0, draws: int = 10) -> Tensor:
    r"""Return words of a linear code: many binary codes that lie far apart.

    $$c_u = (-1)^{u G + t}, \quad u \in \{0, 1\}^k, \; G \in \{0, 1\}^{k \times K},
      \; k = \lceil \log_2 m \rceil$$

    The sum of two words is a word, so the smallest distance is the smallest weight of $2^k - 1$
    words: no pair is looked at. Columns of $G$ are chosen one after another, and then anew in
    turn, each so that $\sum_{u \ne 0} e^{-\lvert u G \rvert}$ is least. A Walsh-Hadamard transform
    gives this sum for all $2^k$ columns at once, in $O(k 2^k)$. Of several draws (ties between
    columns are broken at random), that with the largest smallest weight is taken, then that with
    the fewest such words. $t$ is drawn, and so is which words are taken.

    For 1,025 codes of 16, 32, 48 and 64 bits the smallest distance is 4, 10, 18 and 24; for 10,000
    it is 2, 8, 14 and 22. The best linear codes known have 4, 12, 18 and 26, and 2, 8, 16 and 24.

    Args:
        num_codes: Number of codes $m$. Beyond $2^K$, codes repeat, each as often as others.
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
    generator = torch.Generator("cpu").manual_seed(seed)
    word_length = min(max((num_codes - 1).bit_length(), 1), code_length)
    work = SWEEPS * word_length * code_length << word_length
    draws = min(draws, 1 + WORK_OF_ALL_DRAWS // work)
    columns = max(
        (_draw(word_length, code_length, generator) for _ in range(draws)), key=_separation
    )
    size = 1 << word_length
    words = torch.cat(  # all of them, in another order every time
        [
            torch.randperm(size, generator=generator, device="cpu")
            for _ in range(-(-num_codes // size))
        ]
    )[:num_codes]
    bits = torch.stack([_parity(words & column) for column in columns.tolist()], dim=1)
    shift = torch.randint(2, (code_length,), generator=generator, device="cpu")
    return bits_to_signs(bits ^ shift)


def _draw(word_length: int, code_length: int, generator: torch.Generator) -> Tensor:
    """Return the columns of a matrix $G$, each as an integer."""
    words = torch.arange(1 << word_length, device="cpu")
    weights = torch.zeros(len(words), dtype=torch.double, device="cpu")
    columns = torch.zeros(code_length, dtype=torch.long, device="cpu")  # 0 adds no weight
    orders = [torch.arange(code_length, device="cpu")]
    orders += [
        torch.randperm(code_length, generator=generator, device="cpu") for _ in range(SWEEPS)
    ]
    for place in torch.cat(orders).tolist():
        weights -= _parity(words & columns[place])
        columns[place] = _best_column(weights, generator)
        weights += _parity(words & columns[place])
    return columns


def _best_column(weights: Tensor, generator: torch.Generator) -> Tensor:
    r"""Return the column $v$ of the least $\sum_{u \ne 0} e^{-w_u - \langle u, v \rangle}$.

    With $(-1)^{\langle u, v \rangle} = \pm 1$ in place of the product 0 or 1, the sum is a constant
    plus a positive multiple of $\sum_{u \ne 0} e^{-w_u} (-1)^{\langle u, v \rangle}$.
    """
    terms = torch.exp(weights[1:].min() - weights)
    terms[0] = 0
    sums = _walsh_hadamard(terms)
    noise = torch.rand(len(sums), generator=generator, dtype=torch.double, device="cpu")
    return (sums + 1e-6 * terms.sum() * noise).argmin()  # never 0, whose sum is the largest


def _walsh_hadamard(values: Tensor) -> Tensor:
    r"""Return $\sum_u (-1)^{\langle u, v \rangle} x_u$ for every $v$."""
    half = 1
    while half < len(values):
        pairs = values.view(-1, 2, half)
        first, second = pairs[:, 0], pairs[:, 1]
        values = torch.stack([first + second, first - second], dim=1).flatten()
        half *= 2
    return values


def _parity(words: Tensor) -> Tensor:
    """Return the sum of the bits of every word, modulo 2."""
    for shift in (32, 16, 8, 4, 2, 1):
        words = words ^ (words >> shift)
    return words & 1


def _separation(columns: Tensor) -> tuple[int, int]:
    """Return a score that grows with the smallest weight, then as fewer words have it."""
    word_length = int(columns.max()).bit_length()
    words = torch.arange(1, 1 << word_length, device="cpu")
    weights = torch.zeros_like(words)
    for column in columns.tolist():
        weights += _parity(words & column)
    smallest = weights.min()
    return int(smallest), -int((weights == smallest).sum())
