"""Images that cannot be read: an error with their name."""

import warnings
from pathlib import Path
from typing import Any

from PIL import Image

from pml_hashing._files import open_file


class UnreadableImageError(OSError):
    """An image that is missing, does not decode, or may not be read.

    Args:
        message: What is wrong with which image.
        path: Its file, if known.
        index: Its place in the data set, if known.

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
            with open_file(path, "an image") as file, Image.open(file) as image:
                return image.convert("RGB")
    except Exception as error:  # each format has errors of its own for what is cut or changed
        raise UnreadableImageError(
            f"Expected a readable image, got {path} ({type(error).__name__}: {error}).",
            path=str(path),
        ) from error
