"""Linear codes: closed under sums, near the best that are known, and against sums in loops."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_hashing.centers import linear_codes, smallest_distance
from pml_hashing.centers.linear_codes import _best_column, _draw

# Smallest distances of the best linear codes known, of 11 and of 14 bits a word.
BEST_KNOWN = {16: (4, 2), 32: (12, 8), 64: (26, 24)}
BELOW = {16: (0, 0), 32: (2, 0), 64: (2, 2)}


@pytest.mark.parametrize("code_length", BEST_KNOWN)
def test_they_lie_nearly_as_far_apart_as_the_best_known(code_length):
    both = zip((1025, 10_000), BEST_KNOWN[code_length], BELOW[code_length], strict=True)
    for num_codes, best, below in both:
        distance = smallest_distance(linear_codes(num_codes, code_length))
        assert best - below <= distance <= best


@given(num_codes=st.integers(2, 70), code_length=st.integers(1, 8), seed=st.integers(0, 99))
def test_codes_are_distinct_as_long_as_they_can_be(num_codes, code_length, seed):
    codes = linear_codes(num_codes, code_length, seed, draws=2)
    assert codes.shape == (num_codes, code_length)
    assert set(codes.unique().tolist()) <= {-1.0, 1.0}
    _, counts = codes.unique(dim=0, return_counts=True)
    assert len(counts) == min(num_codes, 2**code_length)
    assert counts.max() <= counts.min() + 1


@pytest.mark.parametrize(("word_length", "code_length"), [(3, 7), (4, 9), (5, 6)])
def test_the_sum_of_two_words_is_a_word(word_length, code_length):
    bits = linear_codes(2**word_length, code_length, seed=2) < 0
    words = {tuple(row) for row in (bits ^ bits[0]).tolist()}  # less the shift
    assert len(words) == 2**word_length
    for x, y in itertools.combinations(words, 2):
        assert tuple(a != b for a, b in zip(x, y, strict=True)) in words


@given(seed=st.integers(0, 99), word_length=st.integers(1, 5))
def test_a_column_is_the_best_of_all(seed, word_length):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(0, 6, (2**word_length,), generator=generator).double()

    def total(column):
        return sum(
            math.exp(-weights[u] - (u & column).bit_count() % 2) for u in range(1, len(weights))
        )

    chosen = int(_best_column(weights, generator))
    assert total(chosen) <= min(map(total, range(1, len(weights)))) * (1 + 1e-5)


def test_no_other_column_lowers_the_sum():
    columns = _draw(4, 9, torch.Generator().manual_seed(0)).tolist()

    def total(columns):
        return sum(
            math.exp(-sum((u & column).bit_count() % 2 for column in columns)) for u in range(1, 16)
        )

    for place, column in itertools.product(range(9), range(16)):
        others = [*columns[:place], column, *columns[place + 1 :]]
        assert total(others) >= total(columns) * (1 - 1e-5)


def test_a_seed_decides():
    assert (linear_codes(100, 16, seed=1) == linear_codes(100, 16, seed=1)).all()
    assert (linear_codes(100, 16, seed=1) != linear_codes(100, 16, seed=2)).any()


def test_no_bit_is_the_same_for_all_classes():
    codes = linear_codes(300, 24)
    assert codes.mean(dim=0).abs().max() < 0.25
