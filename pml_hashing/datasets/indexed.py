"""A data set whose items know their place."""

from collections.abc import Sized
from typing import Any

from torch.utils.data import Dataset


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
