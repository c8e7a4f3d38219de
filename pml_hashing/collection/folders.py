"""The folder of a collection: where one can be made, and who may write in it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pml_hashing._locks import LockedError, locked_file
from pml_hashing.collection.snapshot import MANIFEST

MODEL_FOLDER, LOCK = "model", ".lock"
SECONDS_BETWEEN_TRIES = 0.05


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


def check_images(images: Path, collection: Path) -> None:
    """Raise unless a folder can hold the images of a collection.

    Raises:
        FileNotFoundError: If it is not a folder.
        ValueError: If it is the collection, or lies in it.
    """
    if not images.is_dir():
        raise FileNotFoundError(f"Expected `images` to be a folder of images, got {images}.")
    if images.resolve().is_relative_to(collection.resolve()):
        raise ValueError(f"Expected `images` outside of the collection, got {images}.")


@contextmanager
def writing(folder: Path, timeout: float) -> Iterator[None]:
    """Lock a collection for writing.

    Raises:
        TimeoutError: If another process or thread has it locked for so many seconds.
    """
    end = time.monotonic() + timeout
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked_file(folder / LOCK))
                break
            except LockedError as error:
                if timeout >= 0 and time.monotonic() >= end:
                    raise TimeoutError(
                        f"Expected {folder} free to write within {timeout:g} seconds, got another "
                        "process that writes: `timeout` waits for it."
                    ) from error
                time.sleep(SECONDS_BETWEEN_TRIES)
        yield
