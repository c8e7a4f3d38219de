"""Scores averaged over all orders inside ties, in closed form from counts by distance."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pml_hashing.evaluation._scores import (
    Divisor,
    QueryScores,
    cumulative_discounts,
    gains,
    ideal_gains,
)

WEIGHTS_AT_A_TIME = 2**20  # 8 MB in float64


class ExpectedScores(QueryScores):
    """Means over all orders inside ties.

    Args:
        counts: Items of each query, group of ties and grade, nearest group first,
            `(num_queries, num_groups, num_levels)`.
    """

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts
        self.items, self.relevant = counts.sum(dim=2), counts[:, :, 1:].sum(dim=2)
        self.ends, self.hits = self.items.cumsum(dim=1), self.relevant.cumsum(dim=1)
        self.total = int(self.ends[0, -1])
        self.num_relevant = self.hits[:, -1]

    def average_precision(
        self,
        top_k: int | Tensor | None = None,
        *,
        divisor: Divisor = "retrieved",
        weighted: bool = False,
    ) -> Tensor:
        cuts, groups = self.cuts(top_k), self._groups(weighted)
        sums = precision_sum(groups, self._places(cuts).double())
        if divisor == "relevant" or int(cuts.min()) == self.total:
            return sums.sum(dim=1) / self.num_relevant.clamp(min=1)
        whole = self.ends <= cuts[:, None]
        at = whole.sum(dim=1, keepdim=True).clamp(max=self.ends.shape[1] - 1)
        cut = Groups(*(x.gather(1, at) for x in groups))
        sum_before = (sums * whole).sum(dim=1, keepdim=True)
        places = cuts[:, None].double() - cut.before
        return expected_over_found(sum_before, cut, places)

    def precision(self, top_k: int | Tensor) -> Tensor:
        cuts = self.cuts(top_k)
        places = self._places(cuts).double()
        return (self.relevant * places / self.items.clamp(min=1)).sum(dim=1) / cuts

    def ndcg(self, top_k: int | None = None) -> Tensor:
        cuts = self.cuts(top_k)
        discounts = cumulative_discounts(int(cuts.max()), cuts.device)
        mean_gains = (self.counts * gains(self.counts.shape[2], cuts.device)).sum(dim=2)
        mean_gains /= self.items.clamp(min=1)
        starts = (self.ends - self.items).minimum(cuts[:, None])
        spans = discounts[starts + self._places(cuts)] - discounts[starts]
        best = ideal_gains(self.counts.sum(dim=1), cuts, discounts)
        return (mean_gains * spans).sum(dim=1) / torch.where(best > 0, best, 1)

    def reciprocal_rank(self) -> Tensor:
        r"""Average over where the first relevant item falls in the first group that has any.

        Of $n$ items, $\rho$ of them relevant, the first relevant one is at place $j$ with
        probability $p_j$, $p_1 = \rho / n$ and $p_{j+1} / p_j = (n - \rho - j + 1) / (n - j)$.
        """
        group = (self.relevant > 0).byte().argmax(dim=1, keepdim=True)
        items, relevant, ends = (
            x.gather(1, group).double() for x in (self.items, self.relevant, self.ends)
        )
        # p_j < exp(-j rho / n): beyond 50 n / rho places less than 1e-21 is left
        most = ((50 * items / relevant.clamp(min=1)).ceil()).minimum(items - relevant + 1)
        length = max(1, int(most.max()))
        size = max(1, WEIGHTS_AT_A_TIME // length)
        columns = zip(items.split(size), relevant.split(size), ends.split(size), strict=True)
        return torch.cat([_reciprocal_of_first(n, r, e - n, length) for n, r, e in columns])

    def hits_by_rank(self, weights: Tensor) -> Tensor:
        # A group spreads its relevant items evenly over its ranks: note where this rate of hits
        # begins and where it ends, and sum over queries, then over ranks.
        rates = self.relevant / self.items.clamp(min=1).double() * weights[:, None]
        changes = rates.new_zeros(self.total + 1)
        changes.index_add_(0, (self.ends - self.items).flatten(), rates.flatten())
        changes.index_add_(0, self.ends.flatten(), -rates.flatten())
        return changes.cumsum(dim=0)[:-1]

    def _grade_sums(self) -> Tensor:
        grades = torch.arange(self.counts.shape[2], device=self.counts.device)
        return (self.counts * grades).sum(dim=2)

    def _places(self, cuts: Tensor) -> Tensor:
        """Return how many places of each group lie before the cut."""
        return (cuts[:, None] - self.ends + self.items).clamp(min=0).minimum(self.items)

    def _groups(self, weighted: bool) -> "Groups":
        grades = self._grade_sums() if weighted else self.relevant
        before = self.ends - self.items, self.hits - self.relevant, grades.cumsum(dim=1) - grades
        mean_grade = grades / self.relevant.clamp(min=1).double()
        return Groups(self.items.double(), self.relevant.double(), mean_grade, *before)


class Groups(NamedTuple):
    """Groups of ties, in any shape.

    Attributes:
        items: Number of items of the group, float64.
        relevant: Number of its relevant items, float64.
        mean_grade: Of its relevant items, float64.
        before: Number of items of the groups before it.
        hits_before: Number of their relevant items.
        grades_before: Sum of their grades.
    """

    items: Tensor
    relevant: Tensor
    mean_grade: Tensor
    before: Tensor
    hits_before: Tensor
    grades_before: Tensor


def precision_sum(groups: Groups, places: Tensor) -> Tensor:
    r"""Return the expected sum of $P(r)$ over the relevant items on the first places of a group.

    The group holds $n$ items in random order, $\rho$ of them relevant with mean grade $\mu$, behind
    $N$ items with a sum of grades $T$. A place is relevant with probability $\rho / n$, and then
    each other place with probability $(\rho - 1) / (n - 1)$; the sum over $m$ places is

    $$\frac{\rho}{n} \sum_{i=1}^{m} \frac{1}{N + i}
      \left[ T + \mu + (i - 1) \frac{\rho - 1}{n - 1} \mu \right]$$
    """
    items, relevant, mean_grade, before, _, grades_before = groups
    # With H the sum of 1 / (N + i), the sum of (i - 1) / (N + i) is m - (N + 1) H. A single item
    # has no others: any share will do, and 1 makes perfect rankings score 1 to the last digit.
    harmonic = torch.digamma(before + places + 1) - torch.digamma(before.double() + 1)
    share = torch.where(items > 1, (relevant - 1) / (items - 1).clamp(min=1), 1) * mean_grade
    sums = (grades_before + mean_grade - share * (before + 1)) * harmonic + share * places
    return relevant / items.clamp(min=1) * sums


def expected_over_found(sum_before: Tensor, cut: Groups, places: Tensor) -> Tensor:
    r"""Return the mean AP of rankings that are cut inside a group, over the relevant items found.

    Of the group, $m$ places lie before the cut, and the number $h$ of relevant items on these
    places is hypergeometric; given $h$, all ways to place them are equally likely. With $S$ the sum
    and $R$ the number of relevant items of the groups before, and $G(h)$ the sum over the $m$
    places,

    $$\mathrm{E}[\mathrm{AP}] = \sum_h \Pr(h)\, \frac{S + G(h)}{R + h}$$

    Args:
        sum_before: $S$, `(num_queries, 1)`.
        cut: The group that each ranking is cut in, of tensors of this shape.
        places: $m$, less than the group has items.
    """
    num_weights = _num_weights(int(places.max()))
    size = max(1, WEIGHTS_AT_A_TIME // num_weights)
    columns = zip(*(x.split(size) for x in (sum_before, places, *cut)), strict=True)
    return torch.cat([_over_found(s, Groups(*g), m, num_weights) for s, m, *g in columns])


def _num_weights(places: int) -> int:
    """Return how many numbers of relevant items before the cut are told apart."""
    return min(places, math.ceil(10 * math.sqrt(places)) + 1) + 1


def _over_found(sum_before: Tensor, cut: Groups, places: Tensor, num_weights: int) -> Tensor:
    # Hoeffding: less than 1e-21 of the probability is more than 5 sqrt(m) away from the mean.
    mean = places * cut.relevant / cut.items
    least = torch.maximum(
        places + cut.relevant - cut.items, (mean - 5 * places.sqrt()).floor()
    ).clamp(min=0)
    hits = least + torch.arange(num_weights, device=least.device)
    sums = sum_before + precision_sum(cut._replace(items=places, relevant=hits), places)
    scores = sums / (cut.hits_before + hits).clamp(min=1)
    return (_hypergeometric(cut, places, hits) * scores).sum(dim=1)


def _hypergeometric(cut: Groups, places: Tensor, hits: Tensor) -> Tensor:
    """Return the probability of each number of relevant items before the cut.

    Args:
        cut: The groups of ties.
        places: Number of their places before the cut.
        hits: Consecutive numbers, from a possible one on, `(num_queries, num_weights)`.
    """
    # From the ratios of neighbours, which keep the digits that differences of lgamma lose.
    left = cut.items - cut.relevant - places
    ratio = (cut.relevant - hits).clamp(min=0) * (places - hits).clamp(min=0)
    ratio = ratio / ((hits + 1) * (left + hits + 1))
    log_weights = ratio[:, :-1].log().cumsum(dim=1)  # minus infinity beyond the largest number
    return torch.nn.functional.pad(log_weights, (1, 0)).softmax(dim=1)


def _reciprocal_of_first(items: Tensor, relevant: Tensor, before: Tensor, length: int) -> Tensor:
    """Return the mean of one over the rank of the first relevant item of a group."""
    place = torch.arange(1, length + 1, dtype=torch.float64, device=items.device)
    left = (items - relevant - place[:-1] + 1).clamp(min=0)
    log_ratio = (left / (items - place[:-1]).clamp(min=1)).log().cumsum(dim=1)
    first = torch.nn.functional.pad(log_ratio, (1, 0)).exp() * relevant / items.clamp(min=1)
    return (first / (before + place)).sum(dim=1)
