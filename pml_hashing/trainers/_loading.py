"""Batches of a round: the same samples with the same random numbers however often it is resumed."""

import math
import signal
from collections import deque
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, get_worker_info

from pml_hashing._checks import check, check_at_least
from pml_hashing.datasets import IndexedDataset
from pml_hashing.datasets._batches import EvenBatches, IndependentLoader, WholeBatch
from pml_hashing.distributed import broadcast, parts, rank, world_size
from pml_hashing.trainers._random import RandomState, kept_random_state, seed_cpu, seed_of

Key = tuple[int, int]
"""The place of a sample in the data set, and the seed of its random numbers."""


class SeededSampler:
    """A sampler that draws each pass from a seed, and can be put back where it was.

    A sampler with a state (`state_dict`) is put back by it. Another one, such as those of PML
    which shuffle what they hold, is put back by drawing again what was drawn from it.

    Args:
        sampler: Draws from Python's, numpy's or torch's random numbers, or by `set_epoch`.
        size: Of the data set, in which the places are that it draws.
        is_replayed: Whether it draws by what it drew before, and so has to draw that again.

    Attributes:
        seeds: Those that it was drawn from by, in this order.
    """

    def __init__(self, sampler: Any, size: int, *, is_replayed: bool) -> None:
        if not isinstance(sampler, Sized):
            got = type(sampler).__name__
            raise TypeError(f"Expected a `sampler` with a length, got {got}.")
        self.sampler: Any = sampler
        self.size = size
        self.has_state = hasattr(sampler, "state_dict")
        self.is_replayed = is_replayed and not self.has_state
        self.seeds: list[int] = []
        self._states: dict[int, Any] = {}  # before which draw

    def __len__(self) -> int:
        return len(self.sampler)

    def draw(self, seed: int) -> list[int]:
        """Return the places of the samples of a pass, in their order.

        Raises:
            TypeError: If the sampler draws something else.
            ValueError: If it draws a place at which the data set has no sample.
        """
        if self.has_state:
            self._states[len(self.seeds)] = self.sampler.state_dict()
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(seed)
        self.seeds.append(seed)
        with kept_random_state(), torch.device("cpu"):  # torch's samplers draw on the default one
            seed_cpu(seed)
            places = list(self.sampler)
        for kind in set(map(type, places)):
            if not issubclass(kind, Integral | Tensor):
                got = kind.__name__
                raise TypeError(f"Expected a `sampler` of places of samples, got one of {got}.")
        if places and not (min(places) >= 0 and max(places) < self.size):
            self._refuse(places)
        return places

    def _refuse(self, places: list[int]) -> None:
        draw, place = next((i, p) for i, p in enumerate(places) if not 0 <= p < self.size)
        raise ValueError(
            f"Expected a `sampler` of places from 0 to {self.size - 1} in a `dataset` of "
            f"{self.size} samples, got {int(place)} at position {draw} of what "
            f"{type(self.sampler).__name__} drew."
        )

    def state_before(self, draw: int) -> dict[str, Any]:
        """Return the state of the sampler before it was drawn from for this time, or is to be."""
        if not self.has_state:
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
        check(
            not self.is_replayed or not self.seeds,
            "a trainer with a new `sampler` to resume, since it has no `state_dict`",
            f"one that was drawn from {len(self.seeds)} times",
        )
        self.seeds.clear()
        self.forget_states()
        if "state" in state:
            self.sampler.load_state_dict(state["state"])
        for seed in state.get("seeds", []):
            self.draw(seed)


class SeededDataset(Dataset[tuple[Any, int]]):
    """An indexed data set whose samples get random numbers of their own, in every process.

    A data set that has drawn none for a batch is trusted to draw none: its batches are fetched at
    once, without a seed for every sample. If it draws after all, the batch is loaded again with
    seeds, and so are all later ones: what comes is the same.

    Args:
        dataset: The data set.
        num_workers: Number of processes that load it.

    Raises:
        RuntimeError: By an access, if a sample cannot be loaded: with its name.
    """

    def __init__(self, dataset: IndexedDataset, num_workers: int) -> None:
        self.dataset = dataset
        # What each worker is at, for when it dies. Shared with the workers.
        self.at = torch.full((num_workers,), -1, device="cpu").share_memory_()
        self._draws: bool | None = None  # not known yet

    def __getitems__(self, keys: Sequence[Key]) -> list[tuple[Any, int]] | WholeBatch:
        if (whole := self.dataset.whole_batch([index for index, _ in keys])) is not None:
            return whole  # rows of tensors, which draw nothing
        before = RandomState()
        if self._draws is False:
            items = self._load_at_once([index for index, _ in keys])
            if before.is_now():
                return items
        try:
            return self._load_with_seeds(keys)
        finally:
            before.restore()

    def _load_with_seeds(self, keys: Sequence[Key]) -> list[tuple[Any, int]]:
        """Load samples one by one, and learn whether they draw random numbers."""
        items, draws = [], self._draws is not None  # here again: trusted once, in vain
        for index, seed in keys:
            seed_cpu(seed)
            seeded = None if draws else RandomState()
            items.append(self._load(index))
            draws = seeded is None or not seeded.is_now()
        self._draws = draws
        return items

    def _load_at_once(self, indices: list[int]) -> list[tuple[Any, int]]:
        if get_worker_info() is None:
            with suppress(Exception):  # one by one, the sample that fails can be named
                return self.dataset.__getitems__(indices)
        return [self._load(index) for index in indices]

    def _load(self, index: int) -> tuple[Any, int]:
        if (worker := get_worker_info()) is not None:
            self.at[worker.id] = index
        try:
            return self.dataset[index]
        except Exception as error:
            expected = f"Expected {name_of(self.dataset.dataset, index)} to load"
            raise RuntimeError(f"{expected}, got {type(error).__name__}: {error}") from error

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


