"""ITQ: orthonormal directions, each alternation a Procrustes step that loses less."""

import numpy as np
import pytest

from pml_hashing.baselines import ITQ

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6)) + 3
PRINCIPAL = np.linalg.svd(FEATURES - FEATURES.mean(axis=0))[2][:4]


def fit(max_iter):
    return ITQ(4, max_iter=max_iter, random_state=5).fit(FEATURES)


def rotated(itq):
    return (FEATURES - FEATURES.mean(axis=0)) @ itq.components_.T


def quantization_error(values):
    return sum((x - (1 if x >= 0 else -1)) ** 2 for row in values.tolist() for x in row)


def itq_reference(values):
    """The rotation closest to the signs, as the paper has it: B'V = S O Q' gives R = Q S'."""
    signs = np.array([[1.0 if x >= 0 else -1.0 for x in row] for row in values])
    covariance = sum(np.outer(b, v) for b, v in zip(signs, values, strict=True))
    s, _, q_transposed = np.linalg.svd(covariance)
    return q_transposed.T @ s.T


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_more_alternation_is_a_procrustes_step(steps):
    before, after = fit(steps), fit(steps + 1)
    rotation = itq_reference(rotated(before))
    assert np.allclose(rotated(after), rotated(before) @ rotation)
    assert np.isclose(after.objective_[-1], quantization_error(rotated(after)))
    assert np.array_equal(after.objective_[:-1], before.objective_)
    assert (after.n_iter_, len(after.objective_)) == (steps + 1, steps + 1)


def test_objective_falls_until_the_codes_stay():
    itq = fit(1000)
    assert 5 < itq.n_iter_ < 1000
    assert (np.diff(itq.objective_) < 1e-9).all()
    assert np.allclose(rotated(itq) @ itq_reference(rotated(itq)), rotated(itq))
    signs_of_pca = (FEATURES - FEATURES.mean(axis=0)) @ PRINCIPAL.T
    assert itq.objective_[-1] < 0.95 * quantization_error(signs_of_pca)


def test_directions_are_orthonormal_and_span_the_principal_ones():
    itq = fit(50)
    assert np.allclose(itq.mean_, FEATURES.mean(axis=0))
    assert np.allclose(itq.components_ @ itq.components_.T, np.eye(4))
    assert np.allclose(itq.components_.T @ itq.components_, PRINCIPAL.T @ PRINCIPAL)
    assert np.array_equal(itq.transform(FEATURES) > 0, rotated(itq) >= 0)


def test_too_many_bits():
    with pytest.raises(ValueError, match=r"`code_length` .* got 7 bits .* n_features=6"):
        ITQ(7).fit(FEATURES)
    with pytest.raises(ValueError, match=r"`code_length` .* got 4 bits with n_samples=4"):
        ITQ(4).fit(FEATURES[:4])
    assert ITQ(3).fit(FEATURES[:4]).transform(FEATURES).shape == (200, 3)
