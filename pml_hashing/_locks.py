"""Locks of files: one holder in all processes, and none that outlives its process."""

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pml_hashing._files import open_to_change

if sys.platform != "win32":
    import fcntl

_held: dict[str, int] = {}  # the process that holds a path: a fork has the table, but not the lock
_table = threading.Lock()


class LockedError(Exception):
    """A file that another process or thread has locked."""


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read and write, made where there is none, which nobody else can open so.

    The system unlocks what a dead process held, and processes that it forked do not hold it. Where
    the file system has no locks, and on Windows, only this process is kept out.

    Args:
        path: The file. Whoever has it locked may `remove` it.

    Yields:
        The file, without a buffer.

    Raises:
        LockedError: If another process or thread has it locked.
        OSError: If it cannot be opened, or is no ordinary file.
    """
    with _registered(os.path.realpath(path)):
        while True:
            with open_to_change(path) as file:
                _lock(file)
                if _is_at(file, path):
                    yield file
                    return
            # Else who had the lock has just removed the file.


def remove(file: BinaryIO, path: Path) -> None:
    """Remove a file that is locked: before the lock is given up, where an open file can be."""
    if sys.platform == "win32":
        file.close()
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _registered(path: str) -> Iterator[None]:
    """Keep other threads out: a lock is the process's, and lost with any descriptor it closes."""
    with _table:
        if _held.get(path) == os.getpid():
            raise LockedError(path)
        _held[path] = os.getpid()
    try:
        yield
    finally:
        del _held[path]


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN}:  # others: no locks there
            raise LockedError from error


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Tell whether a path still names an open file."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
