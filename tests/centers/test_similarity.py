"""The similarity of classes against scikit-learn, sample by sample, and what it should tell."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from pml_hashing.centers import class_similarity, gather_features

METHODS = ["confusion", "means"]


def make_data(n=120, num_classes=6, width=5):
    """Classes 0 and 1 are alike, as are 2 and 3, and 4 and 5."""
    labels = torch.arange(n) % num_classes
    means = 4 * torch.randn(num_classes // 2, width).repeat_interleave(2, dim=0)
    means = means + torch.randn(num_classes, width)
    return means[labels] + torch.randn(n, width), labels


def make_rows(labels, num_classes=6):
    rows = nn.functional.one_hot(labels, num_classes)
    rows[::4, 0] = 1
    rows[::10, 3] = 1
    return rows


def standardized(matrix, present):
    matrix = (matrix + matrix.T) / 2
    pairs = np.outer(present, present) & ~np.eye(len(matrix), dtype=bool)
    return np.where(pairs, (matrix - matrix[pairs].mean()) / matrix[pairs].std(), 0)


def confusion_reference(features, rows, seed=0):
    """The printed formula, sample by sample, with scikit-learn's ridge regression."""
    x, y = features.double().numpy(), rows.double().numpy()
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    sums, totals = np.zeros((y.shape[1],) * 2), np.zeros(y.shape[1])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).numpy()
    for fold in range(5):
        held = order[fold::5]
        rest = np.setdiff1d(order, held)
        centred = y[rest] - y[rest].mean(0)
        ridge = Ridge(alpha=0.3 * len(rest), fit_intercept=False).fit(x[rest], centred)
        for sample in held:
            terms = np.exp(12 * x[sample] @ ridge.coef_.T) * (1 - y[sample])
            taken_for = terms / max(terms.sum(), 1e-300) + y[sample]
            for c in np.flatnonzero(y[sample]):
                sums[c] += taken_for / y[sample].sum()
                totals[c] += 1 / y[sample].sum()
    return standardized(sums / np.maximum(totals, 1e-9)[:, None], totals > 0)


def means_reference(features, rows):
    """Distances of class means in the space where the covariance within classes is a sphere."""
    x, y = features.double().numpy(), rows.double().numpy()
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    present = y.sum(0) > 0
    means = np.stack([x[y[:, c] > 0].mean(0) if present[c] else 0 * x[0] for c in range(len(y.T))])
    within = np.stack([s - means[row > 0].mean(0) for s, row in zip(x, y, strict=True)])
    covariance = within.T @ within / len(x)
    covariance += 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    inverse = np.linalg.inv(covariance)
    steps = means[:, None] - means
    return standardized(-np.sqrt(np.einsum("abi,ij,abj->ab", steps, inverse, steps)), present)


