"""Samples have random numbers of their own, whether or not a data set draws any."""

import random

import numpy as np
import pytest
import torch

from pml_hashing.datasets import IndexedDataset
from pml_hashing.trainers._loading import SeededDataset

BATCHES = [[(i, 100 + i) for i in range(start, start + 4)] for start in range(0, 12, 4)]
DRAWN = {
    "python": random.random,
    "numpy": np.random.rand,
    "torch": lambda: torch.rand(()).item(),
}


class Drawing:
    """Draws for samples from one on, and counts what it loads."""

    def __init__(self, draw, first):
        self.draw, self.first, self.loads = draw, first, 0

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.loads += 1
        return self.draw() if index >= self.first else -1.0


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize(("first", "loads"), [(0, 12), (2, 12), (4, 16), (6, 16), (12, 12)])
def test_random_numbers_are_those_of_the_sample_wherever_the_first_are_drawn(draw, first, loads):
    dataset = Drawing(draw, first)
    samples = SeededDataset(IndexedDataset(dataset), 0)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    before = [of_kind() for of_kind in DRAWN.values()]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    items = [item for batch in BATCHES for item, _ in samples.__getitems__(batch)]
    assert before == [of_kind() for of_kind in DRAWN.values()]  # the training's are not drawn
    assert dataset.loads == loads  # once more is what one batch may cost
    resumed = SeededDataset(IndexedDataset(Drawing(draw, first)), 0)  # later batches alone
    assert [item for batch in BATCHES[1:] for item, _ in resumed.__getitems__(batch)] == items[4:]
    assert items[:first] == [-1.0] * first
    assert len(set(items[first:])) == 12 - first


def test_batches_of_a_data_set_that_draws_nothing_are_fetched_at_once():
    fetched = []

    class Fetched(Drawing):
        def __getitems__(self, indices):
            fetched.append(indices)
            return [-2.0] * len(indices)

    samples = SeededDataset(IndexedDataset(Fetched(random.random, 12)), 0)
    assert [samples.__getitems__(batch)[0][0] for batch in BATCHES] == [-1.0, -2.0, -2.0]
    assert fetched == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_sample_of_a_batch_that_cannot_be_fetched_is_named():
    class Broken(Drawing):
        def __getitem__(self, index):
            if index == 9:
                raise OSError("gone")
            return super().__getitem__(index)

    samples = SeededDataset(IndexedDataset(Broken(random.random, 12)), 0)
    samples.__getitems__(BATCHES[0])
    with pytest.raises(RuntimeError, match="sample 9 to load, got OSError: gone"):
        samples.__getitems__(BATCHES[2])
