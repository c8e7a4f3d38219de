"""Features of the training set before the first round, from which class codes are assigned."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pml_hashing._eval_mode import eval_mode
from pml_hashing.centers.similarity import narrow
from pml_hashing.distributed import gather_rows, parts, rank, world_size
from pml_hashing.solvers import label_counts
from pml_hashing.trainers._loading import RoundLoader
from pml_hashing.trainers._random import random_state, set_random_state

LOGGER = logging.getLogger("pml_hashing")

FEWEST_SAMPLES = 20_000
"""Samples that are looked at, where there are so many and no more than ..."""
SAMPLES_OF_A_CLASS = 5
"""... so many of each class would be more."""

Features = tuple[Tensor, Tensor]
"""One row of features per sample, and the labels."""


@runtime_checkable
class WantsFeatures(Protocol):
    """A loss whose class codes can be assigned by features, such as `CSQLoss`, or one of yours."""

    num_classes: int

    @property
    def wants_features(self) -> bool: ...

    def use_features(self, features: Tensor, labels: Tensor) -> None: ...


def waiting_losses(loss_funcs: Iterable[nn.Module]) -> list[WantsFeatures]:
    """Return the losses, also those within others, that still want features."""
    modules = (module for loss_func in loss_funcs for module in loss_func.modules())
    return [m for m in modules if isinstance(m, WantsFeatures) and m.wants_features]


def trunk_of(network: nn.Module) -> nn.Module | None:
    """Return what comes before the hash layer of a network, `None` where that cannot be told.

    It can be of a `HashingModel` or anything else with a `trunk` and an `embedder`, and of a
    `torch.nn.Sequential`, whose hash layer is the last of its parts that has a matrix of weights.
    """
    trunk, embedder = getattr(network, "trunk", None), getattr(network, "embedder", None)
    if isinstance(trunk, nn.Module) and isinstance(embedder, nn.Module):
        return trunk
    if not isinstance(network, nn.Sequential):
        return None
    matrices = [any(weight.ndim > 1 for weight in part.parameters()) for part in network]
    places = [place for place, has_matrix in enumerate(matrices) if has_matrix]
    return network[: places[-1]] if places and places[-1] > 0 else None


def features_of(
    compute: Callable[[Any], Features | None], loader: RoundLoader, num_classes: int, seed: int
) -> Features | None:
    """Return features and labels of the data set, or of a part of it that is drawn by the seed.

    Args:
        compute: Returns those of a batch, `None` if there are none.
        loader: Loads the samples; this process a part of them.
        num_classes: Number of classes, which says how many samples are enough.
        seed: Of the draw, and of the augmentation of the samples.

    Returns:
        Those of all processes, in the order of the data set, less samples whose features are not
        finite; `None` if there are none, or fewer than two samples with labels.
    """
    size = len(loader.samples.dataset)
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(size, generator=generator, device="cpu")
    order = order[: max(FEWEST_SAMPLES, SAMPLES_OF_A_CLASS * num_classes)].sort().values
    mine = order[parts(len(order))[rank()]]  # in a row, so that all are gathered in their order
    batches = mine.split(loader.batches.batch_size // world_size())
    found: list[Features] = []
    for batch in loader.load_places(batches, seed):
        of_batch = compute(batch)
        if of_batch is None:
            return None
        found.append((narrow(of_batch[0]), of_batch[1].to(of_batch[0].device)))
    features, labels = (gather_rows(torch.cat(rows)) for rows in zip(*found, strict=True))
    finite = features.isfinite().all(dim=1)
    features, labels = features[finite], labels[finite]
    return (features, labels) if (label_counts(labels) > 0).sum() > 1 else None


@contextmanager
def undisturbed(networks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Run networks in eval mode without gradients, and go on as if they had not been run.

    Args:
        networks: The networks.
        device: Whose random numbers go on as they were, beside those of the CPU.
    """
    state = random_state(device)
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(eval_mode(network))
        stack.enter_context(torch.no_grad())
        yield
    set_random_state(state, device)
