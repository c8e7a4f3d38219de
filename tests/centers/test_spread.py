"""Spread codes against the sum they lower, the bounds on distances, and on any processor."""

import hashlib
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.centers import linear_codes, smallest_distance, spread, spread_codes


def smallest_distances(codes):
    distances = [
        sum(a != b for a, b in zip(x, y, strict=True))
        for x, y in itertools.combinations(codes.tolist(), 2)
    ]
    return -min(distances), distances.count(min(distances))


def repulsion(codes):
    """The sum that `spread_codes` lowers, pair by pair."""
    return sum(
        math.exp(sum(a * b for a, b in zip(x, y, strict=True)) / 2)
        for x, y in itertools.combinations(codes.tolist(), 2)
    )


@pytest.mark.parametrize(("num_codes", "code_length"), [(1, 1), (2, 1), (3, 1), (5, 6), (11, 12)])
def test_no_flip_of_a_bit_spreads_codes_further(num_codes, code_length):
    codes = spread_codes(num_codes, code_length, seed=3, draws=1)
    assert codes.shape == (num_codes, code_length)
    assert set(codes.unique().tolist()) <= {-1.0, 1.0}
    for code, bit in itertools.product(range(num_codes), range(code_length)):
        flipped = codes.clone()
        flipped[code, bit] *= -1
        assert repulsion(flipped) >= repulsion(codes) * (1 - 1e-3)


@pytest.mark.parametrize(("num_codes", "code_length"), [(2, 1), (5, 6), (11, 12)])
def test_they_are_the_best_of_their_draws(num_codes, code_length):
    generator = torch.Generator().manual_seed(3)
    draws = [
        torch.randint(2, (num_codes, code_length), generator=generator) * 2.0 - 1 for _ in range(20)
    ]
    expected = min(map(spread._spread, draws), key=smallest_distances)  # the first of the best
    assert_close(spread_codes(num_codes, code_length, seed=3, draws=20), expected)


@pytest.mark.parametrize("code_length", [12, 16, 24, 32, 48, 64])
def test_ten_codes_lie_about_as_far_apart_as_can_be(code_length):
    distance = smallest_distance(spread_codes(10, code_length))
    bound = math.floor(code_length * 10 / (2 * 9))  # Plotkin's
    assert bound - 1 <= distance <= bound


@pytest.mark.parametrize(
    ("num_codes", "code_length", "seed", "digest"),
    [
        (11, 16, 0, "529a32314c6132e3"),
        (11, 48, 3, "6d6d92f53bfd5603"),
        (101, 32, 0, "86aee2007673e389"),
        (1024, 12, 1, "33e0da989812e75d"),
    ],
)
def test_codes_are_the_same_on_every_processor(num_codes, code_length, seed, digest):
    bits = (spread_codes(num_codes, code_length, seed) > 0).to(torch.uint8)
    assert hashlib.sha256(bits.numpy().tobytes()).hexdigest()[:16] == digest


DISTANCES_OF_1024 = {12: 1, 16: 2, 20: 4, 24: 5, 32: 9, 48: 16, 50: 17, 64: 23}


@pytest.mark.parametrize(
    "code_length",
    [
        of if of in {16, 50} else pytest.param(of, marks=pytest.mark.slow)
        for of in DISTANCES_OF_1024
    ],
)
def test_one_code_more_is_no_cliff(code_length):
    assert smallest_distance(spread_codes(1025, code_length)) >= DISTANCES_OF_1024[code_length]


@pytest.mark.slow
@pytest.mark.parametrize("code_length", DISTANCES_OF_1024)
def test_the_distances_of_1024_codes_are_these(code_length):
    assert smallest_distance(spread_codes(1024, code_length)) == DISTANCES_OF_1024[code_length]


def test_many_codes_are_words_of_a_linear_code():
    assert_close(spread_codes(1500, 12, seed=4), linear_codes(1500, 12, seed=4))


def test_they_are_on_the_cpu():
    with torch.device("meta"):
        codes, many = spread_codes(3, 8), spread_codes(2000, 12)
    assert (codes.device.type, many.device.type) == ("cpu", "cpu")
    assert_close(codes, spread_codes(3, 8))
    assert_close(many, spread_codes(2000, 12))


@pytest.mark.parametrize("name", ["num_codes", "code_length", "draws"])
def test_errors(name):
    for codes_of in (spread_codes, linear_codes):
        with pytest.raises(ValueError, match=f"`{name}` of at least 1, got 0"):
            codes_of(**{"num_codes": 2, "code_length": 8, name: 0})


@given(n=st.integers(2, 12), code_length=st.integers(1, 9), seed=st.integers(0, 99))
def test_smallest_distance(n, code_length, seed):
    torch.manual_seed(seed)
    codes = torch.randint(2, (n, code_length)) * 2 - 1
    assert smallest_distance(codes) == -smallest_distances(codes)[0]


def test_smallest_distance_looks_across_blocks():
    codes = torch.cat([linear_codes(1024, 16), linear_codes(1024, 16)[-1:]])
    assert smallest_distance(codes[:-1]) == 4
    assert smallest_distance(codes) == 0
    assert smallest_distance(torch.cat([codes[-1:], codes[:-1]])) == 0
    with pytest.raises(ValueError, match="`codes` of at least 2 rows, got 1"):
        smallest_distance(codes[:1])


def test_a_change_of_the_codes_is_no_change_of_the_next():
    codes = spread_codes(4, 8, seed=5)
    expected = codes.clone()
    codes.neg_()
    assert_close(spread_codes(4, 8, seed=5), expected)
