"""What the tests of the comparison learn from."""

import torch
from comparison.protocols import PROTOCOLS
from comparison.sources import Features
from comparison.task import Budget, Task

CLASS_IDS = torch.arange(160) % 4
LABELS = {
    "class_ids": CLASS_IDS,
    "multi_hot": torch.nn.functional.one_hot(CLASS_IDS, 5)
    + torch.tensor([0, 0, 0, 0, 1]) * (torch.arange(160) % 8 == 3)[:, None],
}


def make_task(labels=CLASS_IDS, *, epochs=1, noise=1.0):
    """A task that can be learned: features are far apart by class."""
    class_ids = CLASS_IDS[: len(labels)]
    features = (torch.randn(4, 16)[class_ids] * 3 + noise * torch.randn(len(labels), 16)).half()
    data = Features(features, labels, num_test=0)
    split = PROTOCOLS["10%/90%"].split(labels, 0, seed=0)
    return Task(data, split, 8, 0, Budget(epochs, 32, lr=1e-2, drop_rate=0.0), "cpu")
