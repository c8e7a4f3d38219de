"""Batches of a round: the same samples with the same random numbers however often it is resumed."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, get_worker_info

from pml_hashing.datasets import EvenBatches, IndexedCollate, IndexedDataset
from pml_hashing.distributed import broadcast, parts, rank
from pml_hashing.trainers._random import kept_random_state, seed_cpu, seed_of

Key = tuple[int, int]
"""The place of a sample in the data set, and the seed of its random numbers."""


class RoundBatches(Sampler[list[Key]]):
    """The batches of a round: as many passes over the data set as it takes, each in a new order.

    The order of a pass, and the random numbers of a sample in it, are made of the seed, the round,
    the pass and the place of the sample. A sampler with a state (`state_dict`) goes on from pass
    to pass; one with `set_epoch` is told the number of the pass.

    In several processes, each gets its part of every batch.

    Args:
        batches: Gives the batches of one pass.
        seed: Of the training.

    Attributes:
        given: The batches that were given and not yet taken from here, whole.
    """

    def __init__(self, batches: EvenBatches, seed: int) -> None:
        self.batches, self.seed = batches, seed
        self.given: deque[list[int]] = deque()
        self.round = self.start = self.stop = 0
        self._sampler_states: dict[int, Any] = {}

    def set_round(self, number: int, start: int, stop: int) -> None:
        """Give the batches `start` to `stop` of a round from now on.

        Args:
            number: The round.
            start: The first batch that is given.
            stop: The batch after the last one.
        """
        self.round, self.start, self.stop = number, start, stop
        self._sampler_states.clear()
        self.given.clear()

    def sampler_state(self, position: int | None = None) -> Any:
        """Return the state of the sampler at the start of the pass that a batch belongs to.

        A data loader is ahead of the training, and so is the sampler itself.

        Args:
            position: The batch. The end of the round if `None`.

        Returns:
            The state, `None` if the sampler has none.
        """
        sampler: Any = self.batches.sampler
        if not hasattr(sampler, "state_dict"):
            return None
        number = -1 if position is None else position // len(self.batches)
        return self._sampler_states.get(number) or sampler.state_dict()

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        position = self.start
        while position < self.stop:
            number, first = divmod(position, len(self.batches))
            self._sampler_states[number] = self.sampler_state(position)
            seed = seed_of(self.seed, self.round, number)
            batches = self._draw(number, seed)[first : first + self.stop - position]
            for batch in batches:
                self.given.append(batch)
                mine = batch[parts(len(batch))[rank()]]
                yield [(index, (seed + index) % 2**32) for index in mine]
            position += len(batches)

    def _draw(self, number: int, seed: int) -> list[list[int]]:
        sampler: Any = self.batches.sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(seed)
        with kept_random_state():
            seed_cpu(seed)
            order = self.batches.draw()
        broadcast([order])  # of a sampler with random numbers of its own
        return [batch.tolist() for batch in self.batches.split(order)]


class SeededDataset(Dataset[tuple[Any, int]]):
    """An indexed data set whose samples get random numbers of their own, in every process.

    Args:
        dataset: The data set.
        num_workers: Number of processes that load it.

    Raises:
        RuntimeError: By an access, if a sample cannot be loaded: with its name.
    """

    def __init__(self, dataset: IndexedDataset, num_workers: int) -> None:
        self.dataset = dataset
        # What each worker is at, for when it dies. Shared with the workers.
        self.at = torch.full((max(1, num_workers),), -1).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[Key]) -> list[tuple[Any, int]]:
        worker = get_worker_info()
        with kept_random_state() if worker is None else nullcontext():
            return [self._load(*key, 0 if worker is None else worker.id) for key in keys]

    def _load(self, index: int, seed: int, worker: int) -> tuple[Any, int]:
        self.at[worker] = index
        seed_cpu(seed)
        try:
            return self.dataset[index]
        except Exception as error:
            raise RuntimeError(
                f"Expected {name_of(self.dataset.dataset, index)} to load, "
                f"got {type(error).__name__}: {error}"
            ) from error

    @contextmanager
    def named_deaths(self) -> Iterator[None]:
        """Tell, where a worker dies, at which samples the workers were."""
        try:
            yield
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) or error.__cause__ is not None:
                raise
            names = [name_of(self.dataset.dataset, i) for i in self.at.tolist() if i >= 0]
            raise RuntimeError(
                "Expected the workers that load data to live, got one dead while they were at "
                f"{', '.join(names) or 'no sample yet'}: {error}"
            ) from error


def name_of(dataset: Any, index: int) -> str:
    """Return how to call a sample in a message, with its path where the data set knows it."""
    name = f"sample {index}"
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, int(dataset.indices[index])
    for attribute in ("samples", "names", "paths"):  # torchvision's image folders, ours
        known = getattr(dataset, attribute, None)
        if isinstance(known, Sequence) and index < len(known):
            found = known[index]
            return f"{name} ({found[0] if isinstance(found, tuple) else found})"
    return name


class RoundLoader:
    """Loads the batches of a round, with the places of their samples.

    Its workers live as long as it does, and it draws no random numbers of the training's.

    Args:
        dataset: The data set.
        batches: Gives the batches of one pass.
        seed: Of the training.
        num_workers: Number of processes that load. None but the training's own if 0.
        collate_fn: As for `IndexedCollate`.
        device: Where the batches will go.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        batches: EvenBatches,
        *,
        seed: int,
        num_workers: int,
        collate_fn: Callable[[list[Any]], Any] | None,
        device: torch.device,
    ) -> None:
        self.batches = RoundBatches(batches, seed)
        self.samples = SeededDataset(dataset, num_workers)
        self.loader = DataLoader(
            self.samples,
            batch_sampler=self.batches,
            num_workers=num_workers,
            collate_fn=IndexedCollate(collate_fn),
            pin_memory=device.type == "cuda",
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for batch, _ in self.loader:
            yield batch, torch.tensor(self.batches.given.popleft())
