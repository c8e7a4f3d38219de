r"""The likelihood of pairs of codes, which many methods share.

$$\ell_{ij} = \log(1 + e^{\Theta_{ij}}) - s_{ij} \Theta_{ij}, \qquad
\Theta_{ij} = \tfrac{1}{2} u_i^\top v_j$$

with $s_{ij} = 1$ for similar samples and 0 for dissimilar ones: minus the logarithm of the
probability of $s_{ij}$, where that of similarity is $\sigma(\Theta_{ij})$. No sum over $j$ can be
moved out of the logarithm: each pair costs its own.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pml_hashing.code_bank import CodeBank
from pml_hashing.pairs import IndicesTuple, similarity, to_pairs


def _of_products(inner: Tensor, similar: Tensor) -> Tensor:
    # log(1 + e^x) - x = log(1 + e^-x): half the product, with the other sign where similar.
    return softplus(inner * (0.5 - similar.to(inner.dtype)))


def pair_likelihood(
    codes: Tensor, ref_codes: Tensor, similar: Tensor, counted: Tensor | None = None
) -> Tensor:
    """Return the mean over the reference set of every code's losses, `(n,)`.

    Args:
        codes: Codes, `(n, code_length)`.
        ref_codes: Codes they are paired with, `(m, code_length)`.
        similar: Which pairs are similar, `(n, m)`.
        counted: Which pairs count, or how often, `(n, m)` or `(1, m)`. All once if `None`.
    """
    losses = _of_products(codes @ ref_codes.T, similar)
    if counted is None:
        return losses.mean(dim=1)
    return (losses * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def likelihood(
    codes: list[Tensor],
    bank: CodeBank,
    rows: Tensor,
    num_samples: int = 0,
    indices_tuple: IndicesTuple | None = None,
) -> Tensor:
    """Return the losses of every sample: of a miner's pairs, with the bank, or with the batch."""
    if num_samples > 0 and indices_tuple is None:
        return bank_likelihood(codes, bank, rows, num_samples)
    return batch_likelihood(codes, bank.labels_of(rows), indices_tuple)


def batch_likelihood(
    codes: list[Tensor], labels: Tensor, indices_tuple: IndicesTuple | None = None
) -> Tensor:
    """Return the losses of every sample with all of its batch.

    Args:
        codes: Codes of the batch by one network, whose pairs of a sample with itself do not count,
            or by two, which are paired with each other.
        labels: Labels of the batch.
        indices_tuple: A miner's pairs, which alone count if given. The mean over the batch is then
            the mean over these pairs.
    """
    if indices_tuple is not None:
        return _mined_likelihood(codes, labels, indices_tuple)
    counted = None
    if len(codes) == 1:
        counted = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return pair_likelihood(codes[0], codes[-1], similarity(labels, labels), counted)


def _mined_likelihood(codes: list[Tensor], labels: Tensor, indices_tuple: IndicesTuple) -> Tensor:
    a1, p, a2, n = to_pairs(indices_tuple, labels, labels)
    anchors, others = torch.cat([a1, a2]), torch.cat([p, n])
    inner = (codes[0][anchors] * codes[-1][others]).sum(dim=1)
    losses = _of_products(inner, torch.arange(len(anchors), device=anchors.device) < len(a1))
    scale = len(labels) / max(len(anchors), 1)
    return scale * inner.new_zeros(len(labels)).index_add(0, anchors, losses)


def bank_likelihood(codes: list[Tensor], bank: CodeBank, rows: Tensor, num_samples: int) -> Tensor:
    """Return the losses of every sample with codes that a bank remembers.

    A pair pulls at both of its ends, but counts once: the gradient is that of the sum over all
    pairs of the data set, divided by its size.

    Args:
        codes: Codes of the batch by one or two networks.
        bank: The bank.
        rows: Places of the batch in it.
        num_samples: Samples of the bank, drawn with replacement; all of them once where it has no
            more.
    """
    if num_samples < len(bank):
        drawn = torch.randint(len(bank), (num_samples,), device=rows.device)
    else:
        drawn = torch.arange(len(bank), device=rows.device)
    similar = similarity(bank.labels_of(rows), bank.labels_of(drawn))
    counted = rows[:, None] != drawn if len(codes) == 1 else None
    (query_codes, _), (database_codes, _) = bank.networks[0], bank.networks[-1]
    both = pair_likelihood(codes[0], database_codes[drawn].to(codes[0]), similar, counted)
    if len(codes) == 1:  # both ends are the same
        return 2 * both - both.detach()
    both = both + pair_likelihood(codes[1], query_codes[drawn].to(codes[1]), similar)
    return both - both.detach() / 2
