"""LabelRows against the dense matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing import label_rows
from pml_hashing.label_rows import LabelRows

MATRICES = {
    "seed": st.integers(0, 2**32 - 1),
    "size": st.integers(0, 12),
    "num_classes": st.integers(1, 7),
    "share": st.sampled_from([0.0, 0.2, 0.6, 1.0]),
}


def make_labels(seed, size, num_classes, share):
    torch.manual_seed(seed)
    return (torch.rand(size, num_classes) < share).to(torch.uint8)


@given(**MATRICES)
def test_rows_are_those_of_the_matrix(seed, size, num_classes, share):
    labels = make_labels(seed, size, num_classes, share)
    ones = LabelRows.of(labels)
    assert len(ones) == size
    assert ones.counts.equal(labels.sum(dim=1))
    assert ones.dense().equal(labels)
    assert ones.dense(slice(1, 4)).equal(labels[1:4])
    assert torch.cat([labels[:0], *ones.blocks(5)]).equal(labels)
    if size > 0:
        some = torch.randint(size, (5,))
        assert ones.dense(some).equal(labels[some])
        assert ones.select(some).dense().equal(labels[some])
    even = ones.where(ones.classes % 2 == 0).dense()
    assert even[:, ::2].equal(labels[:, ::2])
    assert not even[:, 1::2].any()


@given(**MATRICES)
def test_products_are_those_of_the_matrix(seed, size, num_classes, share):
    labels = make_labels(seed, size, num_classes, share)
    ones, rows = LabelRows.of(labels), labels.double()
    values, class_values = torch.randn(size, 3).double(), torch.randn(num_classes, 3).double()
    weights = torch.rand(size).double()
    assert_close(ones.times(class_values), rows @ class_values)
    assert_close(ones.times(class_values.T.contiguous().T), rows @ class_values)
    assert_close(ones.transposed_times(values), rows.T @ values)
    assert_close(ones.gram(weights), rows.T @ (rows * weights[:, None]))


@given(**MATRICES)
def test_distinct_rows(seed, size, num_classes, share):
    labels = make_labels(seed, size, num_classes, share)
    distinct, membership = LabelRows.of(labels).distinct()
    assert distinct.dense(membership).equal(labels)
    assert len(distinct) == len(set(map(tuple, labels.tolist())))


@pytest.mark.parametrize("block", [1, 3])
def test_products_in_blocks(block, monkeypatch):
    monkeypatch.setattr(label_rows, "ENTRIES_OF_A_BLOCK", block)
    labels, values = make_labels(0, 9, 4, 0.5), torch.randn(9, 2)
    assert_close(LabelRows.of(labels).transposed_times(values), labels.T.float() @ values)


def test_products_have_gradients():
    ones, class_values = LabelRows.of(make_labels(0, 5, 4, 0.5)), torch.randn(4, 2).double()
    assert torch.autograd.gradcheck(ones.times, class_values.requires_grad_())