def check_sizes(
    dataset: Sized, sampler: Sized, bank: Sized | None, batch_size: int, accumulate_steps: int
) -> None:
    """Raise unless sizes fit, and every process gets a sample of every part of a batch.

    Raises:
        ValueError: If they do not, or a number is less than 1.
    """
    check_at_least(batch_size, 1, "batch_size")
    check_at_least(accumulate_steps, 1, "accumulate_steps")
    size, of_bank = len(dataset), len(dataset if bank is None else bank)
    check(size >= batch_size, f"a `dataset` of at least `batch_size` = {batch_size} samples", size)
    check(size == of_bank, f"a `dataset` of {of_bank} samples, as the code bank has", size)
    for samples in (size, len(sampler)):  # a sampler may draw fewer, or more
        batches = math.ceil(samples / (batch_size * world_size()))
        smallest = samples // (batches * accumulate_steps) if batches else 0
        advice = "choose a larger `batch_size`, fewer `accumulate_steps` or processes"
        expected = f"batches of at least {world_size()} samples, one per process"
        check(smallest >= world_size(), expected, f"one of {smallest}: {advice}")


class RoundLoader:
    """Loads the batches of a round: as many passes over the data set as it takes.

    The order of a pass, and the random numbers of a sample in it, are made of the seed, the round,
    the pass and the place of the sample. In several processes, each gets its part of every batch.
    No random numbers of the training's are drawn.

    Args:
        dataset: The data set.
        sampler: Gives the order of a pass.
        batches: Makes batches of it, for all processes together.
        seed: Of the training.
        **options: `num_workers` and other arguments of torch's `DataLoader`.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        sampler: SeededSampler,
        batches: EvenBatches,
        seed: int,
        **options: Any,
    ) -> None:
        self.sampler, self.batches, self.seed = sampler, batches, seed
        self.samples = SeededDataset(dataset, options["num_workers"])
        self._options = options | {"persistent_workers": options["num_workers"] > 0}
        self._round = self._start = self._stop = self._draws_before = 0
        self._keys: list[list[Key]] | None = None  # of batches apart from all rounds
        self._given: deque[Tensor] = deque()  # whole batches that are being loaded
        self._loader: Any = None  # torch's, and its iterator, which has the workers
        self._loading: Any = None
        self._has_died = False

    def load_places(self, batches: Sequence[Tensor], seed: int) -> Iterator[Any]:
        """Yield batches of the samples at some places, apart from all rounds.

        Args:
            batches: The places of the samples of each batch.
            seed: Of the samples' random numbers.
        """
        self._keys = [[(i, (seed + i) % 2**32) for i in batch.tolist()] for batch in batches]
        self._loading = iter(self._loader)
        for batch, _ in self._loading:
            yield batch

    def load(self, number: int, start: int, stop: int) -> Iterator[tuple[Any, Tensor]]:
        """Yield batches, with the places of their samples in all processes together.

        Args:
            number: The round.
            start: The first batch.
            stop: The batch after the last one.
        """
        self._keys, self._round, self._start, self._stop = None, number, start, stop
        self._draws_before = len(self.sampler.seeds) - start // len(self.batches)
        self._given.clear()
        self.sampler.forget_states()
        self._loading = iter(self._loader)
        for batch, _ in self._loading:
            yield batch, self._given.popleft()

    def __iter__(self) -> Iterator[list[Key]]:
        """Return what this process loads of each batch, for the data loader."""
        return self._keys_of_round() if self._keys is None else iter(self._keys)

    def _keys_of_round(self) -> Iterator[list[Key]]:
        position = self._start
        while position < self._stop:
            number, first = divmod(position, len(self.batches))
            seed = seed_of(self.seed, self._round, number)
            order = torch.tensor(self.sampler.draw(seed), device="cpu")
            broadcast([order])  # of a sampler with random numbers of its own
            for batch in self.batches.split(order)[first : first + self._stop - position]:
                self._given.append(batch)
                mine = batch[parts(len(batch))[rank()]]
                position += 1
                yield [(index, (seed + index) % 2**32) for index in mine.tolist()]

    def sampler_state(self, position: int | None) -> dict[str, Any]:
        """Return the state of the sampler at the start of the pass that a batch belongs to.

        A data loader is ahead of the training, and so is the sampler itself.

        Args:
            position: The batch. The end of the round if `None`.
        """
        if position is None:
            return self.sampler.state_before(len(self.sampler.seeds))
        return self.sampler.state_before(self._draws_before + position // len(self.batches))

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Let workers live, end them at the end, and name their samples if one has died.

        torch tells of a death wherever the process is, by a signal, or by a broken connection, and
        at times by both, one after the other; not any more once they have been ended.

        Raises:
            RuntimeError: If a worker died.
        """
        self._loader = IndependentLoader(self.samples, batch_sampler=self, **self._options)
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
        loading, self._loading, self._loader = self._loading, None, None
        if loading is None or not self._options["num_workers"]:
            return
        try:
            loading._shutdown_workers()  # torch has no public way to end them here
        finally:
            codes = {worker.exitcode for worker in loading._workers}
            self._has_died = not codes <= {None, 0, -signal.SIGTERM}  # as torch ends them
