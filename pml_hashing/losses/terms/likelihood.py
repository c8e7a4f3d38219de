"""The likelihood of pairs of codes, which many methods share."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pml_hashing._checks import check_at_least
from pml_hashing.code_bank import CodeBank, Variables
from pml_hashing.losses._pair_blocks import (
    Labels,
    elements_of_a_block,
    losses_of_pairs,
    pair_sums,
    signed_logits,
)
from pml_hashing.losses._similar_weight import (
    SimilarWeight,
    check_similar_weight,
    kind_counts,
    kind_weights,
)
from pml_hashing.losses.terms._base import Batch, Term
from pml_hashing.pairs import IndicesTuple, similarity, to_pairs


class PairLikelihood(Term):
    r"""Minus the logarithm of the likelihood of the similarity of pairs of codes.

    $$
    \frac{1}{n} \sum_j w_{ij}\, \ell_{ij}, \qquad
    \ell_{ij} = s_{ij} \log\left(1 + e^{m - \Theta_{ij}}\right)
        + (1 - s_{ij}) \log\left(1 + e^{m + \Theta_{ij}}\right), \qquad
    \Theta_{ij} = \tfrac{1}{2} u_i^\top v_j
    $$

    with $s_{ij} = 1$ for similar samples and 0 for dissimilar ones; with one network $v_j = u_j$,
    and pairs of a sample with itself do not count. Without a margin this is the usual
    $\log(1 + e^{\Theta_{ij}}) - s_{ij} \Theta_{ij}$. No sum over $j$ can be moved out of the
    logarithm: each pair costs its own, and so the pairs are those of the batch, those with some
    samples of the bank, or a miner's. It is not in the objective that `update_codes` returns.

    The weights $w_{ij}$ have a mean of 1 over all pairs: of the data set, or of the batch in
    mini-batch mode, or of the miner's. Where all are 1, as in the papers, and similar pairs are
    few, as with many classes, the likelihood is won by pushing all codes apart.

    Variables: `num_pairs`, the numbers of similar and of dissimilar pairs of the data set, `(2,)`,
    where they are weighted.

    Args:
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with; at least $n$: all. 0: those of the batch.
        margin: The margin $m$.
        similar_weight: Weight $w_{ij}$ of a similar pair over that of a dissimilar one.
            `"balanced"`: the number of dissimilar pairs over that of similar ones, so that each
            kind has half of the whole. 1: all weigh the same.

    Raises:
        ValueError: If `bank_samples` or `margin` is negative, or `similar_weight` is neither
            "balanced" nor positive.
    """

    in_objective = False
    of_pairs = True

    def __init__(
        self,
        bank_samples: int = 0,
        *,
        margin: float = 0.0,
        similar_weight: SimilarWeight = "balanced",
    ) -> None:
        super().__init__()
        check_at_least(bank_samples, 0, "bank_samples")
        check_at_least(margin, 0, "margin")
        check_similar_weight(similar_weight)
        self.bank_samples, self.margin = bank_samples, margin
        self.similar_weight: SimilarWeight = similar_weight

    def extra_repr(self) -> str:
        return f"similar_weight={self.similar_weight!r}"

    def start(self, bank: CodeBank) -> Variables:
        if bank.is_batch or self.similar_weight == 1:
            return {}
        one_network = len(bank.networks) == 1
        counts = kind_counts(bank.group_labels, bank.group_sizes, with_itself=not one_network)
        return {"num_pairs": torch.stack(counts).to(bank.query_codes)}

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        if batch.pairs is not None:
            return self._of_miner(batch.codes, batch.labels, batch.pairs)
        if self.bank_samples > 0 and not batch.bank.is_batch:
            return self._with_bank(batch, variables)
        labels = Labels.of_pairs(batch.labels, batch.labels, apart=len(batch.codes) == 1)
        sums = pair_sums(batch.codes[0] / 2, batch.codes[-1], labels, self.margin)
        counts = torch.stack([sums.num_similar, sums.num_dissimilar])
        of_all = variables.get("num_pairs", counts.sum(dim=1)).to(counts)
        weights = kind_weights(self.similar_weight, *of_all)
        losses = weights[0] * sums.similar + weights[1] * sums.dissimilar
        return losses / counts.sum(dim=0).clamp(min=1)

    def _of_miner(self, codes: list[Tensor], labels: Tensor, pairs: IndicesTuple) -> Tensor:
        """Scaled so that the mean over the batch is the mean over these pairs."""
        a1, _, a2, _ = kinds = to_pairs(pairs, labels, labels)
        similar, dissimilar = losses_of_pairs(codes[0] / 2 @ codes[-1].T, kinds, self.margin)
        counts = (similar.new_tensor(len(a1)), similar.new_tensor(len(a2)))
        weights = kind_weights(self.similar_weight, *counts)
        sums = similar.new_zeros(len(labels)).index_add(0, a1, weights[0] * similar)
        sums = sums.index_add(0, a2, weights[1] * dissimilar)
        return sums * (len(labels) / max(len(a1) + len(a2), 1))

    def _with_bank(self, batch: Batch, variables: Variables) -> Tensor:
        """Pair the batch with samples of the bank, drawn with replacement; or with all of them.

        A pair pulls at both of its ends, but counts once: the gradient is that of the sum over all
        pairs of the data set, divided by its size.
        """
        bank, codes, device = batch.bank, batch.codes, batch.codes[0].device
        if self.bank_samples < len(bank):
            drawn = torch.randint(len(bank), (self.bank_samples,), device=device)
        else:
            drawn = torch.arange(len(bank), device=device)
        weights = None
        if "num_pairs" in variables:
            weights = kind_weights(self.similar_weight, *variables["num_pairs"].to(codes[0]))
        if len(codes) == 1:  # both ends are the same
            both = self._mean_over_bank(batch, codes[0], bank.query_codes, drawn, weights, True)
            return 2 * both - both.detach()
        both = self._mean_over_bank(batch, codes[0], bank.networks[1], drawn, weights)
        both = both + self._mean_over_bank(batch, codes[1], bank.networks[0], drawn, weights)
        return both - both.detach() / 2

    def _mean_over_bank(
        self,
        batch: Batch,
        codes: Tensor,
        others: Tensor,
        drawn: Tensor,
        weights: tuple[Tensor, Tensor] | None,
        apart: bool = False,
    ) -> Tensor:
        """Return the mean over the drawn samples of every code's losses, `(batch_size,)`.

        Block by block, each with its slope in the codes: no intermediate is kept for the way back.
        Codes of the bank have no gradient, so that one pass gives both; `pair_sums`, which has it
        for both sides, takes two, and the codes and labels of all drawn samples at once.

        Args:
            batch: The batch.
            codes: Its codes by one network.
            others: Codes of all samples of the bank, by the network on the other side.
            drawn: Places of the samples that the batch is paired with.
            weights: Weights of a similar and of a dissimilar pair. 1 if `None`.
            apart: A pair of a sample with itself does not count.
        """
        codes, rows = codes / 2, _places(batch)
        fixed = codes.detach()
        total, slope = torch.zeros_like(fixed[:, 0]), torch.zeros_like(fixed)
        count = torch.full_like(rows, len(drawn))
        for block in drawn.split(max(1, elements_of_a_block(codes.device) // len(codes))):
            ref_codes = others[block].to(codes)
            similar = similarity(batch.labels, batch.bank.labels_of(block)).to(codes.dtype)
            signs = 1 - 2 * similar
            logits = signed_logits(fixed @ ref_codes.T, signs, self.margin)
            if apart:
                same = rows[:, None] == block
                logits.masked_fill_(same, -torch.inf)  # neither loss nor slope
                count -= same.sum(dim=1)
            losses = softplus(logits)
            if weights is not None:
                of_pairs = similar.mul_(weights[0] - weights[1]).add_(weights[1])
                losses, signs = losses.mul_(of_pairs), signs.mul_(of_pairs)
            total += losses.sum(dim=1)
            slope += logits.sigmoid_().mul_(signs) @ ref_codes
        return (total + ((codes - fixed) * slope).sum(dim=1)) / count.clamp(min=1)


def _places(batch: Batch) -> Tensor:
    """Return the places of the samples of a batch as a tensor."""
    if isinstance(batch.rows, Tensor):
        return batch.rows
    return torch.arange(len(batch.bank), device=batch.codes[0].device)[batch.rows]
