"""Which files of a folder are images."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pml_hashing._checks import to_path

IMAGE_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("avif", "bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    )
)


class Listing(NamedTuple):
    """The images of a folder.

    Attributes:
        names: Their paths in the folder, with `/`, sorted.
        ignored: How many files are none, by their endings in lower case. What is hidden, by a dot
            at the start of its name, is not even counted.
    """

    names: list[str]
    ignored: dict[str, int]


def list_images(
    folder: str | os.PathLike[str], *, without: str | os.PathLike[str] | None = None
) -> Listing:
    """Return the files in a folder, at any depth, whose ending is that of an image.

    Links are followed, but not into a folder that they are in. Nothing is opened.

    Args:
        folder: Where to look.
        without: A folder in it that is passed over, if it is there.

    Raises:
        FileNotFoundError: If it is not a folder.
        OSError: If a folder in it cannot be read: its images are not gone.
        ValueError: If `folder` is empty.
    """
    if not to_path(folder, "folder").is_dir():
        raise FileNotFoundError(f"Expected `folder` to be a folder of images, got {folder}.")
    names, ignored = [], Counter[str]()
    skipped = () if without is None or not Path(without).is_dir() else (_identity(without),)
    for name in _files(os.fspath(folder), "", skipped):
        ending = _ending(name)
        if ending in IMAGE_ENDINGS:
            names.append(name)
        else:
            ignored[ending] += 1
    return Listing(sorted(names), dict(sorted(ignored.items())))


def _files(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield the names of all files that are not hidden, but not of folders `above`."""
    here = _identity(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from _files(entry.path, f"{prefix}{entry.name}/", (*above, here))
            else:
                yield prefix + entry.name


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - a path of many files costs more
    return status.st_dev, status.st_ino


def _ending(name: str) -> str:
    """Return what `PurePath(name).suffix.lower()` does, many times as fast."""
    _, dot, ending = name.rpartition("/")[2].rpartition(".")
    return f".{ending.lower()}" if dot and ending else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: whoever reads it is told
        return False
