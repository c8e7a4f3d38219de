"""A data set whose items know their place."""

from collections.abc import Sequence, Sized
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from pml_hashing.datasets._batches import WholeBatch


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
        if (whole := self.whole_batch(indices)) is not None:
            return whole.items()
        fetch: Any = getattr(self.dataset, "__getitems__", None)
        items = [self.dataset[index] for index in indices] if fetch is None else fetch(indices)
        return list(zip(items, indices, strict=True))

    def whole_batch(self, indices: Sequence[int]) -> WholeBatch | None:
        """Return many items as rows of tensors, if the data set is one of torch's of tensors."""
        if type(self.dataset) is not TensorDataset:  # a subclass may change what an item is
            return None
        places = torch.as_tensor(indices, device="cpu")
        return WholeBatch([tensor[places] for tensor in self.dataset.tensors], places)
