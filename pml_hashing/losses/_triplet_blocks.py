"""Losses of all triplets of a batch, in blocks: see `_pair_blocks`."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pml_hashing.losses._pair_blocks import Labels, elements_of_a_block


class Penalty(NamedTuple):
    """A function of $m - s_{ap} + s_{an}$, by which a dissimilar sample is too near."""

    margin: float
    """The margin $m$."""
    value: Callable[[Tensor], Tensor]
    """The function: 0 where the dissimilar sample is infinitely far."""
    slope: Callable[[Tensor], Tensor]
    """Its derivative, from which derivatives are taken in turn."""


class TripletSums(NamedTuple):
    """Sums over the triplets of each sample of a batch, `(n,)`."""

    losses: Tensor
    counts: Tensor


def triplet_sums(codes: Tensor, ref_codes: Tensor, labels: Labels, penalty: Penalty) -> TripletSums:
    """Return the sum of the penalties over the triplets of each anchor, and their number.

    Args:
        codes: Codes of the batch, `(n, width)`, such that the score $s$ is the inner product.
        ref_codes: Codes of the reference set, `(m, width)`.
        labels: Labels of both.
        penalty: The penalty.
    """
    needs_slope = codes.requires_grad or ref_codes.requires_grad
    losses, counts, _ = _TripletSums.apply(codes, ref_codes, labels, penalty, needs_slope)
    return TripletSums(losses, counts)


def pair_penalties(nearer: Tensor, farther: Tensor, anchors: Tensor, penalty: Penalty) -> Tensor:
    r"""Return the sum of the penalties over the dissimilar samples of each similar pair, `(p,)`.

    Args:
        nearer: Scores of the similar pairs, `(p,)`.
        farther: Of all pairs, score and margin if they are dissimilar, else $-\infty$, `(n, m)`.
        anchors: The anchors of the similar pairs, `(p,)`.
        penalty: The penalty.
    """
    return _PairPenalties.apply(nearer, farther, anchors, penalty)  # pyright: ignore[reportReturnType]


class _PairPenalties(torch.autograd.Function):
    """Memory grows with the pairs, not with the triplets: the way back computes a block anew."""

    @staticmethod
    def forward(nearer: Tensor, farther: Tensor, anchors: Tensor, penalty: Penalty) -> Tensor:
        losses = torch.empty_like(nearer)
        for pairs in _blocks_of_pairs(nearer, farther):
            excess = farther[anchors[pairs]] - nearer[pairs, None]
            losses[pairs] = penalty.value(excess).sum(dim=1)
        return losses

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.penalty = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        nearer, farther, anchors = ctx.saved_tensors
        of_near, of_far = [], torch.zeros_like(farther)
        for pairs in _blocks_of_pairs(nearer, farther):
            excess = farther[anchors[pairs]] - nearer[pairs, None]
            slope = ctx.penalty.slope(excess) * slopes[pairs, None]
            of_near.append(-slope.sum(dim=1))
            of_far.index_add_(0, anchors[pairs], slope)
        return torch.cat(of_near), of_far, None, None


def _blocks_of_pairs(nearer: Tensor, farther: Tensor) -> Iterator[slice]:
    size = max(1, elements_of_a_block(farther.device) // farther.shape[1])
    for start in range(0, max(1, len(nearer)), size):  # one at least, where there is no pair
        yield slice(start, start + size)


class _TripletSums(torch.autograd.Function):
    """The way back takes the slope in the scores, `(n, m)`: all triplets of an anchor share it."""

    @staticmethod
    def forward(
        codes: Tensor, ref_codes: Tensor, labels: Labels, penalty: Penalty, needs_slope: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _over_blocks(codes, ref_codes, labels, penalty, needs_slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        codes, ref_codes, ctx.labels, ctx.penalty, ctx.has_slope = inputs
        ctx.save_for_backward(codes, ref_codes, output[2])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        codes, ref_codes, slope = ctx.saved_tensors
        if torch.is_grad_enabled() or not ctx.has_slope:  # a derivative may be taken of it
            slope = _over_blocks(codes, ref_codes, ctx.labels, ctx.penalty, True)[2]
        slope = slope * slopes[0][:, None]
        return slope @ ref_codes, slope.T @ codes, None, None, None


def _over_blocks(
    codes: Tensor, ref_codes: Tensor, labels: Labels, penalty: Penalty, needs_slope: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses and numbers of triplets of each anchor; slopes in the scores, or nothing."""
    parts = []
    for block in labels.blocks():
        similar, dissimilar = labels.kinds(block, codes.dtype)
        scores = codes[block] @ ref_codes.T
        counts = similar.sum(dim=1) * dissimilar.sum(dim=1)
        farther = (scores + penalty.margin).masked_fill(dissimilar == 0, -torch.inf)
        losses, slope = _of_anchors(scores, farther, similar, penalty, needs_slope)
        parts.append((losses, counts, slope))
    losses, counts, slopes = (torch.cat(part) for part in zip(*parts, strict=True))
    return losses, counts, slopes


