r"""The inner-product term of the asymmetric family, against all binary codes of a bank.

$$\frac{1}{n} \sum_{i, j} \left( \tfrac{1}{K} u_i^\top b_j - S_{ij} \right)^2$$

with the soft similarity of ADSH: $S_{ij} = 1$ for similar samples and $-r$ for dissimilar ones, $r$
the number of similar pairs over that of dissimilar pairs. (A hard $-1$ makes the constant vector
the strongest direction of $S$, with a negative eigenvalue: bits become constants. It is a flag.)
The sum over $j$ comes from $B^\top B$ and $S B$, and $S B$ from sums of $B$ over equal labels.
"""

import torch
from torch import Tensor

from pml_hashing.code_bank import CodeBank, Rows
from pml_hashing.losses._discrete import set_group_codes, solve_codes
from pml_hashing.pairs import similar_sums


def similarity_sums(bank: CodeBank, values: Tensor, soft: bool = True) -> Tensor:
    r"""Return $\sum_j S_{ij} v_j$ and $\sum_j S_{ij}^2$ of every group, `(d, width + 1)`.

    Args:
        bank: The bank of the samples, for their labels.
        values: One row $v_j$ a sample, `(n, width)`.
        soft: Dissimilar pairs have $-r$, -1 if `False`.
    """
    values = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    sums = bank.group_sums(values)
    similar = similar_sums(sums, bank.group_labels)
    num_similar = similar[:, -1:]
    ratio = _ratio(bank, sums[:, -1], similar[:, -1]) if soft else 1.0
    products = similar[:, :-1] - ratio * (sums[:, :-1].sum(dim=0) - similar[:, :-1])
    return torch.cat([products, num_similar + ratio**2 * (len(bank) - num_similar)], dim=1)


def _ratio(bank: CodeBank, sizes: Tensor, num_similar: Tensor) -> Tensor:
    """Return similar pairs over dissimilar pairs, 0 where no two samples are dissimilar."""
    pairs = (sizes.double() * num_similar).sum()
    ratio = pairs * (pairs < len(bank) ** 2) / (len(bank) ** 2 - pairs).clamp(min=1)
    return ratio.to(sizes.dtype)


def inner_product_losses(codes: Tensor, bank: CodeBank, target: Tensor) -> Tensor:
    """Return the term of every code.

    Args:
        codes: Codes of some samples, `(batch_size, code_length)`.
        bank: The bank whose binary codes they are held against.
        target: `similarity_sums` of the binary codes, for the groups of these samples.
    """
    squares = (codes @ bank.code_gram.to(codes) * codes).sum(dim=1) / bank.code_length**2
    products = (codes * target[:, :-1]).sum(dim=1) / bank.code_length
    return (squares - 2 * products + target[:, -1]) / len(bank)


def inner_products_of_networks(bank: CodeBank, rows: Rows, codes: list[Tensor]) -> Tensor:
    """Return the term of some samples of a bank, summed over their codes by each network."""
    target = bank.similar_sums[bank.groups[rows]]
    return torch.stack([inner_product_losses(u, bank, target) for u in codes]).sum(dim=0)


def inner_product_step(bank: CodeBank, soft: bool = True) -> tuple[Tensor, Tensor]:
    """Return the parts $G$ and $P$, one row a group, that the term adds to the discrete step."""
    codes = torch.stack([codes for codes, _ in bank.networks]).sum(dim=0)
    gram = torch.stack([codes.T @ codes for codes, _ in bank.networks]).sum(dim=0)
    target = similarity_sums(bank, codes, soft)[:, :-1]
    return gram / (len(bank) * bank.code_length**2), target / (len(bank) * bank.code_length)


def remember_similar_sums(bank: CodeBank, soft: bool = True) -> None:
    """Keep the sums of the binary codes that `inner_product_losses` takes, after they changed."""
    bank.similar_sums.copy_(similarity_sums(bank, bank.binary_codes.to(bank.code_sums), soft))


def start_from(bank: CodeBank, codes: Tensor, soft: bool) -> None:
    """Start the binary codes from the signs of `codes`, one row a group of equal labels."""
    set_group_codes(bank, codes)
    remember_similar_sums(bank, soft)


def improve_codes(
    bank: CodeBank,
    own_weight: float,
    *,
    soft: bool,
    sweeps: int,
    progress: bool = False,
    pull: Tensor | None = None,
) -> None:
    """Make the discrete step of the term, of quantization, and of a pull to codes of labels.

    Args:
        bank: The bank whose binary codes are improved.
        own_weight: The weight in $P$ of a sample's own codes, by each network.
        soft: Dissimilar pairs have $-r$, -1 if `False`.
        sweeps: Sweeps over the bits.
        progress: Show a progress bar.
        pull: What else stands in $P$, one row a group of equal labels. Nothing if `None`.
    """
    gram, targets = inner_product_step(bank, soft)
    targets = targets if pull is None else targets + pull
    solve_codes(bank, gram, targets, own_weight, sweeps, progress)
    remember_similar_sums(bank, soft)
