"""Scores averaged over all orders inside ties, in closed form from counts by distance."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pml_hashing.evaluation._counts import DistanceCounts

WEIGHTS_AT_A_TIME = 2**20  # 8 MB in float64


def expected_average_precision(counts: DistanceCounts, top_k: int) -> Tensor:
    r"""Return the mean, over all orders inside ties, of the AP@`top_k` of every query.

    Groups of ties that end before the cut add what `precision_sum` says. Of a group that the cut
    splits, $m$ places lie before it, and the number $h$ of relevant items on these places is
    hypergeometric; given $h$, all ways to place them are equally likely. With $S$ the sum and $R$
    the number of relevant items of the groups before, and $G(h)$ the sum over the $m$ places,

    $$\mathrm{E}[\mathrm{AP}] = \sum_h \Pr(h)\, \frac{S + G(h)}{R + h}$$
    """
    items, relevant = counts.items.double(), counts.relevant.double()
    ends, hits = items.cumsum(dim=1), relevant.cumsum(dim=1)
    sums = precision_sum(items, relevant, ends - items, hits - relevant)
    if top_k >= counts.total:
        return sums.sum(dim=1) / hits[:, -1].clamp(min=1)
    sum_before = (sums * (ends <= top_k)).sum(dim=1, keepdim=True)
    queries_at_a_time = max(1, WEIGHTS_AT_A_TIME // _num_weights(top_k))
    columns = (sum_before, *cut_at(counts, top_k))
    blocks = zip(*(column.split(queries_at_a_time) for column in columns), strict=True)
    return torch.cat([_of_cut(sums, Cut(*cut), top_k) for sums, *cut in blocks])


def expected_precision(counts: DistanceCounts, top_k: int) -> Tensor:
    """Return the mean, over all orders inside ties, of the P@`top_k` of every query."""
    if top_k >= counts.total:
        return counts.relevant.sum(dim=1).double() / counts.total
    cut = cut_at(counts, top_k)
    return ((cut.hits_before + cut.places * cut.relevant / cut.items) / top_k).squeeze(1)


def precision_sum(items: Tensor, relevant: Tensor, before: Tensor, hits_before: Tensor) -> Tensor:
    r"""Return the expected sum of $P(r)$ over the ranks $r$ of a group's relevant items.

    The group holds $n$ items in random order, $\rho$ of them relevant, behind $N$ items with $R$
    relevant ones. Place $i$ of the group is relevant with probability $\rho / n$, and then each
    other place with probability $(\rho - 1) / (n - 1)$:

    $$\frac{\rho}{n} \sum_{i=1}^{n} \frac{1}{N + i}
      \left[ R + 1 + (i - 1) \frac{\rho - 1}{n - 1} \right]$$

    Args:
        items: $n$, float64. The arguments may have any shapes that broadcast.
        relevant: $\rho$.
        before: $N$.
        hits_before: $R$.
    """
    # With H the sum of 1 / (N + i), the sum of (i - 1) / (N + i) is n - (N + 1) H. A single item
    # has no others: any share will do, and 1 makes perfect rankings score 1 to the last digit.
    harmonic = torch.digamma(before + items + 1) - torch.digamma(before + 1)
    share = torch.where(items > 1, (relevant - 1) / (items - 1).clamp(min=1), 1)
    sums = (hits_before + 1 - share * (before + 1)) * harmonic + share * items
    return relevant / items.clamp(min=1) * sums


class Cut(NamedTuple):
    """The group of ties in which a ranking is cut, float64, `(num_queries, 1)` each.

    Attributes:
        items: Number of items of the group.
        relevant: Number of its relevant items.
        places: Number of its places before the cut, from 0 to `items - 1`.
        before: Number of items of the groups before it.
        hits_before: Number of their relevant items.
    """

    items: Tensor
    relevant: Tensor
    places: Tensor
    before: Tensor
    hits_before: Tensor


def cut_at(counts: DistanceCounts, top_k: int) -> Cut:
    """Return where the rankings are cut after `top_k` items, fewer than there are."""
    ends, hits = counts.items.cumsum(dim=1), counts.relevant.cumsum(dim=1)
    group = (ends <= top_k).sum(dim=1, keepdim=True)
    items, relevant, ends, hits = (
        x.gather(1, group).double() for x in (counts.items, counts.relevant, ends, hits)
    )
    before = ends - items
    return Cut(items, relevant, top_k - before, before, hits - relevant)


def _num_weights(top_k: int) -> int:
    """Return how many numbers of relevant items before the cut are told apart."""
    return min(top_k, math.ceil(10 * math.sqrt(top_k)) + 1) + 1


def _of_cut(sum_before: Tensor, cut: Cut, top_k: int) -> Tensor:
    # Hoeffding: less than 1e-21 of the probability is more than 5 sqrt(m) away from the mean.
    mean = cut.places * cut.relevant / cut.items
    least = torch.maximum(
        cut.places + cut.relevant - cut.items, (mean - 5 * cut.places.sqrt()).floor()
    ).clamp(min=0)
    hits = least + torch.arange(_num_weights(top_k), device=least.device)
    sums = sum_before + precision_sum(cut.places, hits, cut.before, cut.hits_before)
    scores = sums / (cut.hits_before + hits).clamp(min=1)
    return (_hypergeometric(cut, hits) * scores).sum(dim=1)


def _hypergeometric(cut: Cut, hits: Tensor) -> Tensor:
    """Return the probability of each number of relevant items before the cut.

    Args:
        cut: The groups of ties.
        hits: Consecutive numbers, from a possible one on, `(num_queries, num_weights)`.
    """
    # From the ratios of neighbours, which keep the digits that differences of lgamma lose.
    left = cut.items - cut.relevant - cut.places
    ratio = (cut.relevant - hits).clamp(min=0) * (cut.places - hits).clamp(min=0)
    ratio = ratio / ((hits + 1) * (left + hits + 1))
    log_weights = ratio[:, :-1].log().cumsum(dim=1)  # minus infinity beyond the largest number
    return torch.nn.functional.pad(log_weights, (1, 0)).softmax(dim=1)
