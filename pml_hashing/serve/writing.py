"""Changes that the service makes, where it is allowed to: a file in the folder, then a sync."""

import os
import threading
from pathlib import Path, PurePosixPath

from pml_hashing._files import write_atomically
from pml_hashing.datasets import load_image
from pml_hashing.datasets.listing import IMAGE_ENDINGS
from pml_hashing.serve.answers import ImageAnswer
from pml_hashing.serve.catalog import Catalog

SECONDS_TO_WAIT = 30.0  # for another process that syncs
LONGEST_NAME = 200  # bytes of a file or folder: file systems take 255, and what is unfinished more


class Additions:
    """Adds images to the folder of a collection, and removes them from it.

    Args:
        catalog: The collection.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._writing = threading.Lock()  # from the look for a file of the name to the new file

    def add(self, name: str, content: bytes) -> ImageAnswer:
        """Write a picture to a new file and encode it.

        Raises:
            FileExistsError: If there is such a file, or one in the place of a folder.
            TimeoutError: If another process is syncing.
            UnreadableImageError: If it does not decode.
            ValueError: If the name is none of an image in the folder.
        """
        load_image(content)
        with self._writing:
            path = self._new_path(name)
            write_atomically(path, lambda temporary: temporary.write_bytes(content))
        self._sync()
        return self.catalog.image(name)

    def remove(self, name: str) -> None:
        """Remove the file of an image.

        Raises:
            TimeoutError: If another process is syncing.
        """
        self.catalog.collection.path(name).unlink(missing_ok=True)
        self._sync()

    def _sync(self) -> None:
        self.catalog.collection.sync(progress=False, timeout=SECONDS_TO_WAIT)

    def _new_path(self, name: str) -> Path:
        parts = name.split("/")
        plain = all(part.strip() and not part.startswith(".") for part in parts)
        ending = PurePosixPath(name).suffix.lower()
        if not plain or "\\" in name or not name.isprintable() or ending not in IMAGE_ENDINGS:
            raise ValueError(
                "Expected `name` to be a path in the folder of the images that ends as an image "
                f"does, such as shoes/new.jpg, got {name!r}."
            )
        folder = self.catalog.collection.images
        path = folder / name
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
            raise ValueError(f"Expected parts of `name` of at most {LONGEST_NAME} bytes, got more.")
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"Expected `name` to stay in the folder of the images, got {name!r}.")
        folders = path.parents[: len(parts) - 1]
        if path.exists() or path.is_symlink() or any(map(Path.is_file, folders)):
            raise FileExistsError(f"Expected `name` of no file yet, got {name!r}.")
        return path
