"""Splits have the sizes of the literature, and share no image where they must not."""

import pytest
import torch
from comparison.protocols import PROTOCOLS, Protocol, validation_split

CIFAR10 = torch.arange(60_000) % 10
SIZES = {
    "1k/59k": (1000, 59_000, 5000),
    "1k/59k-all": (1000, 59_000, 59_000),
    "1k/54k": (1000, 54_000, 5000),
    "1k/15k": (100, 59_900, 1000),
    "10k/50k": (10_000, 50_000, 50_000),
    "10%/90%": (6000, 54_000, 54_000),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_sizes_of_cifar10(name):
    split = PROTOCOLS[name].split(CIFAR10, 10_000, seed=0)
    assert tuple(map(len, split)) == SIZES[name]
    query, database, training = (set(part.tolist()) for part in split)
    assert len(query) == len(split.query)
    assert not query & database
    assert not query & training
    assert training.isdisjoint(database) if name == "1k/54k" else training <= database


def test_sizes_of_cifar100():
    split = PROTOCOLS["1k/15k"].split(torch.arange(16_000) % 100, 0, seed=0)
    assert tuple(map(len, split)) == (1000, 15_000, 10_000)


def several(labels):
    return torch.stack([labels % 3 == 0, labels % 2 == 0, labels % 7 == 0], dim=1).long()


@pytest.mark.parametrize(
    ("labels", "protocol", "size"),
    [
        (CIFAR10, "1k/59k", 5000),
        (torch.arange(16_000) % 100, "1k/15k", 10_000),
        (several(torch.arange(2000)), "10%/90%", 1800),
    ],
    ids=["cifar10", "cifar100", "several"],
)
def test_settings_are_chosen_on_training_images_alone(labels, protocol, size):
    split = validation_split(labels, seed=3)
    parts = [set(part.tolist()) for part in split]
    assert [len(part) for part in parts] == [size // 10, size // 10, size * 8 // 10]
    assert len(set.union(*parts)) == size  # none is in two parts
    assert set.union(*parts) == set(PROTOCOLS[protocol].split(labels, 0, 3).training.tolist())
    if labels.ndim == 1:
        assert len(labels[split.training].bincount().unique()) == 1


def test_a_split_by_class_takes_as_many_of_each():
    labels = torch.tensor([0] * 20 + [1] * 9)
    query, database, training = Protocol("", 2, 3).split(labels, 0, seed=0)
    assert labels[query].bincount().tolist() == [2, 2]
    assert labels[training].bincount().tolist() == [3, 3]
    assert labels[database].bincount().tolist() == [18, 7]


def test_the_test_images_are_the_last():
    query, database, _ = PROTOCOLS["10k/50k"].split(torch.zeros(7).long(), 2, seed=0)
    assert query.tolist() == [5, 6]
    assert database.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["1k/59k", "10%/90%"])
def test_a_seed_is_a_split(name):
    one, same, other = (PROTOCOLS[name].split(CIFAR10, 0, seed) for seed in (1, 1, 2))
    assert torch.equal(one.query, same.query)
    assert not torch.equal(one.query, other.query)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("10k/50k", torch.zeros(5).long(), "without test images"),
        ("1k/59k", torch.ones(5, 2).long(), "several labels"),
        ("1k/59k", torch.zeros(599).long(), "at least 600 images .*got 599"),
        ("1k/59k-all", torch.zeros(100).long(), "at least 101 images .*got 100"),
    ],
)
def test_refuses_what_it_cannot_split(name, labels, message):
    with pytest.raises(ValueError, match=message):
        PROTOCOLS[name].split(labels, 0, seed=0)
