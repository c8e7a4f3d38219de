"""Images that cannot be read: an error with their name, and how a pass over a data set goes on."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import Dataset, default_collate


class UnreadableImageError(OSError):
    """An image that is missing, does not decode, or may not be read.

    Args:
        message: What is wrong with which image.
        path: Its file, as far as it is known.
        index: Its place in the data set, as far as it is known.

    Attributes:
        path: Its file, or `""`.
        index: Its place in the data set, or -1.
    """

    def __init__(self, message: str, *, path: str = "", index: int = -1) -> None:
        # One argument is enough: a worker of a `DataLoader` raises it again with the message only.
        super().__init__(message)
        self.path, self.index = path, index

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {"path": self.path, "index": self.index}


def read_image(path: Path, folder: Path) -> Image.Image:
    """Return the image in a file, in RGB.

    Args:
        path: The file.
        folder: Where the file must be once all links are followed, itself without links.

    Raises:
        UnreadableImageError: If it is missing or elsewhere, does not decode, or has more pixels
            than Pillow's `Image.MAX_IMAGE_PIXELS`, as a decompression bomb has.
    """
    try:
        if not path.resolve().is_relative_to(folder):
            raise PermissionError(f"a link leads out of {folder}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            return image.convert("RGB")
    except Exception as error:  # each format has errors of its own for what is cut or changed
        raise UnreadableImageError(
            f"Expected a readable image, got {path} ({type(error).__name__}: {error}).",
            path=str(path),
        ) from error


class ReadableBatch(NamedTuple):
    """A batch without its unreadable items."""

    batch: Any  # None if no item is left
    num_items: int  # with the unreadable ones
    unreadable: list[UnreadableImageError]


class ReadableItems(Dataset[Any]):
    """The items of a data set from one on, and errors in the place of those that cannot be read.

    An error that is raised in a worker loses the batch it is in; one that is returned does not.

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
