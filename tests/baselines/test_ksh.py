"""KSH: the eigenproblem is SciPy's generalised one, and refinement explains no less."""

import math

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.optimize import check_grad

from pml_hashing.baselines import KSH, ksh
from pml_hashing.baselines._kernel import AnchorKernel
from pml_hashing.baselines._residue import SimilarityResidue
from pml_hashing.baselines.ksh import refine, smooth_objective, top_eigenvector, whitening

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(30, 4))
IDS = RNG.integers(0, 3, 30)
HOT = (RNG.random((30, 5)) < 0.3).astype(np.uint8)
HOT[0] = 0
LABELS = pytest.mark.parametrize("labels", [IDS, HOT], ids=["ids", "multi-hot"])


def ksh_reference(labels, bits, code_length):
    """K S - sum_q b_q b_q', pair by pair."""
    n = len(labels)
    residue = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            same = labels[i] == labels[j] if labels.ndim == 1 else (labels[i] * labels[j]).any()
            residue[i, j] = code_length * (1 if same else -1) - sum(b[i] * b[j] for b in bits)
    return residue


def some_bits(count):
    return list(RNG.choice([-1.0, 1.0], (count, 30)))


def with_bits(labels, bits):
    residue = SimilarityResidue(labels, 8)
    for bit in bits:
        residue.subtract(bit)
    return residue


@LABELS
def test_residue_is_the_matrix_it_never_builds(labels):
    bits = some_bits(3)
    residue, expected = with_bits(labels, bits), ksh_reference(labels, bits, 8)
    vector, matrix, rows = RNG.normal(size=30), RNG.normal(size=(30, 2)), np.array([0, 4, 29, 7])
    assert len(residue) == 30
    assert np.allclose(residue.times(vector), expected @ vector)
    assert np.allclose(residue.times(matrix), expected @ matrix)
    assert np.allclose(residue.times(vector, rows), expected[rows] @ vector)
    assert np.allclose(residue.block(rows), expected[np.ix_(rows, rows)])


@LABELS
def test_eigenproblem_is_the_generalised_one(labels):
    values = AnchorKernel(FEATURES[:5], 0.3)(FEATURES)
    values -= values.mean(axis=0)
    dense = ksh_reference(labels, some_bits(2), 8)
    _, vectors = eigh(values.T @ dense @ values, values.T @ values)
    expected = values @ vectors[:, -1]
    basis = whitening(values)
    inputs = values @ basis
    assert np.allclose(inputs.T @ inputs, np.eye(5))
    found = inputs @ top_eigenvector(inputs.T @ dense @ inputs)
    assert math.isclose(abs(found @ expected), np.linalg.norm(expected), rel_tol=1e-9)


def test_empty_directions_are_left_out():
    values = RNG.normal(size=(30, 3))
    basis = whitening(np.column_stack([values, values[:, 0] + values[:, 1], np.zeros(30)]))
    assert basis.shape == (5, 3)
    with pytest.raises(ValueError, match="`X` with samples that differ"):
        KSH().fit(np.ones((30, 4)), IDS)


def smooth_reference(inputs, dense, weights):
    smooth = [2 / (1 + math.exp(-t)) - 1 for t in inputs @ weights]
    pairs = [(i, j) for i in range(30) for j in range(30)]
    return -sum(smooth[i] * dense[i, j] * smooth[j] for i, j in pairs)


@LABELS
def test_smooth_objective_and_gradient(labels):
    bits, weights, inputs = some_bits(2), RNG.normal(size=4), RNG.normal(size=(30, 4))
    residue = with_bits(labels, bits)
    expected = smooth_reference(inputs, ksh_reference(labels, bits, 8), weights)
    assert math.isclose(smooth_objective(weights, inputs, residue)[0], expected)
    error = check_grad(
        lambda w: smooth_objective(w, inputs, residue)[0],
        lambda w: smooth_objective(w, inputs, residue)[1],
        weights,
    )
    assert error < 1e-3  # of gradients in the hundreds


def explained(inputs, direction, dense):
    bit = np.where(inputs @ direction >= 0, 1.0, -1.0)
    return bit @ dense @ bit


@LABELS
def test_refinement_explains_no_less(labels):
    dense, residue = ksh_reference(labels, [], 8), with_bits(labels, [])
    gains = []
    for _ in range(20):
        inputs, direction = RNG.normal(size=(30, 4)), RNG.normal(size=4)
        found, steps = refine(inputs, residue, direction, 100)
        assert 1 <= steps <= 100
        gain = explained(inputs, found, dense) - explained(inputs, direction, dense)
        assert gain >= 0
        assert gain > 0 or np.array_equal(found, direction)
        gains.append(gain)
    assert np.median(gains) > 0


def test_the_most_iterations_of_a_bit_are_counted(monkeypatch):
    steps = iter([3, 7, 5])
    monkeypatch.setattr(ksh, "refine", lambda inputs, residue, start, _: (start, next(steps)))
    assert KSH(3, num_anchors=6, random_state=0).fit(FEATURES, IDS).n_iter_ == 7


@LABELS
def test_bits_are_refined_eigenvectors(labels):
    """Bit by bit: the generalised eigenvector of the dense residue, then a few steps from there."""
    hasher = KSH(4, num_anchors=6, gamma=0.3, max_iter=2, random_state=0).fit(FEATURES, labels)
    anchors = hasher.kernel_.anchors
    values = np.exp([[-0.3 * sum((x - a) ** 2) for a in anchors] for x in FEATURES])
    centered = values - values.mean(axis=0)
    projected = centered @ hasher.weights_
    assert np.array_equal(hasher.transform(FEATURES) > 0, projected >= 0)
    inputs, bits = centered @ whitening(centered), []
    for bit in np.where(projected >= 0, 1.0, -1.0).T:
        dense = ksh_reference(labels, bits, 4)
        _, vectors = eigh(centered.T @ dense @ centered, centered.T @ centered)
        spectral = inputs.T @ centered @ vectors[:, -1] * np.sqrt(30)  # a'K'Ka = n
        residue = SimilarityResidue(labels, 4)
        for before in bits:
            residue.subtract(before)
        expected, _ = refine(inputs, residue, spectral, 2)
        assert abs(np.where(inputs @ expected >= 0, 1, -1) @ bit) == 30  # its sign is free
        bits.append(bit)
    assert hasher.n_iter_ == 2
