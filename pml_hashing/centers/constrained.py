"""Hash centers that keep a smallest distance: those of MDSH, and the semantic ones of SHC."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from pml_hashing._checks import MOST_CLASSES, check_code_length, check_num_classes
from pml_hashing.centers.assignment import assign_codes
from pml_hashing.centers.hadamard_codes import hash_centers
from pml_hashing.centers.linear_codes import linear_codes
from pml_hashing.centers.spread import smallest_distance

SWEEPS = 10
"""Times at most that all centers are gone through. Two to four leave nothing to improve."""

Problem: TypeAlias = tuple[Tensor, Tensor]
r"""The matrix $A$ and the vector $p$ of $h^\top A h - 2 h^\top p$, what one center $h$ costs."""


def minimal_distance(num_classes: int, code_length: int) -> int:
    r"""Return the smallest distance that MDSH asks of its hash centers.

    The smallest $d$ with $\sum_{j < d} \binom{K}{j} \ge 2^K / C$, after Gilbert and Varshamov: as
    long as balls of radius $d - 1$ about the centers leave a code out, it can be one more center.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.

    Raises:
        ValueError: If a size is less than 1, or there are more than 2^24 classes or 65,536 bits.

    Examples:
        >>> from pml_hashing.centers import minimal_distance
        >>> [minimal_distance(100, bits) for bits in (16, 32, 48, 64)]
        [4, 10, 17, 24]
    """
    check_num_classes(num_classes, most=MOST_CLASSES)
    check_code_length(code_length)
    distance, ball = 0, 0
    while ball * num_classes < 2**code_length:
        ball += math.comb(code_length, distance)
        distance += 1
    return distance


def separated_centers(num_classes: int, code_length: int, seed: int = 0) -> Tensor:
    r"""Return the hash centers of MDSH: far apart on average, and never nearer than a distance.

    $$\min_{h_1, \dots, h_C \in \{-1, 1\}^K} \sum_{i < j} h_i^\top h_j
        \quad \text{with} \quad d_H(h_i, h_j) \ge d$$

    where $d$ is `minimal_distance`. One center after another is improved while the others stand,
    by flips of single bits that keep the distance, from the farthest of `hash_centers` and
    `linear_codes`. These are at least $d$ apart already in all sizes that we tried (2 to 10,000
    classes of 16 to 64 bits), and so are the centers. Where they are not, $d$ is their smallest
    distance.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        seed: Seed of the codes to start from.

    Returns:
        Codes, -1 and 1, float32 `(num_classes, code_length)`, on the CPU.

    Raises:
        ValueError: If a size is less than 1, or there are more than 2^24 classes or 65,536 bits.

    Note: Reconstruction
        Rebuilt from a description and the public code, not from the paper. There, one center at a
        time is optimized by the alternating direction method with an Lp box, from CSQ's centers
        or random ones, and the set with the best sum of mean, minimum and negative variance of
        the distances is kept.

    References:
        Wang et al., Deep Hashing with Minimal-Distance-Separated Hash Centers, CVPR 2023; their
        [code](https://github.com/Wangld5/Center-Hashing).
    """
    centers, distance = _start(num_classes, code_length, seed)

    def problem(place: int) -> Problem:
        others = centers.sum(dim=0) - centers[place]
        return centers.new_zeros(code_length, code_length), -others / 2

    return _descend(centers, problem, distance)


def semantic_centers(class_similarity: Tensor, code_length: int, seed: int = 0) -> Tensor:
    r"""Return the hash centers of SHC: as near to each other as their classes are alike.

    $$\min_{H \in \{-1, 1\}^{C \times K}} \left\lVert \frac{1}{K} H H^\top - S \right\rVert^2
        \quad \text{with} \quad d_H(h_i, h_j) \ge d$$

    where $d$ is `minimal_distance`, and $S$ the similarity of classes: symmetric, then of each row
    the mean off the diagonal is taken off, the row divided by its largest absolute value, and the
    diagonal set to 1. One center after another is improved while the others stand, by flips of
    single bits that keep the distance, from the codes that `separated_centers` starts from, which
    `assign_codes` gives to the classes. Where these are nearer than $d$, it is their smallest
    distance.

    Args:
        class_similarity: Similarities, `(num_classes, num_classes)`, as from `class_similarity`.
        code_length: Number of bits $K$.
        seed: Seed of the codes to start from, and of their assignment.

    Returns:
        Codes, -1 and 1, float32 `(num_classes, code_length)`, on the CPU.

    Raises:
        ValueError: If the similarities are no finite square matrix, or `code_length` is less
            than 1.

    Note: Reconstruction
        Rebuilt from the abstract and a description, not from the paper, whose optimization we do
        not know. The start and the flips are ours.

    References:
        Chen et al., [Deep Hashing with Semantic Hash Centers for Image
        Retrieval](https://arxiv.org/abs/2507.08404), ACM TOIS 2025. Chen et al., Image Retrieval
        with Well-Separated Semantic Hash Centers, ACCV 2022.
    """
    start, distance = _start(len(class_similarity), code_length, seed)
    centers = assign_codes(start, class_similarity, seed=seed)
    wanted = _row_normalized(class_similarity.to("cpu", torch.double))
    wanted = (wanted + wanted.T) / 2  # all that the objective sees of it

    def problem(place: int) -> Problem:
        own = centers[place]
        gram = centers.T @ centers - own[:, None] * own
        pull = wanted[place] @ centers - wanted[place, place] * own
        return gram, code_length * pull

    return _descend(centers, problem, distance)


def _start(num_classes: int, code_length: int, seed: int) -> tuple[Tensor, int]:
    """Return the farther apart of two sets of codes, float64, and the distance to keep."""
    centers = hash_centers(num_classes, code_length, seed)
    distance = minimal_distance(num_classes, code_length)
    if num_classes > 1:
        linear = linear_codes(num_classes, code_length, seed)
        centers = max(centers, linear, key=smallest_distance)  # of equals, the hash centers
        distance = min(distance, smallest_distance(centers))
    return centers.double(), distance


def _row_normalized(similarity: Tensor) -> Tensor:
    """Return SHC's matrix: centered rows over their largest absolute value, 1 on the diagonal."""
    similarity = ((similarity + similarity.T) / 2).fill_diagonal_(0)
    similarity = similarity - similarity.sum(dim=1, keepdim=True) / max(1, len(similarity) - 1)
    similarity.fill_diagonal_(0)
    largest = similarity.abs().amax(dim=1, keepdim=True)
    return (similarity / largest.clamp(min=1e-12)).fill_diagonal_(1)


def _descend(centers: Tensor, problem: Callable[[int], Problem], distance: int) -> Tensor:
    """Flip bits in place while this costs less, and brings no two centers below a distance."""
    for _ in range(SWEEPS):
        flips = [
            _improve(centers, place, problem(place), distance) for place in range(len(centers))
        ]
        if not any(flips):
            break
    return centers.float()


def _improve(centers: Tensor, place: int, problem: Problem, distance: int) -> int:
    """Flip bits of one center, the best first, and return how many."""
    (gram, pull), center, flips = problem, centers[place], 0
    while True:
        change = gram.diagonal() - center * (gram @ center - pull)  # a fourth of it, for each bit
        change[~_may_flip(centers, place, distance)] = float("inf")
        least, bit = change.min(dim=0)
        if least > -1e-6:  # rounding must not flip a bit for ever
            return flips
        center[bit] *= -1
        flips += 1


def _may_flip(centers: Tensor, place: int, distance: int) -> Tensor:
    """Return which bits of a center can flip: where those at the distance or nearer agree."""
    center = centers[place]
    near = centers @ center >= len(center) - 2 * distance
    near[place] = False
    return (centers[near] == center).all(dim=0)
