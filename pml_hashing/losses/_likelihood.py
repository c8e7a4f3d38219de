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

PAIRS_OF_A_BLOCK = 2**18
"""Pairs with a bank that are looked at together, so that they stay in the cache of a CPU."""


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
    (query_codes, _), (database_codes, _) = bank.networks[0], bank.networks[-1]
    if len(codes) == 1:  # both ends are the same
        both = _mean_over_bank(codes[0], query_codes, bank, rows, drawn, apart=True)
        return 2 * both - both.detach()
    both = _mean_over_bank(codes[0], database_codes, bank, rows, drawn)
    both = both + _mean_over_bank(codes[1], query_codes, bank, rows, drawn)
    return both - both.detach() / 2


def _mean_over_bank(
    codes: Tensor, others: Tensor, bank: CodeBank, rows: Tensor, drawn: Tensor, apart: bool = False
) -> Tensor:
    """Return the mean over the drawn samples of every code's losses, `(batch_size,)`.

    Block by block, each with its slope in the codes: no intermediate is kept for the way back.

    Args:
        codes: Codes of the batch by one network.
        others: Codes of all samples of the bank, by the network on the other side.
        bank: The bank.
        rows: Places of the batch in it.
        drawn: Places of the samples that the batch is paired with.
        apart: A pair of a sample with itself does not count.
    """
    fixed, labels = codes.detach(), bank.labels_of(rows)
    total, slope = torch.zeros_like(fixed[:, 0]), torch.zeros_like(fixed)
    count = torch.full_like(rows, len(drawn))
    pairs = PAIRS_OF_A_BLOCK if codes.device.type == "cpu" else 64 * PAIRS_OF_A_BLOCK
    for block in drawn.split(max(1, pairs // len(codes))):
        ref_codes = others[block].to(codes)
        signs = 0.5 - similarity(labels, bank.labels_of(block)).to(codes.dtype)
        logits = (fixed @ ref_codes.T).mul_(signs)  # as in `_of_products`
        if apart:
            same = rows[:, None] == block
            logits.masked_fill_(same, -torch.inf)  # neither loss nor slope
            count -= same.sum(dim=1)
        total += softplus(logits).sum(dim=1)
        slope += logits.sigmoid_().mul_(signs) @ ref_codes
    return (total + ((codes - fixed) * slope).sum(dim=1)) / count.clamp(min=1)
