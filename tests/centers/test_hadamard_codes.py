"""Hadamard matrices and hash centers against what defines them."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.centers import hadamard, hash_centers, spread_codes

ORDERS = [1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 44, 48, 60, 64, 68]


def distances(codes):
    return [
        sum(a != b for a, b in zip(x, y, strict=True))
        for x, y in itertools.combinations(codes.tolist(), 2)
    ]


def test_hadamard():
    matrices = {order: hadamard(order) for order in range(1, 69)}
    assert [order for order, matrix in matrices.items() if matrix is not None] == ORDERS
    for order in ORDERS:
        assert set(matrices[order].unique().tolist()) <= {-1.0, 1.0}
        product = matrices[order] @ matrices[order].T
        assert_close(product, order * torch.eye(order), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("num_classes", [2, 3, 5, 8, 9, 16, 17, 24, 25])
@pytest.mark.parametrize("code_length", [4, 8, 12])
def test_centers_are_those_of_the_paper_unless_others_lie_farther_apart(
    code_length, num_classes, seed
):
    codes = hash_centers(num_classes, code_length, seed)
    spread = spread_codes(num_classes, code_length, seed)
    if num_classes > 2 * code_length or min(distances(spread)) > code_length // 2:
        assert_close(codes, spread, rtol=0, atol=0)
    else:
        found, opposite = distances(codes), max(0, num_classes - code_length)
        assert found.count(code_length) == opposite
        assert found.count(code_length // 2) == len(found) - opposite


@pytest.mark.parametrize(("num_classes", "code_length"), [(64, 32), (40, 48), (20, 32)])
def test_centers_are_orthogonal_or_opposite(num_classes, code_length):
    found = distances(hash_centers(num_classes, code_length))
    opposite = max(0, num_classes - code_length)
    assert found.count(code_length) == opposite
    assert found.count(code_length // 2) == len(found) - opposite


@pytest.mark.parametrize(
    ("num_classes", "code_length"), [(2, 16), (10, 48), (5, 10), (100, 16), (100, 48), (1100, 16)]
)
def test_other_centers_are_spread_codes(num_classes, code_length):
    codes = hash_centers(num_classes, code_length, seed=1)
    assert_close(codes, spread_codes(num_classes, code_length, seed=1), rtol=0, atol=0)


def test_centers_of_one_class():
    assert hash_centers(1, 8).shape == (1, 8)


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
