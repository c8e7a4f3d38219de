"""Labels from folders, tables and mappings: one way of writing several, which is read back."""

from datetime import date
from decimal import Decimal

import numpy as np
import pytest
import torch

from pml_hashing.collection.labels import columns_of, join_labels, labels_of, rows_of


@pytest.mark.parametrize("labels", [[], ["sea"], ["sand", "sea"], [" sea ", "sea", ""]])
def test_what_is_joined_is_read_back(labels):
    assert labels_of(join_labels(labels)) == tuple(sorted({x.strip() for x in labels} - {""}))


@pytest.mark.parametrize(
    ("labels", "names"),
    [("folders", ["sea|sand/a.png", "sea/b.png"]), ({"a.png": ["sea|sand", "sea"]}, ["a.png"])],
)
def test_one_label_is_not_read_as_two(tmp_path, labels, names):
    with pytest.raises(ValueError, match=r"Expected labels without '\|', .* got 'sea\|sand'"):
        rows_of(labels, tmp_path, names)


def test_a_text_has_several_labels(tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\na.png,sea|sand\nb.png,\n")
    for labels in (tmp_path / "labels.csv", {"a.png": "sea|sand", "b.png": None}):
        rows, absent = rows_of(labels, tmp_path, ["a.png", "b.png"])
        assert rows == {"a.png": {"label": "sand|sea"}, "b.png": {"label": None}}
        assert absent == []


IMAGES = ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (float("nan"), ValueError, "`price` of `a.png` without NaN"),
        (np.float32("nan"), ValueError, "`price` of `a.png` without NaN"),
        (2**63, ValueError, "`price` of `a.png` to hold integers of 64 bits"),
        (Decimal("1.5"), TypeError, "`price` of `a.png` to hold strings, .* of type Decimal"),
        (date(2026, 1, 1), TypeError, "`price` of `a.png` to hold strings, .* of type date"),
        (b"x", TypeError, "`price` of `a.png` to hold strings, .* of type bytes"),
        ([1, 2], TypeError, "`price` of `a.png` to hold strings, .* of type list"),
    ],
    ids=str,
)
def test_a_value_that_no_column_can_have(tmp_path, value, error, message):
    with pytest.raises(error, match=message):
        rows_of({"a.png": {"price": value}}, tmp_path, IMAGES)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (5, TypeError, 'Expected `labels` to be "folders", .* got int'),
        ([1], TypeError, 'Expected `labels` to be "folders", .* got list'),
        ({"a.png": {3: 1}}, ValueError, "names are identifiers .* got 3"),
        ({"a.png": {"a b": 1}}, ValueError, "names are identifiers .* got 'a b'"),
    ],
)
def test_labels_of_another_kind(tmp_path, labels, error, message):
    with pytest.raises(error, match=message):
        rows_of(labels, tmp_path, IMAGES)


def test_values_of_numpy_and_torch_become_those_of_python(tmp_path):
    for value in (np.int64(3), torch.tensor(3), np.str_("x"), np.bool_(True), np.float32(0.5)):
        rows, _ = rows_of({"a.png": {"column": value}}, tmp_path, IMAGES)
        (found,) = rows["a.png"].values()
        assert (found, type(found)) == (value.item(), type(value.item()))


@pytest.mark.parametrize(
    ("held", "values", "expected"),
    [
        (None, [1, 2.5], float),
        (None, [2.5, None, 1], float),
        (None, [None, 1], int),
        (None, [None], None),
        (int, [2.5], float),
        (float, [1], float),
        (str, [None], str),
        (str, [1, 2, 3], int),  # of all images
    ],
)
def test_the_type_of_a_column(held, values, expected):
    names = ["a", "b", "c"]
    given = {name: {"price": value} for name, value in zip(names, values, strict=False)}
    columns = {"other": str} | ({"price": held} if held else {})
    assert columns_of(columns, given, names) == {"other": str, "price": expected}


@pytest.mark.parametrize(
    ("held", "values"),
    [(str, [1]), (int, [True]), (None, [1, "x"]), (bool, [1.5]), (None, [True, 1])],
)
def test_values_of_two_types_in_a_column(held, values):
    given = dict(zip("abc", ({"price": value} for value in values), strict=False))
    with pytest.raises(TypeError, match=r"values of `price` of type \w+, as those before, got"):
        columns_of({"price": held} if held else {}, given, "abcd")
