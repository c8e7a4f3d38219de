"""Write files so that a crash loses nothing: under a temporary name, then renamed."""

import contextlib
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

SUFFIX = ".unfinished"


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then put that file in its place.

    What stood at `path` stays intact if `write` fails or the process is killed. What a killed
    process left beside it is removed by the next process that writes there, except on Windows.

    Args:
        path: The file to write. Its folder is made where it does not exist.
        write: A function that writes the file at the path it is given.

    Raises:
        OSError: If the folder cannot be written, or is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(path)
    with _temporary_folder(path) as folder:
        temporary, ordinary = folder / path.name, folder / "ordinary"
        ordinary.touch()
        try:
            write(temporary)
            _sync(temporary)
        except OSError as error:
            if error.filename is None:  # that of a full disk
                error.filename = str(path)
            raise
        temporary.chmod(ordinary.stat().st_mode)  # safetensors lets only the owner read
        temporary.replace(path)
    if sys.platform != "win32":  # a folder cannot be opened there
        _sync(path.parent)


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside `path`, locked for as long as it is in use."""
    with contextlib.ExitStack() as stack:
        while True:
            made = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent)
            folder = Path(made)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_locked(folder, wait=True))
            if folder.exists():  # else another process removed it before the lock
                break
        yield folder


def _remove_unfinished(path: Path) -> None:
    """Remove the temporary folders for `path` that no living process has locked."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*{SUFFIX}"):
        with _locked(folder, wait=False) as locked:
            if locked:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a folder, and tell whether that worked: not every file system has locks."""
    if sys.platform == "win32":
        yield False
        return
    locked = False
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            locked = True
        yield locked


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
