"""Similarity and class-structure weights against loops, and pairs against PML's."""

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch.testing import assert_close

from pml_hashing import pairs
from pml_hashing.label_rows import LabelRows
from pml_hashing.pairs import (
    LabelGroups,
    _sums_by_classes,
    affinity,
    check_indices_tuple,
    similar_sums,
    similarity,
    to_pairs,
)

KINDS = [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32]
MULTI_HOT = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]])
SIZES = {
    "seed": st.integers(0, 2**32 - 1),
    "n": st.integers(1, 7),
    "m": st.integers(1, 7),
    "num_classes": st.integers(1, 4),
}


def share_a_label(y, z):
    return y == z if isinstance(y, int) else any(a and b for a, b in zip(y, z, strict=True))


def make_labels(seed, n, m, num_classes, multi_hot):
    torch.manual_seed(seed)
    if multi_hot:
        return torch.randint(2, (n, num_classes)), torch.randint(2, (m, num_classes))
    return torch.randint(num_classes, (n,)), torch.randint(num_classes, (m,))


@given(**SIZES, multi_hot=st.booleans())
def test_similarity(seed, n, m, num_classes, multi_hot):
    labels, ref_labels = make_labels(seed, n, m, num_classes, multi_hot)
    expected = [[share_a_label(y, z) for z in ref_labels.tolist()] for y in labels.tolist()]
    assert_close(similarity(labels, ref_labels), torch.tensor(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_type(kind, device):
    labels = MULTI_HOT.to(device, kind)
    expected = [[share_a_label(y, z) for z in MULTI_HOT.tolist()] for y in MULTI_HOT.tolist()]
    assert similarity(labels, labels).tolist() == expected
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert similarity(labels, labels).tolist() == expected
    assert_close(affinity(labels, labels), affinity(MULTI_HOT, MULTI_HOT).to(device))


@pytest.mark.parametrize("other", [torch.zeros(4), torch.zeros(4, 2)])
def test_labels_of_two_kinds_are_refused(other):
    with pytest.raises(ValueError, match=r"`labels` and `ref_labels` of the same kind .* \(6, 3\)"):
        similarity(MULTI_HOT, other)


@given(**SIZES)
def test_pairs_are_those_of_pml(seed, n, m, num_classes):
    labels, ref_labels = make_labels(seed, n, m, num_classes, multi_hot=False)
    assert_close(to_pairs(None, labels, labels), lmu.get_all_pairs_indices(labels))
    assert_close(to_pairs(None, labels, ref_labels), lmu.get_all_pairs_indices(labels, ref_labels))


@pytest.mark.parametrize("same_object", [True, False])
def test_pairs_of_multi_hot_labels(same_object):
    ref_labels = MULTI_HOT if same_object else MULTI_HOT.clone()
    found = to_pairs(None, MULTI_HOT, ref_labels)
    similar, dissimilar = [], []
    for i, y in enumerate(MULTI_HOT.tolist()):
        for j, z in enumerate(MULTI_HOT.tolist()):
            if not (same_object and i == j):
                (similar if share_a_label(y, z) else dissimilar).append((i, j))
    assert list(zip(*(x.tolist() for x in found[:2]), strict=True)) == similar
    assert list(zip(*(x.tolist() for x in found[2:]), strict=True)) == dissimilar


def test_pairs_and_triplets_of_a_miner_are_kept():
    a, p, n = torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([2, 3])
    assert_close(to_pairs((a, p, n), None, None), (a, p, a, n))
    assert_close(to_pairs((a, p, n, a), MULTI_HOT, MULTI_HOT), (a, p, n, a))


@pytest.mark.parametrize("labels", [(None, None), (MULTI_HOT, None), (None, MULTI_HOT)])
def test_labels_or_pairs_are_required(labels):
    with pytest.raises(ValueError, match=r"labels` or `indices_tuple`.* got neither"):
        to_pairs(None, *labels)


def affinity_reference(labels, ref_labels):
    classes = range(len(labels[0]))
    counts = [sum(z[c] for z in ref_labels) for c in classes]
    return [
        [
            sum(y[c] * z[c] / counts[c] for c in classes if counts[c]) / max(1, sum(y))
            for z in ref_labels
        ]
        for y in labels
    ]


@given(**SIZES, multi_hot=st.booleans())
def test_affinity(seed, n, m, num_classes, multi_hot):
    labels, ref_labels = make_labels(seed, n, m, num_classes, multi_hot)
    rows, ref_rows = labels, ref_labels
    if not multi_hot:
        rows, ref_rows = (torch.nn.functional.one_hot(x, num_classes) for x in (labels, ref_labels))
    expected = torch.tensor(affinity_reference(rows.tolist(), ref_rows.tolist()))
    assert_close(affinity(labels, ref_labels), expected)
    exact = affinity(labels, ref_labels, torch.float64)
    assert exact.dtype == torch.float64
    assert_close(exact.float(), expected)
    with_label = (rows.sum(dim=1) > 0).double()
    assert_close(affinity(labels, labels, torch.float64).sum(dim=1), with_label)


def test_groups_of_class_ids_are_the_classes():
    labels = torch.tensor([2, 0, 2], dtype=torch.uint8)
    for group in (LabelGroups.unique, LabelGroups.each):
        groups = group(labels, 4)
        assert groups.labels.tolist() == [0, 1, 2, 3]
        assert groups.membership.tolist() == [2, 0, 2]
        assert groups.membership.dtype == torch.int64


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_multi_hot_rows(kind):
    labels = MULTI_HOT.to(kind)
    groups = LabelGroups.unique(labels, 3)
    assert len(groups.labels) == 5  # the second and the last are equal
    assert_close(groups.labels.dense(groups.membership), MULTI_HOT.to(torch.uint8))
    groups = LabelGroups.each(labels, 3)
    assert groups.labels is labels
    assert groups.membership.tolist() == list(range(6))


def test_groups_are_no_view_of_the_labels():
    labels = torch.tensor([2, 0, 2])
    groups = LabelGroups.unique(labels, 3)
    groups.membership.zero_()
    assert labels.tolist() == [2, 0, 2]


def sums_reference(values, labels):
    return torch.stack(
        [
            sum(
                (v for v, z in zip(values, labels.tolist(), strict=True) if share_a_label(y, z)),
                torch.zeros_like(values[0]),
            )
            for y in labels.tolist()
        ]
    )


@pytest.mark.parametrize("tile", [1, 4, 2**10])
def test_sums_over_similar_rows(tile, monkeypatch, device, dtype):
    monkeypatch.setattr(pairs, "ROWS_OF_A_TILE", tile)
    values, labels = torch.randn(6, 2, dtype=dtype, device=device), MULTI_HOT.to(device)
    expected = sums_reference(values, labels)
    assert_close(similar_sums(values, labels), expected)
    assert_close(similar_sums(values, LabelRows.of(labels)), expected)
    assert_close(similar_sums(values, torch.arange(6, device=device)), values)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 40),
    num_classes=st.integers(1, 9),
    share=st.sampled_from([0.1, 0.3, 0.9]),
    compared=st.integers(0, 8),
)
def test_sums_over_similar_rows_by_their_classes(seed, size, num_classes, share, compared):
    """By classes where it is less work, else by rows: sums of integers are the same to the bit."""
    torch.manual_seed(seed)
    labels = (torch.rand(size, num_classes) < share).to(torch.uint8)
    values = torch.randint(-9, 9, (size, 2)).float()
    with mock.patch.object(pairs, "ROWS_COMPARED", compared):
        sums = similar_sums(values, labels)
    assert sums.equal(sums_reference(values, labels))
    counts = LabelRows.of(labels).classes.bincount(minlength=num_classes)
    order = counts.argsort(descending=True)
    by_classes = _sums_by_classes(values, LabelRows.of(labels[:, order]))
    assert by_classes.equal(sums)


