"""Hadamard matrices and hash centers against what defines them."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing import centers
from pml_hashing.centers import hadamard, hash_centers

ORDERS = [1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 44, 48, 60, 64, 68]


def distances(codes):
    return [
        sum(a != b for a, b in zip(x, y, strict=True))
        for x, y in itertools.combinations(codes.tolist(), 2)
    ]


@pytest.mark.parametrize("order", range(1, 69))
def test_hadamard(order):
    matrix = hadamard(order)
    assert (matrix is not None) == (order in ORDERS)
    if matrix is not None:
        assert set(matrix.unique().tolist()) <= {-1.0, 1.0}
        assert_close(matrix @ matrix.T, order * torch.eye(order), rtol=0, atol=0)


@given(
    code_length=st.sampled_from([4, 8, 12, 16, 24]),
    num_classes=st.integers(1, 48),
    seed=st.integers(0, 9),
)
def test_centers_are_orthogonal_or_opposite(code_length, num_classes, seed):
    num_classes = min(num_classes, 2 * code_length)
    found = distances(hash_centers(num_classes, code_length, seed))
    opposite = max(0, num_classes - code_length)
    assert found.count(code_length) == opposite
    assert found.count(code_length // 2) == len(found) - opposite


@pytest.mark.parametrize(("num_classes", "code_length"), [(5, 10), (9, 4), (30, 13)])
def test_other_centers_are_balanced_and_far_apart(num_classes, code_length):
    codes = hash_centers(num_classes, code_length)
    assert (codes == 1).sum(dim=1).tolist() == [code_length // 2] * num_classes
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(num_classes, code_length, generator=generator).argsort(dim=1)
    single = (order < code_length // 2).float() * 2 - 1  # the first of the draws
    assert min(distances(codes)) >= min(distances(single))


def test_centers_of_many_classes_are_drawn_once(monkeypatch):
    monkeypatch.setattr(centers, "farthest_apart", None)  # the distances would be 40 GB
    codes = hash_centers(100_000, 16)
    assert codes.sum(dim=1).eq(0).all()


def test_no_bit_is_the_same_for_all_classes():
    codes = hash_centers(10, 16)
    assert (codes.sum(dim=0).abs() < 10).all()


def test_a_seed_decides():
    assert_close(hash_centers(10, 16, seed=1), hash_centers(10, 16, seed=1))
    assert (hash_centers(10, 16, seed=1) != hash_centers(10, 16, seed=2)).any()
    assert (hash_centers(10, 18, seed=1) != hash_centers(10, 18, seed=2)).any()


@pytest.mark.parametrize("code_length", [16, 18])
def test_centers_are_on_the_cpu(code_length):
    with torch.device("meta"):
        codes = hash_centers(3, code_length)
    assert (codes.device.type, codes.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize("name", ["num_classes", "code_length"])
def test_errors(name):
    with pytest.raises(ValueError, match=f"`{name}` of at least 1, got 0"):
        hash_centers(**{"num_classes": 2, "code_length": 8, name: 0})
