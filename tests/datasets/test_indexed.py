"""Indexed data sets, and batches that leave no sample out."""

import itertools
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from pml_hashing.datasets import IndexedDataset
from pml_hashing.datasets._batches import EvenBatches, IndexedCollate


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


def test_items_come_with_their_place():
    dataset = IndexedDataset([("a", 5), ("b", 7)])
    assert len(dataset) == 2
    assert dataset[1] == (("b", 7), 1)


def test_a_stream_has_no_places():
    with pytest.raises(TypeError, match="`dataset` with a length, got Stream"):
        IndexedDataset(Stream())


def test_batches_come_with_the_places_of_their_samples():
    dataset = IndexedDataset([(torch.tensor([float(i)]), 10 * i) for i in range(5)])
    places = EvenBatches(dataset, batch_size=2).split(torch.tensor([3, 0, 4, 1, 2]))
    sampler = [batch.tolist() for batch in places]
    batches = list(DataLoader(dataset, batch_sampler=sampler, collate_fn=IndexedCollate()))
    for (data, labels), indices in batches:
        assert indices.dtype == torch.int64
        assert data.flatten().tolist() == indices.tolist()
        assert labels.tolist() == [10 * i for i in indices]
    assert [indices.tolist() for _, indices in batches] == [[3, 0], [4, 1], [2]]


def test_a_collate_function_of_the_user_is_kept():
    collate = IndexedCollate("-".join)
    batch, indices = collate([("a", 4), ("b", 2)])
    assert (batch, indices.tolist()) == ("a-b", [4, 2])


def test_collate_can_be_sent_to_workers():
    collate = pickle.loads(pickle.dumps(IndexedCollate()))
    batch, indices = collate([(1, 4), (2, 2)])
    assert (batch.tolist(), indices.tolist()) == ([1, 2], [4, 2])


@given(size=st.integers(1, 200), batch_size=st.integers(1, 30))
def test_batches_are_even_and_leave_no_sample_out(size, batch_size):
    batches = EvenBatches(range(size), batch_size)
    order = [batch.tolist() for batch in batches.split(torch.randperm(size))]
    sizes = [len(batch) for batch in order]
    assert len(sizes) == len(batches)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert sorted(itertools.chain(*order)) == list(range(size))
    assert min(sizes) > 1 or size == 1 or batch_size < 3


@pytest.mark.parametrize("name", ["batch_size", "parts"])
def test_sizes_are_checked(name):
    with pytest.raises(ValueError, match=f"`{name}` of at least 1, got 0"):
        EvenBatches(range(3), **{"batch_size": 1, name: 0})


class Fetched:
    """A data set that gives many items at once."""

    def __len__(self):
        return 5

    def __getitems__(self, indices):
        return [10 * i for i in indices]


def test_many_items_are_fetched_at_once():
    assert IndexedDataset(Fetched()).__getitems__([3, 1]) == [(30, 3), (10, 1)]
    tensors = TensorDataset(torch.randn(5, 2), torch.arange(5))
    fetched = IndexedDataset(Subset(tensors, [4, 2, 0])).__getitems__([2, 0])
    assert [(item[0].tolist(), item[1], place) for item, place in fetched] == [
        (tensors[i][0].tolist(), i, place) for i, place in ((0, 2), (4, 0))
    ]
    at_once = IndexedDataset(tensors).__getitems__([4, 0])
    assert [(x.tolist(), int(y), i) for (x, y), i in at_once] == [
        (tensors[i][0].tolist(), i, i) for i in (4, 0)
    ]


@pytest.mark.parametrize("tensors", [[torch.randn(9, 3)], [torch.randn(9, 3, 2), torch.arange(9)]])
@pytest.mark.parametrize("collate_fn", [None, lambda items: [[*item] for item in items]])
def test_rows_of_tensors_are_taken_at_once_and_are_what_single_items_make(tensors, collate_fn):
    class OneByOne(TensorDataset):
        """A subclass, of which nothing is known."""

    collate = IndexedCollate(collate_fn)
    whole, single = (IndexedDataset(kind(*tensors)) for kind in (TensorDataset, OneByOne))
    assert single.whole_batch([3, 1]) is None
    batches = [collate(items) for items in (whole.whole_batch([3, 1]), single.__getitems__([3, 1]))]
    assert_close(batches[0], batches[1], rtol=0, atol=0)
    assert type(batches[0][0]) is type(batches[1][0]) is list
