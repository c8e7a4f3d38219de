"""Which class gets which code: codes of similar classes shall lie near each other."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pml_hashing._checks import check_at_least

CLASSES_OF_A_BLOCK = 256
"""Classes that look for a partner at a time: their swaps are then made together."""
MOST_PARTNERS = 1024
"""Classes that each of them looks at. Where there are more, they are drawn anew for every block."""
SMALLEST_PROGRESS = 1e-3
"""With so many classes, the search ends with a sweep that adds less than this part of all gain."""


@torch.no_grad()
def assign_codes(
    codes: Tensor, class_similarity: Tensor, *, starts: int = 10, seed: int = 0
) -> Tensor:
    r"""Give every class one of the codes, so that codes of similar classes lie near each other.

    $$\max_\pi f(\pi), \quad
        f(\pi) = \sum_{i \ne j} S_{ij} \langle c_{\pi(i)}, c_{\pi(j)} \rangle$$

    over the permutations $\pi$ of the codes: a quadratic assignment, which local search solves
    well but not for certain. Two classes swap their codes where this raises $f$. With $b_i$ for
    the code of class $i$, a swap of $i$ and $j$ changes $f$ by

    $$2 (b_j - b_i)^\top \sum_k (S_{ik} - S_{jk})\, b_k - 2 S_{ij} \lVert b_j - b_i \rVert^2$$

    so that $K$ sums for each class give it for all pairs. The search starts from the codes as they
    are given, and from random orders of them, and the best end of all is taken. That is never
    below the codes as given, and of up to 1,024 classes no swap of two would raise it further. Of
    more, each class looks at 1,024 others in a sweep, and the search ends when sweeps add
    little. Only the order of the similarities and their ratios matter: with as many codes as
    classes, adding a number to all of them or multiplying by a positive one changes nothing.

    Args:
        codes: Codes, -1 and 1, `(num_codes, code_length)`, as those of `spread_codes`. If there
            are more codes than classes, the search chooses those to be left over.
        class_similarity: The matrix $S$, `(num_classes, num_classes)`, as from
            `class_similarity`. Of two entries $S_{ij}$ and $S_{ji}$ the mean counts; the diagonal
            does not.
        starts: Number of starts, fewer where there are many classes: one from 317 on.
        seed: Seed of the random orders.

    Returns:
        The codes in a new order, of the same dtype and device. Row $i$ is that of class $i$, and
        rows beyond the classes are left over.

    Raises:
        ValueError: If a shape is wrong, similarities are not finite, or `starts` is less than 1.

    Note: Reconstruction
        That codes of similar classes should be near is the idea of SHC and CRH. This search, and
        keeping codes that lie far apart as they are, is ours.

    Examples:
        >>> import torch
        >>> from pml_hashing.centers import assign_codes
        >>> codes = torch.tensor([[1, 1, 1, 1], [-1, -1, -1, -1], [1, 1, 1, -1]])
        >>> alike = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]])  # the first two classes
        >>> near = assign_codes(codes, alike)
        >>> int((near[0] != near[1]).sum())
        1
    """
    size = len(class_similarity)
    _check(codes, class_similarity, starts)
    weights = class_similarity.to("cpu", torch.float32)
    weights = weights.add(weights.T).div_(2).fill_diagonal_(0)
    if len(codes) > size:  # a class that is like no other, for each that is left over
        weights = F.pad(weights, (0, len(codes) - size) * 2)
    generator = torch.Generator("cpu").manual_seed(seed)
    given = codes.to("cpu", torch.float32)
    best, best_value = torch.arange(len(codes), device="cpu"), _value(given, weights)
    for start in range(min(starts, 1 + 100_000 // len(codes) ** 2)):
        order = torch.arange(len(codes), device="cpu")
        if start > 0:
            order = torch.randperm(len(codes), generator=generator, device="cpu")
        order = _Assignment(given, weights, order).search(generator)
        value = _value(given[order], weights)
        if value > best_value:
            best, best_value = order, value
    return codes[best.to(codes.device)]


def _check(codes: Tensor, class_similarity: Tensor, starts: int) -> None:
    check_at_least(starts, 1, "starts")
    size = len(class_similarity)
    if class_similarity.shape != (size, size):
        raise ValueError(
            "Expected `class_similarity` of shape (num_classes, num_classes), "
            f"got {tuple(class_similarity.shape)}."
        )
    if codes.ndim != 2 or len(codes) < size:
        raise ValueError(
            f"Expected `codes` of shape (num_codes, code_length), at least {size} of them, one per "
            f"class, got {tuple(codes.shape)}."
        )
    if not class_similarity.isfinite().all():
        raise ValueError("Expected finite values in `class_similarity`, got NaN or infinity.")


def _value(codes: Tensor, weights: Tensor) -> float:
    """Return the objective in float64, in blocks of rows."""
    codes = codes.double()
    blocks = zip(codes.split(1024), weights.split(1024), strict=True)
    return sum(float((own * (rows.double() @ codes)).sum()) for own, rows in blocks)


class _Assignment:
    """Codes that classes have for now, and the sums by which swaps are judged.

    Attributes:
        order: Which of the given codes each class has.
        codes: These codes, one per class.
        pulls: $S B$, for each class the weighted sum of the codes of others.
    """

    def __init__(self, given: Tensor, weights: Tensor, order: Tensor) -> None:
        self.weights, self.order, self.codes = weights, order, given[order]
        self.pulls = torch.zeros_like(self.codes)  # until the search begins
        # Above what rounding makes of a pull: the same swap must not be made back and forth.
        self.tolerance = 1e-6 * given.shape[1] * float(weights.abs().sum(dim=1).max())

    def search(self, generator: torch.Generator) -> Tensor:
        """Swap until no swap is better, and return the order."""
        size, gained = len(self.order), 0.0
        awake = torch.ones(size, dtype=torch.bool, device="cpu")
        while True:
            complete = bool(awake.all())
            if complete or size <= MOST_PARTNERS:  # anew, so that rounding does not add up
                self.pulls = self.weights @ self.codes
            sweep = self._sweep(awake, generator)
            gained += sweep
            if complete and sweep == 0:
                return self.order
            if size > MOST_PARTNERS and sweep < SMALLEST_PROGRESS * gained:
                return self.order
            if not awake.any():
                awake[:] = True

    def _sweep(self, awake: Tensor, generator: torch.Generator) -> float:
        """Let each class that is awake look for a swap. Those that find none fall asleep."""
        size, gained = len(self.order), 0.0
        classes = torch.randperm(size, generator=generator, device="cpu")
        for block in classes[awake[classes]].split(CLASSES_OF_A_BLOCK):
            partners = torch.randperm(size, generator=generator, device="cpu")[:MOST_PARTNERS]
            gains, found = self._gains(block, partners).max(dim=1)
            awake[block] = gains > self.tolerance
            first, second, gains = _disjoint(block, partners[found], gains, self.tolerance)
            made, gain = self._compatible(first, second, gains)
            self._swap(first[made], second[made])
            awake[second[made]] = True
            gained += gain
        return gained

    def _gains(self, block: Tensor, partners: Tensor) -> Tensor:
        """Return what swaps of some classes with others would add, `(block, partners)`."""
        own, others = self.codes[block], self.codes[partners]
        pulls, other_pulls = self.pulls[block], self.pulls[partners]
        gains = pulls @ others.T + own @ other_pulls.T
        gains -= (pulls * own).sum(dim=1, keepdim=True) + (other_pulls * others).sum(dim=1)
        apart = own.shape[1] - own @ others.T  # half the squared distance of two codes
        return 2 * gains.addcmul_(self.weights[block][:, partners], apart, value=-2)

    def _compatible(self, first: Tensor, second: Tensor, gains: Tensor) -> tuple[Tensor, float]:
        """Choose swaps that together add what they say, less than which two may add."""
        steps = self.codes[second] - self.codes[first]
        across = self.weights[first] - self.weights[second]
        cross = 2 * (across[:, first] - across[:, second]) * (steps @ steps.T)
        made: list[int] = []
        total, others = 0.0, torch.zeros_like(gains)
        for place, alone in enumerate(gains.tolist()):
            gain = alone + others[place].item()
            if gain > self.tolerance:
                made.append(place)
                others += cross[place]
                total += gain
        return torch.tensor(made, dtype=torch.long, device="cpu"), total

    def _swap(self, first: Tensor, second: Tensor) -> None:
        steps = self.codes[second] - self.codes[first]
        self.pulls += (self.weights[first] - self.weights[second]).T @ steps
        both, crossed = torch.cat([first, second]), torch.cat([second, first])
        self.codes[both], self.order[both] = self.codes[crossed], self.order[crossed]


def _disjoint(
    first: Tensor, second: Tensor, gains: Tensor, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return swaps that gain, best first, of which no two are of the same class."""
    taken: set[int] = set()
    chosen: list[int] = []
    pairs, values = list(zip(first.tolist(), second.tolist(), strict=True)), gains.tolist()
    for place in gains.argsort(descending=True, stable=True).tolist():
        if values[place] > tolerance and taken.isdisjoint(pairs[place]):
            taken.update(pairs[place])
            chosen.append(place)
    return first[chosen], second[chosen], gains[chosen]
