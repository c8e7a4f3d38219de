"""The folder of a collection: where one can be made, and who may write in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pml_hashing.collection.snapshot import MANIFEST

MODEL_FOLDER, LOCK = "model", ".lock"


def check_new(folder: Path) -> None:
    """Raise unless a collection can be made in a folder, where a killed `create` may have begun.

    Raises:
        FileExistsError: If there is a collection, or something else.
    """
    if (folder / MANIFEST).exists():
        raise FileExistsError(f"Expected no collection at {folder}, got one: `open` opens it.")
    left = {MODEL_FOLDER, LOCK}
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - left):
        raise FileExistsError(f"Expected `folder` to be new or empty, got {folder}.")


@contextmanager
def writing(folder: Path, timeout: float) -> Iterator[None]:
    """Lock a collection for writing.

    Raises:
        TimeoutError: If another process has it locked for so many seconds.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise TimeoutError(
            f"Expected {folder} free to write within {timeout:g} seconds, got another process "
            "that writes: `timeout` waits for it."
        ) from error
    try:
        yield
    finally:
        lock.release()
