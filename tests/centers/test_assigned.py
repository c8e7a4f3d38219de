"""Codes of classes by features: the same for all, near for confused classes, fast for many."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from pml_hashing.centers import (
    assign_codes,
    assigned,
    assigned_codes,
    class_similarity,
    gather_features,
    hash_centers,
)
from pml_hashing.centers.similarity import MOST_FEATURES, narrow


def make_features(num_groups=10, per_group=4, samples=20, width=16):
    """Features of classes in groups, in which they are easily confused."""
    groups = 6 * torch.randn(num_groups, width).repeat_interleave(per_group, dim=0)
    means = groups + torch.randn(len(groups), width)
    labels = torch.arange(samples * len(means)) % len(means)
    return means[labels] + torch.randn(len(labels), width), labels


def mean_distance(codes, first, second):
    return (codes[first] != codes[second]).sum(dim=1).double().mean()


def test_confused_classes_have_near_codes():
    features, labels = make_features()
    codes, drawn = assigned_codes(features, labels, 40, 16), hash_centers(40, 16)
    assert sorted(codes.tolist()) == sorted(drawn.tolist())
    first, second = torch.combinations(torch.arange(40)).T
    same = first // 4 == second // 4
    near, far = (mean_distance(codes, first[of], second[of]) for of in (same, ~same))
    assert near < mean_distance(drawn, first[same], second[same]) - 1
    assert near < far - 1


@pytest.mark.parametrize(("most", "method"), [(12, "confusion"), (11, "means")])
def test_they_are_similarity_and_assignment(monkeypatch, most, method):
    monkeypatch.setattr(assigned, "MOST_CLASSES_TO_CONFUSE", most)
    features, labels = torch.randn(240, 8, requires_grad=True), torch.arange(240) % 12
    given = hash_centers(12, 6, seed=3)  # not all equally far apart
    codes = assigned_codes(features, labels, 12, 6, seed=3)
    alike = class_similarity(features, labels, 12, method=method, seed=3)
    alike = (alike * 1024).round() / 1024
    assert_close(codes, assign_codes(given, alike, seed=3))
    assert_close(codes, assigned_codes(features, labels, 12, 6, seed=3), rtol=0, atol=0)
    assert (codes != assigned_codes(features, labels, 12, 6, seed=4)).any()
    assert (codes != given).any()
    assert not codes.requires_grad


def test_the_last_digits_of_features_do_not_decide():
    features, labels = make_features(5)
    noise = 1 + 1e-6 * torch.randn_like(features)
    assert_close(
        assigned_codes(features * noise, labels, 20, 16), assigned_codes(features, labels, 20, 16)
    )


def test_classes_that_occur_together_have_near_codes():
    labels = F.one_hot(torch.arange(300) % 6)
    labels[::6, 3] = 1  # half of what has class 0 or 3 has both
    codes = assigned_codes(torch.randn(300, 8), labels, 6, 12)
    distances = (codes[0] != codes).sum(dim=1)
    assert distances[3] == distances[1:].min()


@pytest.mark.parametrize("num_classes", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_classes(num_classes):
    features, labels = torch.randn(2 * num_classes, 64), torch.arange(2 * num_classes) % num_classes
    codes = assigned_codes(features, labels, num_classes, 64)
    assert len(codes.unique(dim=0)) == num_classes


def test_features_of_zeros_and_ones_are_features():
    labels = torch.arange(40) % 4
    codes = assigned_codes(F.one_hot(labels, 4).float(), labels, 4, 8)
    assert codes.shape == (4, 8)
    with pytest.raises(ValueError, match="finite values in `features`"):
        assigned_codes(torch.full((40, 4), float("nan")), labels, 4, 8)


def test_wide_features_are_summed_into_fewer():
    wide = torch.randn(40, 3, 50, 50)
    wide[20:] = wide[:20] + 0.1 * torch.randn(20, 3, 50, 50)
    narrowed = narrow(wide)
    assert narrowed.shape == (40, MOST_FEATURES)
    expected = wide.flatten(1) @ wide.flatten(1).T
    own = expected.diagonal().mean()
    assert_close(narrowed @ narrowed.T / own, expected / own, rtol=0, atol=0.1)
    assert_close(narrow(wide), narrowed, rtol=0, atol=0)
    small = torch.randn(4, 2, 3)
    assert_close(narrow(small), small.flatten(1))
    features, _ = gather_features(torch.nn.Identity(), [(wide, torch.arange(40) % 2)])
    assert_close(features, narrowed)
