"""The discrete sub-problems against brute force, least squares and loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing import solvers
from pml_hashing.solvers import (
    class_sums,
    dcc,
    dcc_objective,
    label_counts,
    label_sums,
    ridge,
)

SIZES = {
    "seed": st.integers(0, 2**32 - 1),
    "n": st.integers(1, 6),
    "code_length": st.integers(1, 5),
}
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def make_problem(seed, n, code_length, **kwargs):
    """Return codes, G and P: half of them with integers, where arguments of 0 occur."""
    torch.manual_seed(seed)
    codes = torch.randint(2, (n, code_length)) * 2 - 1
    gram, target = torch.randn(code_length, code_length), torch.randn(n, code_length)
    if seed % 2:
        gram, target = gram.round(), target.round()
    gram = gram + gram.T
    return codes.to(torch.float64), gram.to(torch.float64), target.to(torch.float64)


def objective_reference(codes, gram, target):
    """The trace formula, entry by entry."""
    n, bits = len(codes), range(len(gram))
    quadratic = sum(
        codes[i][k] * gram[k][m] * codes[i][m] for i in range(n) for k in bits for m in bits
    )
    return quadratic - 2 * sum(codes[i][k] * target[i][k] for i in range(n) for k in bits)


def total(codes, gram, target):
    return objective_reference(codes.tolist(), gram.tolist(), target.tolist())


@given(**SIZES)
def test_objective(seed, n, code_length):
    codes, gram, target = make_problem(seed, n, code_length)
    rows = dcc_objective(codes.to(torch.int8), gram, target)
    assert rows.dtype == torch.float64
    assert rows.sum().item() == pytest.approx(total(codes, gram, target), abs=1e-9)
    for row, code, wanted in zip(rows, codes, target, strict=True):
        assert row.item() == pytest.approx(total(code[None], gram, wanted[None]), abs=1e-9)


@given(**SIZES, sweeps=st.integers(1, 3))
def test_dcc_takes_the_best_of_all_columns_in_turn(seed, n, code_length, sweeps):
    codes, gram, target = make_problem(seed, n, code_length)
    expected = codes.clone()
    for _ in range(sweeps):
        for bit in range(code_length):
            old = expected[:, bit].clone()
            scores = {}
            for column in itertools.product([-1.0, 1.0], repeat=n):
                expected[:, bit] = torch.tensor(column, dtype=torch.float64)
                scores[column] = total(expected, gram, target)
            best = min(scores.values())
            winners = [c for c, score in scores.items() if score < best + 1e-9]
            # Of several, the one that changes least: the old bit stays where the argument is 0.
            winner = min(winners, key=lambda c: sum(a != b for a, b in zip(c, old, strict=True)))
            expected[:, bit] = torch.tensor(winner, dtype=torch.float64)
    assert_close(dcc(codes, gram, target, sweeps), expected)


@given(**SIZES, sweeps=st.integers(1, 4))
def test_dcc_never_raises_the_objective(seed, n, code_length, sweeps):
    codes, gram, target = make_problem(seed, n, code_length)
    before = total(codes, gram, target)
    improved = dcc(codes, gram, target, sweeps)
    assert total(codes, gram, target) == before  # a new tensor was improved
    assert total(improved, gram, target) <= before + 1e-9
    assert set(improved.unique().tolist()) <= {-1.0, 1.0}
    other_diagonal = gram + torch.eye(code_length)
    assert_close(dcc(codes, other_diagonal, target, sweeps), improved)


@given(**SIZES)
def test_dcc_is_global_where_bits_do_not_interact(seed, n, code_length):
    codes, _, target = make_problem(seed, n, min(code_length, 3))
    codes, target = codes[:3], target[:3]
    gram = 0.7 * torch.eye(codes.shape[1], dtype=torch.float64)
    candidates = itertools.product([-1.0, 1.0], repeat=codes.numel())
    best = min(total(torch.tensor(c).view_as(codes), gram, target) for c in candidates)
    assert total(dcc(codes, gram, target), gram, target) == pytest.approx(best)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.float32, torch.float64])
def test_dcc_in_blocks_is_dcc(kind, monkeypatch, device, dtype):
    codes, gram, target = (x.to(device, dtype) for x in make_problem(2, 10, 5))
    codes = codes.to(kind)
    kept = codes.clone(), gram.clone(), target.clone()
    expected = dcc(codes, gram, target, sweeps=3)
    monkeypatch.setattr(solvers, "CACHE_ROWS", 4)
    assert_close(dcc(codes, gram, target, sweeps=3), expected)
    assert (expected.dtype, expected.device) == (kind, codes.device)
    assert_close((codes, gram, target), kept)


def test_dcc_of_no_codes():
    assert dcc(torch.ones(0, 3), torch.eye(3), torch.ones(0, 3)).shape == (0, 3)


def test_dcc_keeps_a_bit_without_a_preference():
    codes = torch.tensor([[1.0, -1.0]])
    assert_close(dcc(codes, torch.zeros(2, 2), torch.zeros(1, 2)), codes)


def test_dcc_leaves_gradients_alone():
    codes, target = torch.ones(2, 3), torch.randn(2, 3, requires_grad=True)
    assert not dcc(codes, torch.eye(3), target).requires_grad


@pytest.mark.parametrize("function", [dcc, dcc_objective])
def test_wrong_shapes_of_a_problem_are_named(function):
    with pytest.raises(ValueError, match=r"`binary_codes` and `target` .* \(2, 3\) and \(3, 3\)"):
        function(torch.ones(2, 3), torch.eye(3), torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"`binary_codes` and `target` .* \(3,\) and \(3,\)"):
        function(torch.ones(3), torch.eye(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"`gram` of shape \(3, 3\), got \(4, 4\)"):
        function(torch.ones(2, 3), torch.eye(4), torch.ones(2, 3))


def test_number_of_sweeps_is_checked():
    with pytest.raises(ValueError, match="`sweeps` of at least 1, got 0"):
        dcc(torch.ones(2, 3), torch.eye(3), torch.ones(2, 3), sweeps=0)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), d=st.integers(1, 4))
def test_ridge_is_least_squares(seed, n, d):
    rng = np.random.default_rng(seed)
    x, targets, penalty = rng.normal(size=(n, d)), rng.normal(size=(n, 3)), rng.uniform(0.1, 3)
    more_rows = np.vstack([x, np.sqrt(penalty) * np.eye(d)])
    expected = np.linalg.lstsq(more_rows, np.vstack([targets, np.zeros((d, 3))]), rcond=None)[0]
    found = ridge(torch.from_numpy(x.T @ x), torch.from_numpy(x.T @ targets), penalty)
    assert_close(found, torch.from_numpy(expected))


def test_ridge_is_a_minimum(device, dtype):
    x, targets = torch.randn(9, 3, dtype=dtype), torch.randn(9, 2, dtype=dtype)
    x, targets = x.to(device), targets.to(device)

    def objective(weights):
        return (targets - x @ weights).square().sum() + 0.5 * weights.square().sum()

    weights = ridge(x.T @ x, x.T @ targets, 0.5)
    assert (weights.dtype, weights.device) == (dtype, x.device)
    for _ in range(20):
        assert objective(weights) < objective(weights + 0.1 * torch.randn_like(weights))


def test_ridge_of_nearly_equal_codes_is_solved_in_double(device):
    """In float32 the two columns are one, and the penalty is lost beside their sums."""
    x = torch.ones(10_000, 2, dtype=torch.float64, device=device)
    x[0, 1] = -1
    targets, penalty = torch.randn(10_000, 1, dtype=torch.float64, device=device), 1e-3
    system = x.T @ x + penalty * torch.eye(2, dtype=torch.float64, device=device)
    expected = torch.linalg.inv(system) @ x.T @ targets
    found = ridge((x.T @ x).float(), (x.T @ targets).float(), penalty)
    assert_close(found, expected.float(), rtol=1e-3, atol=1e-4)


def test_ridge_errors():
    with pytest.raises(ValueError, match=r"`gram` of shape \(d, d\) .* got \(2, 2\) and \(3, 1\)"):
        ridge(torch.eye(2), torch.ones(3, 1), 1.0)
    with pytest.raises(ValueError, match=r"`gram` of shape \(d, d\) .* got \(2, 2\) and \(2,\)"):
        ridge(torch.eye(2), torch.ones(2), 1.0)
    with pytest.raises(ValueError, match="`penalty` of at least 0, got -1"):
        ridge(torch.eye(2), torch.ones(2, 1), -1)
    with pytest.raises(torch.linalg.LinAlgError):
        ridge(torch.ones(2, 2), torch.ones(2, 1), 0)
    assert_close(ridge(torch.eye(2) * 2, torch.ones(2, 1), 0), torch.full((2, 1), 0.5))


@pytest.mark.parametrize("kind", INTEGERS)
def test_sums_of_class_ids(kind, device, dtype):
    values = torch.randn(4, 3, dtype=dtype, device=device)
    labels = torch.tensor([2, 0, 2, 0], dtype=kind, device=device)
    sums = class_sums(values, labels, 4)
    zero = torch.zeros_like(values[0])
    expected = torch.stack([values[1] + values[3], zero, values[0] + values[2], zero])
    assert_close(sums, expected)
    assert_close(label_sums(sums, labels), expected[[2, 0, 2, 0]])
    assert_close(label_counts(labels, dtype), torch.ones(4, dtype=dtype, device=device))


@pytest.mark.parametrize("kind", [torch.bool, torch.float16, torch.float64, *INTEGERS])
def test_sums_of_multi_hot_rows(kind, device, dtype):
    values = torch.randn(3, 2, dtype=dtype, device=device)
    labels = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]], device=device).to(kind)
    sums = class_sums(values, labels, 4)
    zero = torch.zeros_like(values[0])
    assert_close(sums, torch.stack([values[0] + values[2], values[0], values[2], zero]))
    assert_close(
        label_sums(sums, labels), torch.stack([sums[0] + sums[1], zero, sums[0] + sums[2]])
    )
    expected = torch.tensor([2, 0, 2], dtype=dtype, device=device)
    assert_close(label_counts(labels, dtype), expected)
