"""Average precision, over the relevant items found or over all relevant items."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_choice
from pml_hashing.evaluation._hypergeometric import half_width, hypergeometric
from pml_hashing.evaluation._orders import Order, Orders
from pml_hashing.evaluation._rankings import TieGroups, TopK, check_top_k, values_at_a_time
from pml_hashing.evaluation.metrics._base import Metric

Divisor: TypeAlias = Literal["retrieved", "relevant"]
"""Of average precision: the relevant items found among the first $k$, or all there are."""
DIVISORS: tuple[Divisor, ...] = ("retrieved", "relevant")


@dataclass(frozen=True)
class AveragePrecision(Metric):
    r"""$\sum_{r \le k} P(r)\, \delta(r)$ over a number of relevant items.

    Args:
        top_k: Number $k$ of items that count. All if `None`.
        divisor: `"retrieved"` divides by the relevant items among the first $k$, `"relevant"` by
            all that there are.
        weighted: Whether the mean grade of the first $r$ items takes the place of $P(r)$.
    """

    top_k: TopK = None
    divisor: Divisor = "retrieved"
    weighted: bool = False

    def __post_init__(self) -> None:
        check_top_k(self.top_k)
        check_choice(self.divisor, DIVISORS, "divisor")

    def expected(self, groups: TieGroups) -> Tensor:
        cuts, parts = groups.cuts(self.top_k), Groups.of(groups, self.weighted)
        harmonic = groups.harmonic(cuts)
        sums = precision_sum(parts, groups.places(cuts).double(), harmonic)
        if self.divisor == "relevant" or int(cuts.min()) == groups.total:
            return sums.sum(dim=1) / groups.num_relevant.clamp(min=1)
        whole = groups.ends < cuts[:, None]
        at = whole.sum(dim=1, keepdim=True)  # the group of the last place before the cut
        cut = Groups(*(x.gather(1, at) for x in parts))
        sum_before = (sums * whole).sum(dim=1, keepdim=True)
        places = cuts[:, None].double() - cut.before
        return expected_over_found(sum_before, cut, places, harmonic.gather(1, at))

    def ordered(self, orders: Orders) -> Tensor:
        def score(order: Order, k: int) -> float:
            grades = order.grades.astype(np.int64) if self.weighted else None
            if self.divisor == "retrieved" and len(order.ends) and k < orders.total:
                return _extreme_over_found(order, grades, k)
            found = int(np.searchsorted(order.ranks, k, side="right"))
            sums = _precisions(order, grades, found).sum()
            return sums / max(1, found if self.divisor == "retrieved" else len(order.ranks))

        return orders.map(score, self.top_k)


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

    @classmethod
    def of(cls, groups: TieGroups, weighted: bool) -> "Groups":
        """Return the groups of some rankings, in which relevant items have grade 1 or their own."""
        grades = groups.grade_sums() if weighted else groups.relevant
        mean_grade = grades / groups.relevant.clamp(min=1).double()
        return cls(
            groups.items.double(),
            groups.relevant.double(),
            mean_grade,
            groups.ends - groups.items,
            groups.hits - groups.relevant,
            grades.cumsum(dim=1) - grades,
        )


def precision_sum(groups: Groups, places: Tensor, harmonic: Tensor) -> Tensor:
    r"""Return the expected sum of $P(r)$ over the relevant items on the first places of a group.

    The group holds $n$ items in random order, $\rho$ of them relevant with mean grade $\mu$, behind
    $N$ items with a sum of grades $T$. A place is relevant with probability $\rho / n$, and then
    each other place with probability $(\rho - 1) / (n - 1)$; the sum over $m$ places is

    $$\frac{\rho}{n} \sum_{i=1}^{m} \frac{1}{N + i}
      \left[ T + \mu + (i - 1) \frac{\rho - 1}{n - 1} \mu \right]$$

    Args:
        groups: The groups.
        places: $m$.
        harmonic: $H = \sum_{i=1}^{m} 1 / (N + i)$.
    """
    items, relevant, mean_grade, before, _, grades_before = groups
    # The sum of (i - 1) / (N + i) is m - (N + 1) H. A single item has no others: any share will
    # do, and 1 makes perfect rankings score 1 to the last digit.
    share = torch.where(items > 1, (relevant - 1) / (items - 1).clamp(min=1), 1) * mean_grade
    sums = (grades_before + mean_grade - share * (before + 1)) * harmonic + share * places
    return relevant / items.clamp(min=1) * sums


def expected_over_found(
    sum_before: Tensor, cut: Groups, places: Tensor, harmonic: Tensor
) -> Tensor:
    r"""Return the mean AP of rankings that are cut inside a group, over the relevant items found.

    Of the group, $m$ places lie before the cut, and the number $h$ of relevant items on these
    places is hypergeometric; given $h$, all ways to place them are equally likely. With $S$ the sum
    and $R$ the number of relevant items of the groups before, and $G(h) = a h + b h (h - 1)$ the
    sum over the $m$ places, the mean is that of $f(h) = (S + G(h)) / (R + h)$, where that is not
    0 / 0. By division, $f(h)$ is linear but for its last part:

    $$f(h) = b (R + h) + c + \frac{d}{R + h}, \qquad
      c = a - b (2 R + 1), \qquad d = S - a R + b R (R + 1)$$

    So its mean is its value at the mean $\bar h$, and a small sum in which nothing cancels:

    $$\mathrm{E}[f(h)] = f(\bar h) + \frac{d}{(R + \bar h)^2}\,
      \mathrm{E} \left[ \frac{(h - \bar h)^2}{R + h} \right]$$

    With $R = 0$, and so $d = 0$, it is $f(\bar h) - c \Pr(h = 0)$.

    Args:
        sum_before: $S$, `(num_queries, 1)`.
        cut: The group that each ranking is cut in, of tensors of this shape.
        places: $m$, from 1 to $n$.
        harmonic: $H$ of `precision_sum`.
    """
    mean = places * cut.relevant / cut.items
    hits_before, found = cut.hits_before, cut.hits_before + mean
    divisor = torch.where(found > 0, found, 1)
    a = (cut.grades_before + cut.mean_grade) * harmonic / places.clamp(min=1)
    b = cut.mean_grade * (places - (cut.before + 1) * harmonic)
    b /= places.clamp(min=1) * (places - 1).clamp(min=1)
    d = sum_before - a * hits_before + b * hits_before * (hits_before + 1)
    inside = precision_sum(cut._replace(items=places, relevant=mean), places, harmonic)
    none, curvature = _moments(cut, places, mean)
    mean_score = (sum_before + inside) / divisor + d * curvature / divisor.square()
    mean_score -= torch.where(hits_before == 0, (a - b) * none, 0)
    return torch.where(found > 0, mean_score, 0).flatten()


def _moments(cut: Groups, places: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return $\Pr(h = 0)$ and $\mathrm{E}[(h - \bar h)^2 / (R + h)]$ of `expected_over_found`."""
    width = int(half_width(cut.items, cut.relevant, places).max())
    size = max(1, values_at_a_time(mean.device) // (2 * width + 1))
    found: list[Tensor] = []
    columns = (cut.items, cut.relevant, places, cut.hits_before, mean)
    for n, rho, m, before, middle in zip(*(x.split(size) for x in columns), strict=True):
        hits, weights = hypergeometric(n, rho, m, width)
        none = (weights * (hits == 0)).sum(dim=1, keepdim=True)
        weights *= (hits - middle).square_() / (before + hits).clamp_(min=1)
        found.append(torch.cat([none, weights.sum(dim=1, keepdim=True)], dim=1))
    none, curvature = torch.cat(found).split(1, dim=1)
    return none, curvature


def _precisions(order: Order, grades: np.ndarray | None, found: int) -> np.ndarray:
    """Return the precision, or the mean grade so far, at each of the first relevant items."""
    if grades is None:
        return np.arange(1, found + 1) / order.ranks[:found]
    return grades[:found].cumsum() / order.ranks[:found]


def _extreme_over_found(order: Order, grades: np.ndarray | None, k: int) -> float:
    """Return the largest or smallest AP@`k` over all orders, if a cut splits a group of ties.

    Any number of relevant items of the group, from `least` to `most`, can fall before the cut. Each
    number of them has its best order, with all of them in front and the highest grades first, and
    its worst, with all of them just before the cut and the lowest first.
    """
    group = int(np.searchsorted(order.ends, k, side="right"))
    before = int(order.ends[group - 1]) if group else 0
    both_ends = before, int(order.ends[group])
    hits, hits_after = np.searchsorted(order.ranks, both_ends, side="right").tolist()
    places, relevant = k - before, int(hits_after - hits)
    least = max(0, places + relevant - int(order.ends[group]) + before)
    most = min(places, relevant)
    if order.best:
        sums = np.append(0.0, _precisions(order, grades, hits + most).cumsum())
        found = np.arange(hits + least, hits + most + 1)
        return float((sums[found] / found.clip(min=1)).max())
    weights = np.ones(len(order.ranks), dtype=np.int64) if grades is None else grades
    sum_before = _precisions(order, grades, hits).sum()
    so_far = weights[:hits].sum() + weights[hits : hits + most].cumsum()

    def score(found: int) -> float:
        sums = sum_before + (so_far[:found] / np.arange(k - found + 1, k + 1)).sum()
        return sums / max(1, hits + found)

    return _smallest(score, least, most) if hits + least else 0.0


def _smallest(score: Callable[[int], float], low: int, high: int) -> float:
    """Return the smallest value of a function that falls and then rises."""
    while low < high:
        middle = (low + high) // 2
        if score(middle + 1) < score(middle):
            low = middle + 1
        else:
            high = middle
    return float(score(low))
