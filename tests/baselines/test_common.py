"""What every baseline must do, checked on every name in `pml_hashing.baselines.__all__`."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pml_hashing import baselines
from pml_hashing.baselines import _base
from pml_hashing.baselines._base import BaseShallowHasher
from pml_hashing.codes import hamming_distance, pack
from pml_hashing.evaluation import mean_average_precision

ROOT = Path(__file__).parents[2]
SUPERVISED = sorted(set(baselines.__all__) - {"ITQ"})
FEATURES, LABELS = make_blobs(120, 5, centers=3, random_state=0)
FAST = {"FastHash": {"num_trees": 3}}


def make(name, code_length=4, **options):
    options = {"random_state": 0} | FAST.get(name, {}) | options
    return getattr(baselines, name)(code_length, **options)


@pytest.fixture(params=sorted(baselines.__all__))
def name(request):
    return request.param


@parametrize_with_checks([make(name, 2) for name in sorted(baselines.__all__)])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


def test_is_final_tested_and_documented(name):
    estimator = make(name)
    assert type(estimator).__bases__ == (BaseShallowHasher,)
    assert (ROOT / f"tests/baselines/test_{name.lower()}.py").is_file()
    assert f"::: pml_hashing.baselines.{name}" in (ROOT / "docs/baselines.md").read_text()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64])
def test_codes_are_bits_of_what_was_seen(name, kind):
    binary_codes = make(name).fit(FEATURES.astype(kind), LABELS).transform(FEATURES.astype(kind))
    assert (binary_codes.shape, binary_codes.dtype) == ((120, 4), np.int8)
    assert set(np.unique(binary_codes)) == {-1, 1}
    codes, labels = torch.from_numpy(binary_codes), torch.from_numpy(LABELS)
    assert pack(codes).shape == (120, 1)
    assert (hamming_distance(codes, codes) <= 4).all()
    assert mean_average_precision(codes, labels, codes, labels) > (0.9 if name != "ITQ" else 0.6)


def test_blocks_of_rows_change_nothing(name, monkeypatch):
    estimator = make(name).fit(FEATURES, LABELS)
    expected = estimator.transform(FEATURES)
    monkeypatch.setattr(_base, "ROWS", 7)
    assert np.array_equal(estimator.transform(FEATURES), expected)


def test_seed_decides(name):
    fitted = [make(name, random_state=seed).fit(FEATURES, LABELS) for seed in (1, 1, 2)]
    first, same, other = (estimator.transform(FEATURES) for estimator in fitted)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_pickle_and_clone(name):
    estimator = make(name).fit(FEATURES, LABELS)
    expected = estimator.transform(FEATURES)
    restored = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(restored.transform(FEATURES), expected)
    with pytest.raises(NotFittedError):
        clone(estimator).transform(FEATURES)
    assert np.array_equal(clone(estimator).fit(FEATURES, LABELS).transform(FEATURES), expected)


def test_goes_into_a_pipeline(name):
    pipeline = make_pipeline(StandardScaler(), make(name)).fit(FEATURES, LABELS)
    assert pipeline.transform(FEATURES[:3]).shape == (3, 4)
    names = pipeline.get_feature_names_out().tolist()
    assert names == [f"{name.lower()}{k}" for k in range(4)]


def test_tensors_are_features_too(name):
    features, labels = torch.from_numpy(FEATURES), torch.from_numpy(LABELS)
    expected = make(name).fit_transform(FEATURES, LABELS)
    assert np.array_equal(make(name).fit_transform(features, labels), expected)


@pytest.mark.parametrize("name", SUPERVISED)
@pytest.mark.parametrize("kind", [np.uint8, bool, np.float32])
def test_class_ids_of_any_kind_and_one_hot_rows_are_one(name, kind):
    expected = make(name).fit(FEATURES, LABELS).transform(FEATURES)
    for labels in (np.array(["b", "a", "c"])[LABELS], 7 - 2 * LABELS, LABELS.astype(float)):
        order = np.unique(labels, return_inverse=True)[1]
        same = make(name).fit(FEATURES, order).transform(FEATURES)
        assert np.array_equal(make(name).fit(FEATURES, labels).transform(FEATURES), same)
    one_hot = make(name).fit(FEATURES, np.eye(3, dtype=kind)[LABELS])
    assert np.array_equal(one_hot.transform(FEATURES), expected)


@pytest.mark.parametrize("name", SUPERVISED)
def test_several_labels(name):
    """Blob 1 has the labels of blobs 0 and 2, which have none in common; one sample has none."""
    labels = np.array([[1, 0], [1, 1], [0, 1]])[LABELS]
    labels[0] = 0
    binary_codes = make(name, 8).fit(FEATURES, labels).transform(FEATURES).astype(int)
    inner = binary_codes @ binary_codes.T
    similar = labels @ labels.T > 0
    assert inner[similar].mean() > 3 + inner[~similar].mean()


@pytest.mark.parametrize("name", SUPERVISED)
def test_one_class_is_learned(name):
    binary_codes = make(name).fit(FEATURES, np.ones(120)).transform(FEATURES)
    assert binary_codes.shape == (120, 4)


@pytest.mark.parametrize("name", SUPERVISED)
def test_wrong_labels(name):
    with pytest.raises(ValueError, match="multi-hot `y` of zeros and ones, got 2"):
        make(name).fit(FEATURES, np.full((120, 2), 2))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        make(name).fit(FEATURES, FEATURES[:, 0])
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[120, 119\]"):
        make(name).fit(FEATURES, LABELS[1:])
    with pytest.raises(ValueError, match="requires y"):
        make(name).fit(FEATURES)
    with pytest.warns(DataConversionWarning, match="column-vector"):
        make(name).fit(FEATURES, LABELS[:, None])


COUNTS = {
    "ITQ": ["code_length", "max_iter"],
    "SDH": ["code_length", "num_anchors", "max_iter", "sweeps"],
    "KSH": ["code_length", "num_anchors", "max_iter"],
    "FastHash": ["code_length", "num_trees", "max_depth", "sweeps", "block_size"],
}
POSITIVE = {
    "SDH": ["gamma", "classifier_penalty", "kernel_penalty"],
    "KSH": ["gamma"],
    "FastHash": ["learning_rate"],
}


@pytest.mark.parametrize(("name", "count"), [(n, c) for n, names in COUNTS.items() for c in names])
def test_wrong_counts(name, count):
    with pytest.raises(ValueError, match=f"`{count}` of at least 1, got 0"):
        make(name).set_params(**{count: 0}).fit(FEATURES, LABELS)
    for value in (2.5, True, "2"):
        with pytest.raises(TypeError, match=f"`{count}` to be an integer, got {value!r}"):
            make(name).set_params(**{count: value}).fit(FEATURES, LABELS)


@pytest.mark.parametrize(("name", "number"), [(n, x) for n, xs in POSITIVE.items() for x in xs])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_numbers(name, number, value):
    with pytest.raises(ValueError, match=f"positive `{number}`, got {value}"):
        make(name).set_params(**{number: value}).fit(FEATURES, LABELS)
