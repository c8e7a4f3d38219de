"""A pass over a data set that skips items that cannot be read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import Dataset, default_collate

from pml_hashing.datasets.unreadable import UnreadableImageError


class ReadableBatch(NamedTuple):
    """A batch without its unreadable items."""

    batch: Any  # None if no item is left
    num_items: int  # with the unreadable ones
    unreadable: list[UnreadableImageError]


class ReadableItems(Dataset[Any]):
    """The items of a data set from `start` on, with errors in place of those that cannot be read.

    An error that is raised in a worker loses its whole batch; one that is returned does not.

    Args:
        dataset: A data set with a length, whose items raise an `OSError` if they are unreadable.
        start: The first item.
    """

    def __init__(self, dataset: Any, start: int = 0) -> None:
        self.dataset, self.start = dataset, start

    def __len__(self) -> int:
        return len(self.dataset) - self.start

    def __getitem__(self, index: int) -> Any:
        place = self.start + index
        try:
            return self.dataset[place]
        except (OSError, Image.DecompressionBombError) as error:
            path = getattr(error, "path", None) or getattr(error, "filename", None) or ""
            return UnreadableImageError(
                f"Expected a readable item {place} of the data set, got: {error}",
                path=os.fspath(path) if isinstance(path, str | Path) else "",
                index=place,
            )

    @staticmethod
    def collate(items: Sequence[Any]) -> ReadableBatch:
        """Return the readable items as torch's own `default_collate` does, and the errors."""
        unreadable = [item for item in items if isinstance(item, UnreadableImageError)]
        readable = [item for item in items if not isinstance(item, UnreadableImageError)]
        batch = default_collate(readable) if readable else None
        return ReadableBatch(batch, len(items), unreadable)
