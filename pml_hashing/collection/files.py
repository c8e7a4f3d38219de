"""What a file of an image was when it was encoded."""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from pml_hashing.datasets.loading import read_bytes

UNSETTLED_NS = 2 * 10**9  # the coarsest clock of a file system: FAT's
NEVER = -1  # as a time: of a file that may change again without a new time


class FileState(NamedTuple):
    """What tells that a file is the same without reading it.

    Size and time of modification alone do not tell two files of equal size and time that were
    swapped: number and time of change of the inode do, where there are any.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        """Return the state of a file, as `states_of`."""
        return cls(*states_of([os.fspath(path)])[0].tolist())

    def is_same(self, other: "FileState") -> bool:
        """Return whether both are of one file that was not changed between them."""
        return self == other and self.mtime_ns != NEVER


def states_of(paths: Iterable[str]) -> np.ndarray:
    """Return the states of files, where links lead: rows of a `FileState`, int64.

    A file that is not there is like no other. One that was changed a moment ago could be changed
    again within the same tick of the clock: it gets no time, so that it is read again the next
    time.
    """
    now = time.time_ns()
    states = np.array([_state_of(path) for path in paths], dtype=np.int64).reshape(-1, 4)
    newest = states[:, 1:3].max(axis=1, initial=NEVER)
    states[now - newest < UNSETTLED_NS, 1] = NEVER
    return states


def _state_of(path: str) -> tuple[int, int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - a path of many files costs more
    except (OSError, ValueError):  # whoever reads it is told what is wrong
        return 0, NEVER, 0, 0
    inode = found.st_ino % 2**63  # as int64 holds it
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, inode


class Content(NamedTuple):
    """What is in a file of an image."""

    digest: bytes  # SHA-256
    size: int
    width: int
    height: int


def digest_of(content: bytes) -> bytes:
    """Return the SHA-256 of the bytes of a file."""
    return hashlib.sha256(content).digest()


def read_state_and_bytes(path: Path, folder: Path | None) -> tuple[FileState, bytes]:
    """Return the bytes of a file, and its state before they were read.

    Raises:
        UnreadableImageError: If it cannot be read, or lies outside the folder.
    """
    state = FileState.of(path)  # before the content: what changes it later changes the state
    return state, read_bytes(path, folder)
