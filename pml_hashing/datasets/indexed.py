"""A data set whose items know their place."""

from collections.abc import Sequence, Sized
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset


class IndexedDataset(Dataset[tuple[Any, int]]):
    """A data set whose items come with their place in it: `(item, index)`.

    Args:
        dataset: Any data set with a length.

    Raises:
        TypeError: If `dataset` has no length.
    """

    def __init__(self, dataset: Any) -> None:
        if not isinstance(dataset, Sized):
            raise TypeError(f"Expected a `dataset` with a length, got {type(dataset).__name__}.")
        self.dataset: Any = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.dataset[index], index

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """Return many items, fetched at once where the data set can (`__getitems__`)."""
        return list(zip(self._fetch(indices), indices, strict=True))

    def _fetch(self, indices: Sequence[int]) -> Sequence[Any]:
        fetch: Any = getattr(self.dataset, "__getitems__", None)
        if fetch is not None:
            return fetch(indices)
        if type(self.dataset) is TensorDataset:  # a subclass may change what an item is
            places = torch.as_tensor(indices)
            return list(zip(*(t[places].unbind() for t in self.dataset.tensors), strict=True))
        return [self.dataset[index] for index in indices]
