"""A collection as the service sees it: ids for addresses, pictures, the latest state."""

import base64
import binascii
import logging
import math
import os
import threading
import time
from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import Image

from pml_hashing.collection import Collection, DuplicateGroups
from pml_hashing.collection.labels import LABEL, Row, labels_of
from pml_hashing.datasets.loading import read_image
from pml_hashing.search.store import Value
from pml_hashing.serve.answers import ImageAnswer

SECONDS_BETWEEN_LOOKS = 1.0  # for what another process has written
PICTURES_KEPT, LARGEST_KEPT = 1024, 512  # of so many pixels a side: up to 50 kilobytes each
QUALITY = 85  # of JPEG
LOGGER = logging.getLogger("pml_hashing")


class UnavailableError(RuntimeError):
    """The collection that is served is gone, damaged, or another one."""


class Catalog:
    """The images of a collection, by ids that are safe in an address.

    An id is the name of an image in URL-safe Base64. Nothing but what the collection holds under a
    name is ever read.

    Args:
        collection: What is served.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._looked, self._looking = time.monotonic(), threading.Lock()
        self._groups: tuple[tuple[int, int], DuplicateGroups] | None = None
        self._grouping = threading.Lock()

    def latest(self) -> Collection:
        """Return the collection, with what another process has written a moment ago.

        Raises:
            ConnectionError: If the database that it is in does not answer.
            UnavailableError: If it is gone, damaged, or of another model by now.
        """
        if self._looking.acquire(blocking=False):  # else another request looks
            try:
                if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
                    self._refresh()
                    self._looked = time.monotonic()
            finally:
                self._looking.release()
        return self.collection

    def _refresh(self) -> None:
        try:
            self.collection.refresh()
        except ConnectionError:
            raise
        except (OSError, ValueError) as error:  # whose paths are nothing for visitors
            LOGGER.error("The collection cannot be served any more: %s", error)
            raise UnavailableError(
                "Expected the collection that is served to be there as it was made, got none, a "
                "damaged one or another: the log says which."
            ) from error

    def name_of(self, image_id: str) -> str:
        """Return the name of an image.

        Raises:
            KeyError: If the collection has none of this id.
        """
        try:
            padded = image_id + "=" * (-len(image_id) % 4)
            name = os.fsdecode(base64.b64decode(padded, altchars=b"-_", validate=True))
        except (binascii.Error, ValueError) as error:
            raise KeyError(f"Expected the id of an image, got {image_id!r}.") from error
        if id_of(name) != image_id or name not in self.collection:
            raise KeyError(f"Expected the id of an image in the collection, got {image_id!r}.")
        return name

    def image(self, name: str) -> ImageAnswer:
        """Return what is told of an image.

        Raises:
            KeyError: If it has been removed.
        """
        return to_answer(name, self.collection.metadata(name))

    def images(self, names: Iterable[str]) -> dict[str, ImageAnswer]:
        """Return what is told of images by name, without those removed a moment ago."""
        rows = self.collection.metadata_of(names)
        return {name: to_answer(name, metadata) for name, metadata in rows.items()}

    def picture(self, name: str, size: int) -> tuple[bytes, str]:
        """Return a JPEG of an image that fits into a square, and a tag of its version.

        Raises:
            KeyError: If the image has been removed.
            UnreadableImageError: If its file is gone, or cannot be read any more.
        """
        path, folder = self.collection.path(name), self.collection.images
        try:
            state = path.stat()
        except (OSError, ValueError):
            read_image(path, folder)  # says what is wrong
            raise
        version = f"{state.st_mtime_ns:x}-{state.st_size:x}-{size:x}"
        make = _kept_jpeg if size <= LARGEST_KEPT else _jpeg
        return make(path, folder, version, size), version

    def duplicates(self, radius: int) -> DuplicateGroups:
        """Return the groups of near-duplicates; the latest are kept."""
        collection = self.latest()
        key = collection.generation, radius
        with self._grouping:
            if self._groups is None or self._groups[0] != key:
                self._groups = key, collection.duplicates(radius)
            return self._groups[1]


def to_answer(name: str, metadata: Row) -> ImageAnswer:
    """Return what is told of an image and its metadata."""
    labels = ", ".join(labels_of(metadata.get(LABEL)))
    return ImageAnswer(
        id=id_of(name),
        name=readable(name),
        label=readable(labels) or None,
        metadata={readable(key): _to_value(value) for key, value in metadata.items()},
    )


def id_of(name: str) -> str:
    """Return the id of an image by its name."""
    return base64.urlsafe_b64encode(os.fsencode(name)).decode("ascii").rstrip("=")


def readable(text: str) -> str:
    """Return a name as text that every program can read: names of files are bytes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _jpeg(path: Path, folder: Path, version: str, size: int) -> bytes:
    """Return a JPEG of a version of a file, which is told for the sake of those that are kept."""
    image = read_image(path, folder)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    written = BytesIO()
    image.save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


_kept_jpeg = lru_cache(PICTURES_KEPT)(_jpeg)


def _to_value(value: object) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no such number
    if isinstance(value, str):
        return readable(value)
    return value if isinstance(value, bool | int | float) else None
