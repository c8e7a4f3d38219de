"""The centers of MDSH and SHC: their distance, their objectives, and that no flip is better."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.centers import (
    hash_centers,
    linear_codes,
    minimal_distance,
    semantic_centers,
    separated_centers,
    smallest_distance,
)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 10, 100, 1000, 10**6])
@pytest.mark.parametrize("code_length", [1, 2, 8, 16, 48])
def test_minimal_distance(num_classes, code_length):
    """The printed bound, tried for every distance."""
    sums = [sum(math.comb(code_length, j) for j in range(d)) for d in range(code_length + 2)]
    expected = min(d for d, s in enumerate(sums) if s >= 2**code_length / num_classes)
    assert minimal_distance(num_classes, code_length) == expected


def separated_reference(centers):
    """The sum that MDSH lowers, pair by pair."""
    return sum(
        sum(a * b for a, b in zip(x, y, strict=True))
        for x, y in itertools.combinations(centers.tolist(), 2)
    )


def semantic_reference(centers, similarity):
    """SHC's objective, entry by entry, of its matrix made row by row."""
    rows, size, bits = centers.tolist(), len(centers), centers.shape[1]
    wanted = [[(similarity[i][j] + similarity[j][i]) / 2 for j in range(size)] for i in range(size)]
    total = 0.0
    for i, row in enumerate(wanted):
        mean = sum(s for j, s in enumerate(row) if j != i) / (size - 1)
        largest = max(abs(s - mean) for j, s in enumerate(row) if j != i)
        for j, s in enumerate(row):
            target = 1.0 if i == j else (s - mean) / max(largest, 1e-12)
            inner = sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
            total += (inner / bits - target) ** 2
    return total


def make_similarity(size, seed=0):
    places = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))
    return -torch.cdist(places, places) + 0.1 * torch.randn(size, size)


def assert_no_flip_is_better(centers, distance, objective):
    """Raise if a flip that keeps all distances at `distance` or more lowers `objective`."""
    before, kept = objective(centers), min(distance, smallest_distance(centers))
    for place, bit in itertools.product(range(len(centers)), range(centers.shape[1])):
        flipped = centers.clone()
        flipped[place, bit] *= -1
        if smallest_distance(flipped) >= kept:
            assert objective(flipped) >= before - 1e-4


SIZES = [(2, 4), (5, 8), (12, 10), (20, 8)]


@pytest.mark.parametrize(("num_classes", "code_length"), SIZES)
def test_no_flip_of_a_separated_center_is_better(num_classes, code_length):
    centers = separated_centers(num_classes, code_length)
    distance = minimal_distance(num_classes, code_length)
    assert set(centers.unique().tolist()) <= {-1.0, 1.0}
    assert_no_flip_is_better(centers, distance, separated_reference)


@pytest.mark.parametrize(("num_classes", "code_length"), SIZES)
def test_no_flip_of_a_semantic_center_is_better(num_classes, code_length):
    similarity = make_similarity(num_classes)
    centers = semantic_centers(similarity, code_length)
    distance = minimal_distance(num_classes, code_length)
    assert set(centers.unique().tolist()) <= {-1.0, 1.0}
    assert_no_flip_is_better(
        centers, distance, lambda c: semantic_reference(c, similarity.tolist())
    )


@pytest.mark.parametrize(
    ("num_classes", "code_length"), [(2, 16), (10, 16), (10, 48), (50, 32), (100, 16)]
)
def test_they_keep_the_distance(num_classes, code_length):
    distance = minimal_distance(num_classes, code_length)
    assert smallest_distance(separated_centers(num_classes, code_length)) >= distance
    similarity = make_similarity(num_classes)
    assert smallest_distance(semantic_centers(similarity, code_length)) >= distance


@pytest.mark.slow
@pytest.mark.parametrize("code_length", [16, 24, 32, 48, 64])
@pytest.mark.parametrize("num_classes", [3, 5, 20, 200, 500, 1000, 1024, 2000, 10_000])
def test_codes_that_keep_the_distance_are_known(num_classes, code_length):
    sets = (hash_centers(num_classes, code_length), linear_codes(num_classes, code_length))
    assert max(map(smallest_distance, sets)) >= minimal_distance(num_classes, code_length)


def test_separated_centers_are_farther_apart_on_average():
    sums = [separated_reference(c) for c in (hash_centers(50, 16), separated_centers(50, 16))]
    assert sums[1] < sums[0]


def test_semantic_centers_are_nearer_what_is_wanted():
    similarity = make_similarity(30)
    values = [
        semantic_reference(c, similarity.tolist())
        for c in (hash_centers(30, 16), semantic_centers(similarity, 16))
    ]
    assert values[1] < 0.9 * values[0]


def test_they_are_deterministic_float32_and_on_the_cpu(device):
    similarity = make_similarity(6)
    with torch.device("meta"):
        both = separated_centers(6, 8, seed=1), semantic_centers(similarity.to(device), 8, seed=1)
    for centers in both:
        assert (centers.device.type, centers.dtype) == ("cpu", torch.float32)
    assert_close(separated_centers(6, 8, seed=1), both[0], rtol=0, atol=0)
    assert_close(semantic_centers(similarity, 8, seed=1), both[1], rtol=0, atol=0)
    assert separated_centers(1, 8).shape == semantic_centers(torch.zeros(1, 1), 8).shape == (1, 8)


def test_wrong_arguments_are_named():
    for centers in (minimal_distance, separated_centers):
        with pytest.raises(ValueError, match="`num_classes` of at least 1, got 0"):
            centers(0, 8)
        with pytest.raises(ValueError, match="`code_length` of at least 1, got 0"):
            centers(8, 0)
    with pytest.raises(ValueError, match=r"`class_similarity` of shape .* got \(3, 2\)"):
        semantic_centers(torch.zeros(3, 2), 8)
    with pytest.raises(ValueError, match="finite values in `class_similarity`"):
        semantic_centers(torch.full((3, 3), torch.inf), 8)
