"""Changes that the service makes, where it is allowed to: a file in the folder, then a sync."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from pml_hashing._files import write_atomically
from pml_hashing.datasets import load_image
from pml_hashing.datasets.listing import IMAGE_ENDINGS
from pml_hashing.serve.answers import ImageAnswer
from pml_hashing.serve.catalog import Catalog

SECONDS_TO_WAIT = 30.0  # for another process that syncs


class Additions:
    """Adds images to the folder of a collection, and removes them from it.

    Args:
        catalog: The collection.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._adding, self._lock = set[Path](), threading.Lock()

    def add(self, name: str, content: bytes) -> ImageAnswer:
        """Write a picture to a new file and encode it. If that fails, there is no file.

        Raises:
            FileExistsError: If there is such a file.
            TimeoutError: If another process is syncing.
            UnreadableImageError: If it does not decode.
            ValueError: If the name is none of an image in the folder.
        """
        load_image(content)
        with self._reserved(name) as path, _told(name), _undone(path):
            path.parent.mkdir(parents=True, exist_ok=True)
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

    @contextmanager
    def _reserved(self, name: str) -> Iterator[Path]:
        """Return the path of a new file, which no other request may have meanwhile."""
        with self._lock:
            path = self._new_path(name)
            if path in self._adding:
                raise FileExistsError(f"Expected `name` of no file yet, got {name!r}.")
            self._adding.add(path)
        try:
            yield path
        finally:
            self._adding.discard(path)

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
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"Expected `name` to stay in the folder of the images, got {name!r}.")
        if os.path.lexists(path):  # which does not mind a name that is too long
            raise FileExistsError(f"Expected `name` of no file yet, got {name!r}.")
        return path


@contextmanager
def _undone(path: Path) -> Iterator[None]:
    """Remove a new file, and the folders that were made for it, if what follows fails."""
    made = [folder for folder in path.parents if not os.path.lexists(folder)]
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink()
        for folder in made:
            with suppress(OSError):  # it was not made, or another file is in it by now
                folder.rmdir()
        raise


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say of a name what a file system has against it, without the paths of this machine.

    Raises:
        FileExistsError: If a file is where it has a folder.
        ValueError: If it is too long.
    """
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        expected = "Expected `name` in folders, got one with a file in the place of a folder"
        raise FileExistsError(f"{expected}: {name!r}.") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(f"Expected a shorter `name`, got {name!r}.") from error
