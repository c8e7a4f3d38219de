"""Batches of a round: the same samples with the same random numbers however often it is resumed."""

import math
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, get_worker_info

from pml_hashing._checks import check_at_least
from pml_hashing.datasets import IndexedDataset
from pml_hashing.datasets._batches import EvenBatches, IndexedCollate
from pml_hashing.distributed import broadcast, parts, rank, world_size
from pml_hashing.trainers._random import kept_random_state, seed_cpu, seed_of

Key = tuple[int, int]
"""The place of a sample in the data set, and the seed of its random numbers."""


class SeededSampler(Sampler[int]):
    """A sampler that draws each pass from a seed, and can be put back where it was.

    A sampler with a state (`state_dict`) is put back by it. Another one, such as those of PML
    which shuffle what they hold, is put back by drawing again what was drawn from it.

    Args:
        sampler: Draws from Python's, numpy's or torch's random numbers, or by `set_epoch`.
        is_replayed: Whether it draws by what it drew before, and so has to draw that again.
    """

    def __init__(self, sampler: Any, *, is_replayed: bool) -> None:
        self.sampler, self.is_replayed = sampler, is_replayed
        self.seed = 0
        self.seeds: list[int] = []
        self._states: dict[int, Any] = {}  # before which draw

    def __len__(self) -> int:
        return len(self.sampler)

    def set_seed(self, seed: int) -> None:
        """Draw the next pass from a seed."""
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        if hasattr(self.sampler, "state_dict"):
            self._states[len(self.seeds)] = self.sampler.state_dict()
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(self.seed)
        self.seeds.append(self.seed)
        with kept_random_state():
            seed_cpu(self.seed)
            return iter(list(self.sampler))

    def state_before(self, draw: int) -> dict[str, Any]:
        """Return the state of the sampler before it was drawn from for this time, or is to be."""
        if not hasattr(self.sampler, "state_dict"):
            return {"seeds": self.seeds[:draw] if self.is_replayed else []}
        is_next = draw == len(self.seeds)
        return {"state": self.sampler.state_dict() if is_next else self._states[draw]}

    def forget_states(self) -> None:
        """Forget the states before draws that were made."""
        self._states.clear()

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the sampler back.

        Raises:
            ValueError: If it would have to be drawn from again, but is not new.
        """
        if self.is_replayed and self.seeds and not hasattr(self.sampler, "state_dict"):
            raise ValueError(
                "Expected a trainer with a new `sampler` to resume, since it has no `state_dict`, "
                f"got one that was drawn from {len(self.seeds)} times."
            )
        self.seeds.clear()
        self.forget_states()
        if "state" in state:
            self.sampler.load_state_dict(state["state"])
        for self.seed in state.get("seeds", []):
            iter(self)


class RoundBatches(Sampler[list[Key]]):
    """The batches of a round: as many passes over the data set as it takes, each in a new order.

    The order of a pass, and the random numbers of a sample in it, are made of the seed, the round,
    the pass and the place of the sample. In several processes, each gets its part of every batch.

    Args:
        sampler: Gives the order of a pass.
        batches: Makes batches of it.
        seed: Of the training.

    Attributes:
        given: The batches that were given and not yet taken from here, whole.
    """

    def __init__(self, sampler: SeededSampler, batches: EvenBatches, seed: int) -> None:
        self.sampler, self.batches, self.seed = sampler, batches, seed
        self.round = self.start = self.stop = self._draws_before = 0
        self.given: deque[list[int]] = deque()

    def set_round(self, number: int, start: int, stop: int) -> None:
        """Give the batches `start` to `stop` of a round from now on.

        Args:
            number: The round.
            start: The first batch that is given.
            stop: The batch after the last one.
        """
        self.round, self.start, self.stop = number, start, stop
        self._draws_before = len(self.sampler.seeds) - start // len(self.batches)
        self.given.clear()
        self.sampler.forget_states()

    def sampler_state(self, position: int | None) -> dict[str, Any]:
        """Return the state of the sampler at the start of the pass that a batch belongs to.

        A data loader is ahead of the training, and so is the sampler itself.

        Args:
            position: The batch. The end of the round if `None`.
        """
        draws = len(self.sampler.seeds)
        if position is not None:
            draws = self._draws_before + position // len(self.batches)
        return self.sampler.state_before(draws)

    def __iter__(self) -> Iterator[list[Key]]:
        position = self.start
        while position < self.stop:
            number, first = divmod(position, len(self.batches))
            seed = seed_of(self.seed, self.round, number)
            self.sampler.set_seed(seed)
            order = self.batches.draw()
            broadcast([order])  # of a sampler with random numbers of its own
            for batch in self.batches.split(order)[first : first + self.stop - position]:
                self.given.append(batch.tolist())
                mine = self.given[-1][parts(len(batch))[rank()]]
                position += 1
                yield [(index, (seed + index) % 2**32) for index in mine]


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
        self.at = torch.full((num_workers,), -1).share_memory_()

    def __getitems__(self, keys: Sequence[Key]) -> list[tuple[Any, int]]:
        worker = get_worker_info()
        if worker is not None:
            return [self._load(*key, worker.id) for key in keys]
        with kept_random_state():
            return [self._load(*key) for key in keys]

    def _load(self, index: int, seed: int, worker: int | None = None) -> tuple[Any, int]:
        if worker is not None:
            self.at[worker] = index
        seed_cpu(seed)
        try:
            return self.dataset[index]
        except Exception as error:
            raise RuntimeError(
                f"Expected {name_of(self.dataset.dataset, index)} to load, "
                f"got {type(error).__name__}: {error}"
            ) from error

    def names_at(self) -> str:
        """Return the names of the samples that the workers are at."""
        names = [name_of(self.dataset.dataset, i) for i in self.at.tolist() if i >= 0]
        return ", ".join(names) or "no sample yet"


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


def check_sizes(dataset: Sized, sampler: Sized, batch_size: int, accumulate_steps: int) -> None:
    """Raise unless every process gets a sample of every part of a batch.

    Raises:
        ValueError: If one does not, or a number is less than 1.
    """
    check_at_least(batch_size, 1, "batch_size")
    check_at_least(accumulate_steps, 1, "accumulate_steps")
    if len(dataset) < batch_size:
        raise ValueError(
            f"Expected a `dataset` of at least `batch_size` = {batch_size} samples, "
            f"got {len(dataset)}."
        )
    for samples in (len(dataset), len(sampler)):  # a sampler may draw fewer, or more
        batches = math.ceil(samples / (batch_size * world_size()))
        smallest = samples // (batches * accumulate_steps) if batches else 0
        if smallest < world_size():
            raise ValueError(
                f"Expected batches of at least {world_size()} samples, one a process, got one of "
                f"{smallest}: choose a larger `batch_size`, fewer `accumulate_steps` or processes."
            )


class RoundLoader:
    """Loads the batches of a round, with the places of their samples.

    It draws no random numbers of the training's.

    Args:
        dataset: The data set.
        sampler: Gives the order of a pass.
        batch_size: Largest size of a batch, in all processes together.
        parts: In how many parts a batch is given, one after the other.
        seed: Of the training.
        num_workers: Number of processes that load. None but the training's own if 0.
        collate_fn: As for `IndexedCollate`.
        device: Where the batches will go.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        sampler: SeededSampler,
        *,
        batch_size: int,
        parts: int,
        seed: int,
        num_workers: int,
        collate_fn: Callable[[list[Any]], Any] | None,
        device: torch.device,
    ) -> None:
        batches = EvenBatches(sampler, batch_size, parts=parts)
        self.steps_per_pass = len(batches) // parts
        self.batches = RoundBatches(sampler, batches, seed)
        self.samples = SeededDataset(dataset, num_workers)
        self._has_died = False
        self._loading: Any = None  # torch's iterator, which has the workers
        self._loader = DataLoader(
            self.samples,
            batch_sampler=self.batches,
            num_workers=num_workers,
            collate_fn=IndexedCollate(collate_fn),
            pin_memory=device.type == "cuda",
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),
        )

    def start(self, number: int, start: int, stop: int) -> None:
        """Load the batches `start` to `stop` of a round from now on. Workers begin at once."""
        self.batches.set_round(number, start, stop)
        self._loading = iter(self._loader)

    def __next__(self) -> tuple[Any, Tensor]:
        """Return the next batch, and the places of its samples in all processes together."""
        batch, _ = next(self._loading)
        return batch, torch.tensor(self.batches.given.popleft())

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Let workers live, end them at the end, and name their samples if one has died.

        torch tells of a death wherever the process is, by a signal, or by a broken connection, and
        at times by both, one after the other; not any more once they have been ended.

        Raises:
            RuntimeError: If a worker died.
        """
        try:
            try:
                yield
            finally:
                self._end_workers()
        except Exception as error:
            if not self._has_died:
                raise
            raise RuntimeError(
                "Expected the workers that load data to live, got one dead while they were at "
                f"{self.samples.names_at()}: {error}"
            ) from error

    def _end_workers(self) -> None:
        if self._loading is None or self._loader.num_workers == 0:
            return
        try:
            self._loading._shutdown_workers()  # torch has no public way to end them here
        finally:
            codes = {worker.exitcode for worker in self._loading._workers}
            self._has_died = not codes <= {None, 0, -signal.SIGTERM}  # as torch ends them