def _of_anchors(
    scores: Tensor, farther: Tensor, similar: Tensor, penalty: Penalty, needs_slope: bool
) -> tuple[Tensor, Tensor]:
    """Return the losses of each anchor, and its slope in the scores; nothing if it is not asked."""
    width = max(1, elements_of_a_block(scores.device) // scores.shape[1])
    order, losses, slopes = [], [], []
    for rows, places, counted in _similar_places(similar, width):
        nearer = scores[rows].gather(1, places).masked_fill(~counted, torch.inf)
        far = farther[rows]
        parts = [
            _of_triplets(near, far, penalty, needs_slope) for near in nearer.split(width, dim=1)
        ]
        own, of_near, of_far = zip(*parts, strict=True)
        slope = torch.stack(of_far).sum(dim=0)
        if needs_slope:
            slope = slope.scatter_add(1, places, -torch.cat(of_near, dim=1))
        order.append(rows)
        losses.append(torch.stack(own).sum(dim=0))
        slopes.append(slope)
    back = torch.cat(order).argsort()
    return torch.cat(losses)[back], torch.cat(slopes)[back]


def _of_triplets(
    nearer: Tensor, farther: Tensor, penalty: Penalty, needs_slope: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses of each anchor, and their slopes by similar and by dissimilar sample."""
    excess = farther[:, None, :] - nearer[:, :, None]
    losses = penalty.value(excess).sum(dim=(1, 2))
    if not needs_slope:
        return losses, nearer[:, :0], farther[:, :0]
    slope = penalty.slope(excess)
    return losses, slope.sum(dim=2), slope.sum(dim=1)


def _similar_places(similar: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield some anchors, places of their similar samples, and a mask of the places that count.

    On a CPU the anchors with the most similar samples come first, with as many places as one of
    them has at most. Elsewhere all places come, since to count them would stop a GPU.

    Args:
        similar: Which samples are similar to each anchor, as 0 and 1, `(b, m)`.
        width: How many places of all anchors together are wanted at a time.
    """
    if similar.device.type != "cpu":
        anchors, every = (torch.arange(size, device=similar.device) for size in similar.shape)
        for rows in anchors.split(max(1, width // len(every))):
            yield rows, every.expand(len(rows), -1), similar[rows] > 0
        return
    counts = similar.sum(dim=1).long()
    starts, found = counts.cumsum(0) - counts, F.pad(similar.nonzero()[:, 1], (0, 1))
    left = counts.argsort(descending=True)
    while len(left) > 0:
        most = max(1, int(counts[left[0]]))
        rows, left = left.tensor_split([max(1, width // most)])
        ranks = torch.arange(most, device="cpu")
        counted = ranks < counts[rows, None]
        places = found[(starts[rows, None] + ranks).clamp(max=len(found) - 1)]
        yield rows, places, counted
