r"""The loss of a pair by its likelihood, and its sums over all pairs of a batch, in blocks.

$$
\log(1 + e^{m - x}) \text{ where similar}, \qquad \log(1 + e^{m + x}) \text{ where not}
$$

for the logit $x$ of the pair and a margin $m$: the softplus of `signed_logits`, in all losses.

What is summed here are rows of a matrix of products. None of its blocks is kept for the way back,
nothing is looked up by places (which would stop a GPU), and memory does not grow with the pairs.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from pml_hashing.pairs import IndicesTuple, require_both

ELEMENTS_OF_A_BLOCK = 2**17
"""Pairs, or triplets, that are looked at together, so that they stay in the cache of a CPU."""
ON_A_GPU = 64
"""How many times as many elsewhere, where a block costs its launch."""

PairWeights: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Weights of the similar pairs of some labels and all reference labels, `(b, m)`."""


def elements_of_a_block(device: torch.device) -> int:
    """Return how many pairs or triplets are looked at together on a device."""
    return ELEMENTS_OF_A_BLOCK * (1 if device.type == "cpu" else ON_A_GPU)


class Labels(NamedTuple):
    """What says which pairs of a batch and a reference set are similar, and which count."""

    rows: Tensor
    """Labels of the batch: class ids `(n,)` or multi-hot rows `(n, num_classes)`, as floats."""
    columns: Tensor
    """Labels of the reference set, `(m,)` or `(m, num_classes)`."""
    apart: bool
    """Whether both are the same samples, of which none is paired with itself."""

    @classmethod
    def of(cls, labels: Tensor | None, ref_labels: Tensor | None) -> "Labels":
        """Return checked labels: the same object twice is a batch paired with itself.

        Raises:
            ValueError: If labels are missing or of two kinds, or multi-hot rows hold other values
                than 0 and 1.
        """
        return cls.of_pairs(*require_both(labels, ref_labels), apart=ref_labels is labels)

    @classmethod
    def of_pairs(cls, rows: Tensor, columns: Tensor, *, apart: bool) -> "Labels":
        """Return labels that have been checked."""
        if rows.ndim == 2:
            rows, columns = rows.float(), columns.float()
        return cls(rows, columns, apart)

    def kinds(self, block: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return which pairs of some rows are similar, and which dissimilar, as 0 and 1.

        Numbers, `(b, m)`: a CPU takes several times as long for masks.
        """
        if self.rows.ndim == 1:
            similar = (self.rows[block, None] == self.columns).to(dtype)
        else:
            similar = (self.rows[block] @ self.columns.T).clamp_(max=1).to(dtype)
        dissimilar = 1 - similar
        if self.apart:
            similar.diagonal(block.start).zero_()
            dissimilar.diagonal(block.start).zero_()  # a multi-hot row may be empty
        return similar, dissimilar

    def blocks(self) -> Iterator[slice]:
        """Yield slices that cover the rows, of as many as are looked at together."""
        elements = elements_of_a_block(self.rows.device)
        size = max(1, elements // len(self.columns))
        for start in range(0, len(self.rows), size):
            yield slice(start, start + size)


class RowSums(NamedTuple):
    """Sums over the pairs of each sample of a batch, `(n,)`."""

    similar: Tensor
    """Of the losses of its similar pairs."""
    dissimilar: Tensor
    """Of the losses of its dissimilar pairs."""
    num_similar: Tensor
    """Number of its similar pairs."""
    num_dissimilar: Tensor
    """Number of its dissimilar pairs."""


def pair_sums(
    codes: Tensor,
    ref_codes: Tensor,
    labels: Labels,
    margin: float = 0.0,
    pair_weights: PairWeights | None = None,
) -> RowSums:
    """Return the sums of the losses of the similar and of the dissimilar pairs of each sample.

    Args:
        codes: Codes of the batch, `(n, code_length)`, scaled such that the logit of a pair is the
            inner product.
        ref_codes: Codes that they are paired with, `(m, code_length)`.
        labels: Labels of both.
        margin: The margin.
        pair_weights: Weights of similar pairs. 1 if `None`.
    """
    return RowSums(*_PairSums.apply(codes, ref_codes, labels, margin, pair_weights))


def sums_of_logits(
    logits: Tensor, labels: Labels, pair_weights: PairWeights | None = None
) -> RowSums:
    """Return the same sums of logits that were computed elsewhere, `(n, m)`, all at once."""
    block = slice(0, len(logits))
    return RowSums(*_sums_of_block(logits, labels, block, 0.0, pair_weights))


def losses_of_pairs(
    logits: Tensor, pairs: IndicesTuple, margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the losses of the similar and of the dissimilar ones of some pairs, as of a miner.

    Args:
        logits: The logits of all pairs, `(n, m)`.
        pairs: Anchors and others of the similar pairs, then of the dissimilar ones.
        margin: The margin.
    """
    a1, p, a2, n = pairs
    similar, dissimilar = -logits[a1, p], logits[a2, n]
    if margin:
        similar, dissimilar = similar + margin, dissimilar + margin
    return F.softplus(similar), F.softplus(dissimilar)


def signed_logits(logits: Tensor, signs: Tensor, margin: float = 0.0) -> Tensor:
    """Return what the loss of a pair is the softplus of, and its slope the sigmoid.

    Args:
        logits: Logits of pairs.
        signs: -1 where a pair is similar, 1 where it is not, 0 where it does not count.
        margin: The margin.
    """
    # log(1 + e^x) - x = log(1 + e^-x): the logit, with the other sign where similar.
    return logits * signs + margin if margin else logits * signs


class _PairSums(torch.autograd.Function):
    """The way back computes every block anew: less work than to write it to memory and back."""

    @staticmethod
    def forward(
        codes: Tensor,
        ref_codes: Tensor,
        labels: Labels,
        margin: float,
        pair_weights: PairWeights | None,
    ) -> tuple[Tensor, ...]:
        # Into place: small results kept between the blocks' large ones would break the heap up.
        sums = codes.new_empty(len(RowSums._fields), len(codes))
        for block in labels.blocks():
            logits = codes[block] @ ref_codes.T
            for row, part in zip(
                sums, _sums_of_block(logits, labels, block, margin, pair_weights), strict=True
            ):
                row[block] = part
        return sums.unbind()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        codes, ref_codes, ctx.labels, ctx.margin, ctx.pair_weights = inputs
        ctx.save_for_backward(codes, ref_codes)
        ctx.mark_non_differentiable(*output[2:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (codes, ref_codes), labels = ctx.saved_tensors, ctx.labels
        rows, columns = torch.zeros_like(codes), torch.zeros_like(ref_codes)
        for block in labels.blocks():
            similar, dissimilar = labels.kinds(block, codes.dtype)
            signs = dissimilar - similar
            logits = signed_logits(codes[block] @ ref_codes.T, signs, ctx.margin)
            weights = dissimilar * slopes[1][block, None]
            if ctx.pair_weights is not None:
                similar = similar * ctx.pair_weights(labels.rows[block], labels.columns)
            weights = weights - similar * slopes[0][block, None]
            slope = logits.sigmoid() * weights
            rows[block] = slope @ ref_codes
            columns.addmm_(slope.T, codes[block])
        return rows, columns, None, None, None


def _sums_of_block(
    logits: Tensor, labels: Labels, block: slice, margin: float, pair_weights: PairWeights | None
) -> list[Tensor]:
    similar, dissimilar = labels.kinds(block, logits.dtype)
    losses = F.softplus(signed_logits(logits, dissimilar - similar, margin))
    counts = [similar.sum(dim=1), dissimilar.sum(dim=1)]
    if pair_weights is not None:
        similar = similar * pair_weights(labels.rows[block], labels.columns)
    return [(losses * similar).sum(dim=1), (losses * dissimilar).sum(dim=1), *counts]
