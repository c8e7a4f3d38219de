"""Splits of a collection: disjoint, stratified, the same for the same seed."""

from collections import Counter
from math import ceil, floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_hashing.datasets import retrieval_split


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    queries=st.floats(0, 1),
    trained=st.floats(0, 1),
    multi_hot=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_parts_are_disjoint_and_every_class_has_its_share(
    labels, queries, trained, multi_hot, seed
):
    num_queries = max(1, round(queries * (len(labels) - 1)))
    num_train = max(1, round(trained * (len(labels) - num_queries)))
    rows = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in labels])
    query, database, train = retrieval_split(
        rows if multi_hot else torch.tensor(labels),
        num_queries=num_queries,
        num_train=num_train,
        seed=seed,
    )
    assert (len(query), len(train)) == (num_queries, num_train)
    assert sorted(query.tolist() + database.tolist()) == list(range(len(labels)))
    assert set(train.tolist()) <= set(database.tolist())
    for part, whole in ((query, range(len(labels))), (train, database.tolist())):
        assert part.tolist() == sorted(set(part.tolist()))
        counts = Counter(labels[i] for i in part.tolist())
        for label, size in Counter(labels[i] for i in whole).items():
            share = size * len(part) / len(whole)
            assert floor(share - 1e-9) <= counts[label] <= ceil(share + 1e-9)


def test_the_seed_decides():
    labels = torch.arange(200) % 3
    first, again, other = (
        retrieval_split(labels, num_queries=50, num_train=70, seed=seed) for seed in (1, 1, 2)
    )
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.query, other.query)
    assert not torch.equal(first.train, other.train)


def drawn_pairs(labels):
    draws = (retrieval_split(labels, num_queries=2, seed=seed).query for seed in range(400))
    return Counter(tuple(query.tolist()) for query in draws)


def test_every_two_samples_can_be_drawn():
    counts = drawn_pairs(torch.zeros(6).long())
    assert len(counts) == 15
    assert min(counts.values()) > 10  # of 27 on average


def test_no_class_is_always_that_with_one_more():
    counts = drawn_pairs(torch.arange(3))
    assert len(counts) == 3
    assert min(counts.values()) > 90  # of 133 on average


def test_all_of_the_database_is_trained_on_by_default():
    split = retrieval_split(torch.arange(9), num_queries=4)
    assert torch.equal(split.train, split.database)
    split.train.zero_()
    assert split.database.any()  # a tensor of its own


@pytest.mark.parametrize(
    ("labels", "num_queries", "num_train", "message"),
    [
        (torch.zeros(()), 1, None, r"`labels` of shape .* got \(\)"),
        (torch.zeros(1), 1, None, r"at least 2 samples, got \(1,\)"),
        (torch.zeros(5, 1), 1, None, r"`labels` of shape .* got \(5, 1\), which can be read as"),
        (torch.zeros(5).long(), 0, None, "`num_queries` of at least 1, got 0"),
        (torch.zeros(5).long(), 5, None, "`num_queries` of at most 4, got 5"),
        (torch.zeros(5).long(), 3, 0, "`num_train` of at least 1, got 0"),
        (torch.zeros(5).long(), 3, 3, "`num_train` of at most 2, got 3"),
    ],
)
def test_impossible_sizes(labels, num_queries, num_train, message):
    with pytest.raises(ValueError, match=message):
        retrieval_split(labels, num_queries=num_queries, num_train=num_train)
