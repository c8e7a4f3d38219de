"""Read ordinary files only, and write them so that a crash loses nothing: renamed when whole."""

import contextlib
import errno
import glob
import json
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

SUFFIX = ".unfinished"
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: str | os.PathLike[str], expected: str) -> BinaryIO:
    """Open an ordinary file to read it. All else is an error at once: a pipe may never end.

    Args:
        path: The file, or a link to it.
        expected: What it should be, for the message.

    Raises:
        FileNotFoundError: If there is none, or it is a folder, a pipe, a socket or a device.
        OSError: If it may not be read.
    """
    try:
        # Without O_NONBLOCK, to open a pipe waits for somebody who writes into it.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a null character
        if isinstance(error, OSError) and error.errno not in {
            errno.ENOENT,
            errno.ENOTDIR,
            errno.ELOOP,
            errno.ENXIO,  # a socket, or a device that is not there
        }:
            raise
        raise FileNotFoundError(f"Expected {expected}, got none at `{path}`.") from error
    kind = kind_of(os.fstat(descriptor).st_mode)
    if kind is None:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise FileNotFoundError(f"Expected {expected}, got {kind} at `{path}`.")


def kind_of(mode: int) -> str | None:
    """Return what stands in the place of an ordinary file, `None` if it is one."""
    return KINDS.get(stat.S_IFMT(mode))


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then put that file in its place.

    What stood at `path` stays intact if `write` fails or the process is killed. What a killed
    process left beside it is removed by the next process that writes there, except on Windows. The
    new file has the permissions of the one it replaces; a link stays, and the file that it leads to
    is replaced.

    Args:
        path: The file to write. Its folder is made where it does not exist.
        write: A function that writes the file at the path it is given.

    Raises:
        OSError: If the folder cannot be written, or is full, or `path` is no ordinary file: a
            folder, a pipe or a device. It has the name of the file.
    """
    place = Path(os.path.realpath(path))
    with errors_named(path):
        before = _status(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(place)
        with _temporary_folder(place) as folder:
            temporary, ordinary = folder / place.name, folder / "ordinary"
            ordinary.touch()
            write(temporary)
            _sync(temporary)
            # A writer may have made it for the owner only.
            _like(temporary, before or ordinary.stat())
            temporary.replace(place)
        sync_folder(place.parent)


def open_to_change(path: Path) -> BinaryIO:
    """Open an ordinary file to read and write it, without a buffer. It is made if there is none.

    Raises:
        OSError: If it may not be opened, or is no ordinary file. It has the name of the file.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    kind = kind_of(os.fstat(descriptor).st_mode)
    if kind is None:
        return os.fdopen(descriptor, "r+b", buffering=0)
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"Expected a file to change, got {kind}", str(path))


def write_all(file: BinaryIO, content: bytes | bytearray, path: str | os.PathLike[str]) -> None:
    """Write all of it to a file without a buffer.

    Raises:
        OSError: If the disk is full. It has the name of the file that the content is for, `path`.
    """
    rest = memoryview(content)
    with errors_named(path):
        while rest:
            rest = rest[file.write(rest) :]


def to_line(record: object) -> bytes:
    """Return a record as a line of JSON with a checksum."""
    text = json.dumps(record).encode("ascii")
    return b"%s %08x\n" % (text, zlib.crc32(text))


def text_of(line: bytes) -> bytes | None:
    """Return the JSON of a line of `to_line`, `None` if it is cut or changed."""
    text, _, rest = line.rpartition(b" ")
    return text if text and rest == b"%08x\n" % zlib.crc32(text) else None


@contextlib.contextmanager
def errors_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put a file's name into errors that have none, or that of something temporary beside it."""
    place = Path(os.path.realpath(path))
    temporary = str(place.with_name(f".{place.name}."))
    try:
        yield
    except OSError as error:
        if error.filename is None or os.fsdecode(error.filename).startswith(temporary):
            error.filename = os.fspath(path)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, where a folder can be opened."""
    if sys.platform != "win32":
        _sync(folder)


def remove_unfinished(path: Path) -> None:
    """Remove the temporary folders for `path` that no living process has locked."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*{SUFFIX}"):
        with _locked(folder, wait=False) as locked:
            if locked:
                shutil.rmtree(folder, ignore_errors=True)


def _status(place: Path) -> os.stat_result | None:
    """Return the status of the file that is to be replaced, `None` where there is none.

    Raises:
        OSError: If it is no ordinary file, which would be lost, or a link to itself.
    """
    try:
        status = place.stat()
    except FileNotFoundError:
        return None
    kind = kind_of(status.st_mode)
    if kind is None:
        return status
    number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
    raise OSError(number, f"Expected a file to replace, got {kind}", str(place))


def _like(path: Path, other: os.stat_result) -> None:
    """Give a file the permissions of another and, where this user may, its owner and group."""
    if sys.platform != "win32":
        status = path.stat()
        if (status.st_uid, status.st_gid) != (other.st_uid, other.st_gid):
            with contextlib.suppress(PermissionError):
                os.chown(path, other.st_uid, other.st_gid)
    path.chmod(stat.S_IMODE(other.st_mode))


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