REFERENCES = {"confusion": confusion_reference, "means": means_reference}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("num_classes", [6, 7])  # the last of seven has no sample
@pytest.mark.parametrize("method", METHODS)
def test_value(method, several, num_classes, device):
    features, labels = make_data()
    rows = nn.functional.one_hot(labels, num_classes)
    if several:
        rows = labels = make_rows(labels, num_classes)
    expected = torch.from_numpy(REFERENCES[method](features, rows)).float()
    similarity = class_similarity(
        features.to(device), labels.to(device), num_classes, method=method
    )
    assert similarity.device.type == device.type
    assert_close(similarity.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_classes_that_are_alike_are_found(method):
    similarity = class_similarity(*make_data(), 6, method=method)
    assert similarity.fill_diagonal_(-9).argmax(dim=1).tolist() == [1, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("method", METHODS)
def test_it_is_symmetric_and_standardized(method):
    similarity = class_similarity(*make_data(), 6, method=method)
    off = similarity[~torch.eye(6, dtype=torch.bool)]
    assert_close(similarity, similarity.T)
    assert (similarity.diagonal() == 0).all()
    assert_close(off.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert_close(off.square().mean(), torch.tensor(1.0))


@pytest.mark.parametrize("method", METHODS)
def test_one_hot_rows_are_class_ids(method):
    features, labels = make_data()
    rows = nn.functional.one_hot(labels, 6)
    expected = class_similarity(features, labels, 6, method=method)
    for kind in (torch.int64, torch.bool, torch.float32):
        assert_close(class_similarity(features, rows.to(kind), 6, method=method), expected)
    assert_close(class_similarity(features, labels.to(torch.uint8), 6, method=method), expected)


def test_classes_that_occur_together_are_alike():
    features, rows = torch.randn(200, 4), torch.zeros(200, 4)
    rows[torch.arange(200), torch.arange(200) % 4] = 1
    rows[rows[:, 0] == 1, 2] = 1
    similarity = class_similarity(features, rows, 4)
    assert divmod(int(similarity.argmax()), 4) in {(0, 2), (2, 0)}


@pytest.mark.parametrize("method", METHODS)
def test_samples_without_labels_or_with_all_do_no_harm(method):
    features, labels = make_data()
    rows = nn.functional.one_hot(labels, 6)
    more = torch.cat([rows, torch.zeros(3, 6, dtype=torch.long)])
    similarity = class_similarity(torch.cat([features, torch.randn(3, 5)]), more, 6, method=method)
    assert_close(similarity, class_similarity(features, rows, 6, method=method))
    rows[0] = 1
    assert class_similarity(features, rows, 6, method=method).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_little_data(method, num_classes):
    labels = torch.tensor([0, num_classes - 1])
    for features in (torch.randn(2, 3), torch.zeros(2, 3)):
        similarity = class_similarity(features, labels, num_classes, method=method)
        assert similarity.isfinite().all()
    assert (similarity == 0).all()  # nothing tells any class from another


def test_features_need_not_be_float32_or_of_many_samples():
    features, labels = make_data(12)
    expected = class_similarity(features.half().float(), labels, 6)
    assert_close(class_similarity(features.half(), labels, 6), expected)
    wide = torch.randn(12, 100)
    assert class_similarity(wide, labels, 6, method="means").isfinite().all()


@pytest.mark.parametrize(
    ("features", "labels", "options", "message"),
    [
        (torch.zeros(3), torch.tensor([0, 1, 1]), {}, r"`features` of shape \(n, width\)"),
        (torch.zeros(0, 2), torch.tensor([]), {}, r"`features` of shape .* got \(0, 2\)"),
        (torch.full((2, 2), torch.nan), torch.tensor([0, 1]), {}, "finite values in `features`"),
        (torch.zeros(2, 2), torch.tensor([0, 1, 1]), {}, r"`labels` of shape \(2,\)"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), {}, "class ids from 0 to 1, got 0 to 2"),
        (torch.zeros(2, 2), torch.tensor([0, 1]), {"method": "tree"}, "`method` to be one of"),
        (torch.zeros(1, 2), torch.tensor([0]), {}, "at least 2 samples with labels, got 1"),
        (torch.zeros(2, 2), torch.zeros(2, 2), {}, "at least 2 samples with labels, got 0"),
    ],
)
def test_wrong_arguments_are_named(features, labels, options, message):
    with pytest.raises(ValueError, match=message):
        class_similarity(features, labels, 2, **options)


def make_trunk():
    return nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))


def test_features_are_those_of_the_trunk_in_eval_mode(device):
    features, labels = make_data(50)
    trunk = make_trunk().to(device)
    batches = DataLoader(TensorDataset(features, labels, torch.arange(50)), batch_size=8)
    gathered, of_samples = gather_features(trunk, batches)
    assert all(part.training for part in trunk.modules())
    assert torch.equal(of_samples.cpu(), labels)
    assert_close(gathered, trunk.eval()(features.to(device)).detach())
    assert not gathered.requires_grad


@pytest.mark.parametrize("most", [1, 7, 49, 50])
def test_so_many_samples_are_kept_and_rows_stay_rows(most):
    rows = torch.arange(50.0)[:, None].repeat(1, 2)
    labels = torch.arange(50)
    batches = list(zip(rows.split(8), labels.split(8), strict=True))
    gathered, of_samples = gather_features(nn.Identity(), batches, most=most, seed=1)
    assert of_samples.tolist() == sorted(set(of_samples.tolist()))
    assert len(of_samples) == most
    assert_close(gathered[:, 0], of_samples.float())
    again = gather_features(nn.Identity(), batches, most=most, seed=1)
    assert torch.equal(again[1], of_samples)


def test_products_of_wide_features_stay_about_as_they_are():
    images = torch.rand(3, 3, 100, 100)  # none is negative: without signs, sums would pile up
    gathered, _ = gather_features(nn.Identity(), [(images, torch.arange(3))])
    assert gathered.shape == (3, 4096)
    rows = images.flatten(start_dim=1)
    assert_close(gathered @ gathered.T, rows @ rows.T, rtol=0.15, atol=0)
    again, _ = gather_features(nn.Identity(), [(images[1:], torch.arange(2))])
    assert_close(again, gathered[1:])


def test_every_sample_can_be_kept():
    batches = [(torch.zeros(4, 1), torch.arange(4 * i, 4 * i + 4)) for i in range(5)]
    seen = [gather_features(nn.Identity(), batches, most=2, seed=s)[1].tolist() for s in range(99)]
    counts = np.bincount(np.concatenate(seen), minlength=20)
    assert counts.min() >= 2
    assert counts.max() <= 24  # 9.9 on average


def test_nothing_to_gather_is_an_error():
    with pytest.raises(ValueError, match="`batches` of inputs and labels, got none"):
        gather_features(nn.Identity(), [])
    with pytest.raises(ValueError, match="`most` of at least 1, got 0"):
        gather_features(nn.Identity(), [], most=0)
