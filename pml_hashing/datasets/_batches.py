"""Batches that know the place of every sample, and leave no sample out."""

import math
from collections.abc import Callable, Sequence, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from pml_hashing._checks import check_at_least


class IndependentLoader(DataLoader[Any]):
    """torch's data loader, which draws none of the caller's random numbers.

    It draws a seed for workers, also where there are none, and by a generator of the CPU: torch
    would draw it on the default device, and start workers with that.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, generator=torch.Generator("cpu"), **kwargs)

    def __iter__(self) -> Any:
        with torch.device("cpu"):
            return super().__iter__()


class WholeBatch(NamedTuple):
    """Items of a data set of tensors, taken at once.

    Attributes:
        tensors: Rows of each tensor of the data set.
        sample_indices: Their places in the data set.
    """

    tensors: list[Tensor]
    sample_indices: Tensor

    def items(self) -> list[tuple[tuple[Tensor, ...], int]]:
        """Return the items one by one, as an `IndexedDataset` has them."""
        rows = zip(*(tensor.unbind() for tensor in self.tensors), strict=True)
        return list(zip(rows, self.sample_indices.tolist(), strict=True))


class IndexedCollate:
    """Collates the items of an `IndexedDataset` into `(batch, sample_indices)`.

    Args:
        collate_fn: Makes a batch of the wrapped data set's items. torch's own if `None`.
    """

    def __init__(self, collate_fn: Callable[[list[Any]], Any] | None = None) -> None:
        self.collate_fn = default_collate if collate_fn is None else collate_fn

    def __call__(self, items: Sequence[tuple[Any, int]] | WholeBatch) -> tuple[Any, Tensor]:
        if isinstance(items, WholeBatch):
            if self.collate_fn is default_collate:
                return items.tensors, items.sample_indices
            items = items.items()
        return self.collate_fn([item for item, _ in items]), torch.tensor(
            [i for _, i in items], device="cpu"
        )


class EvenBatches:
    """Batches of nearly equal size, at most `batch_size`, that leave no sample out.

    A last batch of one sample, which batch normalization cannot train on, does not occur where
    `batch_size` is at least 3.

    Args:
        sampler: Has as many samples as a pass.
        batch_size: Largest size of a batch.
        parts: Number of parts, of nearly equal size, in which each batch is given.

    Raises:
        ValueError: If `batch_size` or `parts` is less than 1.
    """

    def __init__(self, sampler: Sized, batch_size: int, *, parts: int = 1) -> None:
        check_at_least(batch_size, 1, "batch_size")
        check_at_least(parts, 1, "parts")
        self.sampler, self.batch_size, self.parts = sampler, batch_size, parts

    def __len__(self) -> int:
        return self.parts * math.ceil(len(self.sampler) / self.batch_size)

    def split(self, order: Tensor) -> tuple[Tensor, ...]:
        """Return the batches of a pass, given the places of its samples in order."""
        batches = order.tensor_split(len(self) // self.parts)
        return tuple(part for batch in batches for part in batch.tensor_split(self.parts))