def places(*values, dtype=torch.int64):
    return tuple(torch.tensor(value, dtype=dtype) for value in values)


GOOD_PAIRS = {
    "triplets": places([0, 3], [1, 1], [2, 4]),
    "int32": places([0, 3], [1, 1], [2, 4], dtype=torch.int32),
    "pairs": places([0], [1], [2, 3, 0], [3, 4, 4]),
    "a list": list(places([0], [1], [2])),
    "rows of a matrix": torch.tensor([[0], [1], [2]]),
    "none": places([], [], []),
}
BAD_PAIRS = {
    "two": (places([0], [1]), ValueError, r"triplets, .* got shapes \(1,\), \(1,\)\.$"),
    "five": (places(*[[0]] * 5), ValueError, "or pairs, four"),
    "unequal triplets": (
        places([0, 1], [1], [2]),
        ValueError,
        r"got shapes \(2,\), \(1,\), \(1,\)",
    ),
    "unequal pairs": (places([0], [1], [0, 1], [2]), ValueError, "got shapes"),
    "matrices": (places([[0]], [[1]], [[2]]), ValueError, r"got shapes \(1, 1\)"),
    "numbers": (places(0, 1, 2), ValueError, r"got shapes \(\)"),
    "nothing": ((), ValueError, "got shapes None"),
    "lists": (([0], [1], [2]), TypeError, "tensors of int64 or int32, got list, list, list"),
    "floats": (places([0], [1], [2], dtype=torch.float32), TypeError, r"got torch\.float32"),
    "masks": (places([0], [1], [1], dtype=torch.bool), TypeError, r"got torch\.bool"),
    "bytes": (places([0], [1], [1], dtype=torch.uint8), TypeError, r"got torch\.uint8"),
    "a negative place": (places([-1], [1], [2]), ValueError, "tensor 0 places from 0 to 3, got -1"),
    "no such anchor": (
        places([0], [1], [4], [1]),
        ValueError,
        "tensor 2 places from 0 to 3, got 4",
    ),
    "no such sample": (
        places([0], [1], [5]),
        ValueError,
        "tensor 2 places from 0 to 4, got 5 to 5",
    ),
    "something else": (7, TypeError, "got int"),
}


@pytest.mark.parametrize("chosen", GOOD_PAIRS.values(), ids=GOOD_PAIRS)
def test_pairs_and_triplets_are_taken_as_they_are(chosen):
    found = check_indices_tuple(chosen, "`indices_tuple`", 4, 5)
    assert isinstance(found, tuple)
    assert all(torch.equal(mine, given) for mine, given in zip(found, chosen, strict=True))


@pytest.mark.parametrize(("chosen", "error", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_what_are_neither_pairs_nor_triplets_is_named(chosen, error, message):
    with pytest.raises(error, match=f"^Expected `indices_tuple` to hold .*{message}"):
        check_indices_tuple(chosen, "`indices_tuple`", 4, 5)
