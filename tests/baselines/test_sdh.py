"""SDH: every step lowers the printed objective, and a bit's update is the best there is."""

import itertools
import math

import numpy as np
import pytest
import torch

from pml_hashing.baselines import SDH
from pml_hashing.baselines._kernel import AnchorKernel
from pml_hashing.baselines.sdh import _Problem

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(9, 3))
IDS = np.array([0, 1, 2, 0, 1, 2, 0, 0, 1])
HOT = (RNG.random((9, 3)) < 0.5).astype(np.uint8)
LABELS = pytest.mark.parametrize("labels", [IDS, HOT], ids=["ids", "multi-hot"])
PENALTIES = (0.7, 0.3, 0.2)


def sdh_reference(codes, labels, inputs, classify, hash_, penalties):
    """|Y - BW|^2 + lambda |W|^2 + nu (|B - phi P|^2 + delta |P|^2), number by number."""
    classifier_penalty, weight, kernel_penalty = penalties
    n, num_bits = codes.shape
    total = 0.0
    for i in range(n):
        for c in range(classify.shape[1]):
            y = labels[i][c] if labels.ndim == 2 else float(labels[i] == c)
            total += (y - sum(codes[i, k] * classify[k, c] for k in range(num_bits))) ** 2
        for k in range(num_bits):
            value = sum(x * p for x, p in zip(inputs[i], hash_[:, k], strict=True))
            total += weight * (codes[i, k] - value) ** 2
    squares = sum(w**2 for row in classify.tolist() for w in row)
    return total + classifier_penalty * squares + weight * kernel_penalty * (hash_**2).sum()


def problem(labels):
    inputs = np.column_stack([AnchorKernel(FEATURES[:4], 0.5)(FEATURES), np.ones(9)])
    return _Problem(torch.from_numpy(inputs), torch.from_numpy(labels), *PENALTIES)


def value(labels, codes, maps):
    """The reference, for the codes and maps of a problem."""
    inputs = problem(labels).inputs.numpy()
    return sdh_reference(
        codes.numpy(), labels.astype(float), inputs, *(m.numpy() for m in maps), PENALTIES
    )


def random_codes(num_bits=3):
    return torch.from_numpy(RNG.choice([-1.0, 1.0], (9, num_bits)))


@LABELS
def test_objective_equals_its_formula(labels):
    codes = random_codes()
    maps = problem(labels).regress(random_codes())
    assert math.isclose(problem(labels).value(codes, maps).item(), value(labels, codes, maps))


@LABELS
def test_regressions_are_the_best(labels):
    codes = random_codes()
    maps = problem(labels).regress(codes)
    least = value(labels, codes, maps)
    for _ in range(10):
        moved = [m + 0.05 * torch.from_numpy(RNG.normal(size=m.shape)) for m in maps]
        assert value(labels, codes, (moved[0], maps[1])) > least
        assert value(labels, codes, (maps[0], moved[1])) > least


@LABELS
def test_a_bit_is_the_best_of_all(labels):
    """With one bit, a sweep is the update of one column: brute force over its 2^9 values."""
    codes = random_codes(1)
    maps = problem(labels).regress(codes)
    improved = problem(labels).improve(random_codes(1), maps, 1)
    best = min(
        value(labels, torch.tensor(bits, dtype=torch.float64)[:, None], maps)
        for bits in itertools.product((-1.0, 1.0), repeat=9)
    )
    assert math.isclose(value(labels, improved, maps), best)


@LABELS
def test_alternation_never_raises_the_objective(labels):
    codes = random_codes(4)
    maps = problem(labels).regress(codes)
    values = [value(labels, codes, maps)]
    for _ in range(4):
        codes = problem(labels).improve(codes, maps, 2)
        values.append(value(labels, codes, maps))
        maps = problem(labels).regress(codes)
        values.append(value(labels, codes, maps))
    assert (np.diff(values) <= 1e-9).all()
    assert values[-1] < values[0]


@LABELS
def test_what_is_fitted_is_what_was_minimised(labels):
    classifier_penalty, weight, kernel_penalty = PENALTIES
    hasher = SDH(
        4,
        num_anchors=4,
        gamma=0.5,
        classifier_penalty=classifier_penalty,
        quantization_weight=weight,
        kernel_penalty=kernel_penalty,
        max_iter=20,
        sweeps=1,
        random_state=1,
    ).fit(FEATURES, labels)
    assert 1 < hasher.n_iter_ < 20
    assert len(hasher.objective_) == hasher.n_iter_
    assert (np.diff(hasher.objective_) <= 1e-9).all()
    values = [[sum((x - a) ** 2) for a in hasher.kernel_.anchors] for x in FEATURES]
    inputs = np.column_stack([np.exp(-0.5 * np.array(values)), np.ones(9)])
    assert np.array_equal(hasher.transform(FEATURES) > 0, inputs @ hasher.weights_ >= 0)


def test_kernel():
    random_state = np.random.RandomState(0)
    kernel = AnchorKernel.fit(FEATURES, 5, None, random_state)
    squares = [sum((x - a) ** 2) for x in FEATURES for a in kernel.anchors]
    assert math.isclose(kernel.gamma, 1 / (2 * np.mean(squares)))
    far = AnchorKernel.fit(FEATURES + 1e6, 5, None, np.random.RandomState(0))
    assert math.isclose(far.gamma, kernel.gamma, rel_tol=1e-6)
    assert len({tuple(a) for a in kernel.anchors} & {tuple(x) for x in FEATURES}) == 5
    assert len(AnchorKernel.fit(FEATURES, 100, 1.0, random_state).anchors) == 9
    assert AnchorKernel.fit(np.ones((3, 2)), 2, None, random_state).gamma == 1  # no distance


def test_wrong_weight():
    with pytest.raises(ValueError, match="`quantization_weight` of at least 0, got -1"):
        SDH(quantization_weight=-1).fit(FEATURES, IDS)
