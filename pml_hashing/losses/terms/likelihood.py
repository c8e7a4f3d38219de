"""The likelihood of pairs of codes, which many methods share."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pml_hashing._checks import check_at_least
from pml_hashing.code_bank import Variables
from pml_hashing.losses.terms._base import Batch, Term
from pml_hashing.pairs import IndicesTuple, similarity, to_pairs

PAIRS_OF_A_BLOCK = 2**18
"""Pairs with a bank that are looked at together, so that they stay in the cache of a CPU."""


class PairLikelihood(Term):
    r"""Minus the logarithm of the likelihood of the similarity of pairs of codes.

    $$
    \frac{1}{n} \sum_j \ell_{ij}, \qquad
    \ell_{ij} = s_{ij} \log\left(1 + e^{m - \Theta_{ij}}\right)
        + (1 - s_{ij}) \log\left(1 + e^{m + \Theta_{ij}}\right), \qquad
    \Theta_{ij} = \tfrac{1}{2} u_i^\top v_j
    $$

    with $s_{ij} = 1$ for similar samples and 0 for dissimilar ones; with one network $v_j = u_j$,
    and pairs of a sample with itself do not count. Without a margin this is the usual
    $\log(1 + e^{\Theta_{ij}}) - s_{ij} \Theta_{ij}$. No sum over $j$ can be moved out of the
    logarithm: each pair costs its own, and so the pairs are those of the batch, those with some
    samples of the bank, or a miner's. It is not in the objective that `update_codes` returns.

    Args:
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with; at least $n$: all. 0: those of the batch.
        margin: The margin $m$.

    Raises:
        ValueError: If an argument is negative.
    """

    in_objective = False
    of_pairs = True

    def __init__(self, bank_samples: int = 0, *, margin: float = 0.0) -> None:
        super().__init__()
        check_at_least(bank_samples, 0, "bank_samples")
        check_at_least(margin, 0, "margin")
        self.bank_samples, self.margin = bank_samples, margin

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        if batch.pairs is not None:
            return self._of_miner(batch.codes, batch.labels, batch.pairs)
        if self.bank_samples > 0 and not batch.bank.is_batch:
            return self._with_bank(batch)
        labels, counted = batch.labels, None
        if len(batch.codes) == 1:
            counted = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        similar = similarity(labels, labels)
        return pair_likelihood(batch.codes[0], batch.codes[-1], similar, counted, self.margin)

    def _of_miner(self, codes: list[Tensor], labels: Tensor, pairs: IndicesTuple) -> Tensor:
        """Scaled so that the mean over the batch is the mean over these pairs."""
        a1, p, a2, n = to_pairs(pairs, labels, labels)
        anchors, others = torch.cat([a1, a2]), torch.cat([p, n])
        inner = (codes[0][anchors] * codes[-1][others]).sum(dim=1)
        similar = torch.arange(len(anchors), device=anchors.device) < len(a1)
        losses = _of_products(inner, similar, self.margin)
        scale = len(labels) / max(len(anchors), 1)
        return scale * inner.new_zeros(len(labels)).index_add(0, anchors, losses)

    def _with_bank(self, batch: Batch) -> Tensor:
        """Pair the batch with samples of the bank, drawn with replacement; or with all of them.

        A pair pulls at both of its ends, but counts once: the gradient is that of the sum over all
        pairs of the data set, divided by its size.
        """
        bank, codes, device = batch.bank, batch.codes, batch.codes[0].device
        if self.bank_samples < len(bank):
            drawn = torch.randint(len(bank), (self.bank_samples,), device=device)
        else:
            drawn = torch.arange(len(bank), device=device)
        if len(codes) == 1:  # both ends are the same
            both = self._mean_over_bank(batch, codes[0], bank.query_codes, drawn, apart=True)
            return 2 * both - both.detach()
        both = self._mean_over_bank(batch, codes[0], bank.networks[1], drawn)
        both = both + self._mean_over_bank(batch, codes[1], bank.networks[0], drawn)
        return both - both.detach() / 2

    def _mean_over_bank(
        self, batch: Batch, codes: Tensor, others: Tensor, drawn: Tensor, apart: bool = False
    ) -> Tensor:
        """Return the mean over the drawn samples of every code's losses, `(batch_size,)`.

        Block by block, each with its slope in the codes: no intermediate is kept for the way back.

        Args:
            batch: The batch.
            codes: Its codes by one network.
            others: Codes of all samples of the bank, by the network on the other side.
            drawn: Places of the samples that the batch is paired with.
            apart: A pair of a sample with itself does not count.
        """
        fixed, rows = codes.detach(), _places(batch)
        total, slope = torch.zeros_like(fixed[:, 0]), torch.zeros_like(fixed)
        count = torch.full_like(rows, len(drawn))
        pairs = PAIRS_OF_A_BLOCK if codes.device.type == "cpu" else 64 * PAIRS_OF_A_BLOCK
        for block in drawn.split(max(1, pairs // len(codes))):
            ref_codes = others[block].to(codes)
            signs = 0.5 - similarity(batch.labels, batch.bank.labels_of(block)).to(codes.dtype)
            logits = (fixed @ ref_codes.T).mul_(signs).add_(self.margin)  # as in `_of_products`
            if apart:
                same = rows[:, None] == block
                logits.masked_fill_(same, -torch.inf)  # neither loss nor slope
                count -= same.sum(dim=1)
            total += softplus(logits).sum(dim=1)
            slope += logits.sigmoid_().mul_(signs) @ ref_codes
        return (total + ((codes - fixed) * slope).sum(dim=1)) / count.clamp(min=1)


def _places(batch: Batch) -> Tensor:
    """Return the places of the samples of a batch as a tensor."""
    if isinstance(batch.rows, Tensor):
        return batch.rows
    return torch.arange(len(batch.bank), device=batch.codes[0].device)[batch.rows]


def _of_products(inner: Tensor, similar: Tensor, margin: float = 0.0) -> Tensor:
    # log(1 + e^x) - x = log(1 + e^-x): half the product, with the other sign where similar.
    logits = inner * (0.5 - similar.to(inner.dtype))
    return softplus(logits + margin if margin else logits)


def pair_likelihood(
    codes: Tensor,
    ref_codes: Tensor,
    similar: Tensor,
    counted: Tensor | None = None,
    margin: float = 0.0,
) -> Tensor:
    """Return the mean over the reference set of every code's losses, `(n,)`.

    Args:
        codes: Codes, `(n, code_length)`.
        ref_codes: Codes they are paired with, `(m, code_length)`.
        similar: Which pairs are similar, `(n, m)`.
        counted: Which pairs count, or how often, `(n, m)` or `(1, m)`. All once if `None`.
        margin: The margin.
    """
    losses = _of_products(codes @ ref_codes.T, similar, margin)
    if counted is None:
        return losses.mean(dim=1)
    return (losses * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
