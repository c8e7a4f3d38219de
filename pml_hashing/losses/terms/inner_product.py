"""The inner products of the asymmetric family, with all binary codes of a data set."""

import torch
from torch import Tensor

from pml_hashing.code_bank import CodeBank, Variables
from pml_hashing.losses.terms._base import Batch, Quadratic, Term, sum_of
from pml_hashing.pairs import similar_sums


class InnerProduct(Term):
    r"""Inner products of the networks' codes with binary codes, against the similarity.

    $$
    \frac{1}{n} \sum_j \left( \tfrac{1}{K} u_i^\top b_j - S_{ij} \right)^2
    $$

    and the same of $v_i$, with the soft similarity of ADSH: $S_{ij} = 1$ for similar samples and
    $-r$ for dissimilar ones, $r$ the number of similar pairs over that of dissimilar pairs. (A hard
    $-1$ makes the constant vector the strongest direction of $S$, with a negative eigenvalue: bits
    become constants.) The sum over $j$ comes from $B^\top B$ and $S B$, and $S B$ from sums of $B$
    over equal labels: no batch costs more with larger $n$.

    Variables: `similar_sums`, of every group $\sum_j S_{ij} b_j$ and $\sum_j S_{ij}^2$,
    `(num_groups, code_length + 1)`.

    Args:
        soft_similarity: Dissimilar pairs have $-r$; -1 if `False`.
    """

    def __init__(self, soft_similarity: bool = True) -> None:
        super().__init__()
        self.soft_similarity = soft_similarity

    def extra_repr(self) -> str:
        return f"soft_similarity={self.soft_similarity}"

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        bank, sums = batch.bank, variables["similar_sums"][batch.bank.groups[batch.rows]]
        gram = bank.sums("code_gram")[0][1:, 1:].to(batch.codes[0])
        losses = []
        for codes in batch.codes:
            squares = (codes @ gram * codes).sum(dim=1) / bank.code_length**2
            products = (codes * sums[:, :-1]).sum(dim=1) / bank.code_length
            losses.append((squares - 2 * products + sums[:, -1]) / len(bank))
        return sum_of(losses)

    def refresh(self, bank: CodeBank, variables: Variables) -> Variables:
        codes = bank.binary_codes.to(bank.query_codes.dtype)
        return {"similar_sums": similarity_sums(bank, codes, self.soft_similarity)}

    def quadratic(self, bank: CodeBank, variables: Variables) -> Quadratic:
        scale = len(bank) * bank.code_length
        gram = sum_of([codes.T @ codes for codes in bank.networks])
        targets = similarity_sums(bank, sum_of(bank.networks), self.soft_similarity)[:, :-1]
        return Quadratic(gram / (scale * bank.code_length), targets / scale)


def similarity_sums(bank: CodeBank, values: Tensor, soft: bool = True) -> Tensor:
    r"""Return $\sum_j S_{ij} v_j$ and $\sum_j S_{ij}^2$ of every group, `(d, width + 1)`.

    Args:
        bank: The bank of the samples, for their labels.
        values: One row $v_j$ for each sample, `(n, width)`.
        soft: Dissimilar pairs have $-r$; -1 if `False`.
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
