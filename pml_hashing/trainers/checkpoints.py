"""Checkpoints: all that a training is at one moment, in one file that is whole or not there."""

import hashlib
import os
import pickle
import re
import shutil
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Self

import torch

from pml_hashing._archives import load_archive
from pml_hashing._checks import check, to_path
from pml_hashing._files import open_file, write_atomically
from pml_hashing._locks import LockedError, locked_file, remove
from pml_hashing.distributed import from_first_rank

MAGIC = b"pml_hashing.checkpoint"
VERSION = 3
FOOTER = struct.Struct(f"<{len(MAGIC)}sIQ32s")
"""Magic, version, size and SHA-256 of what stands before it, which `torch.load` can read."""

PREFIX = "checkpoint-"
NAME = re.compile(PREFIX + r"(\d+)-(\d+)\.pt")


def write_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write a state, atomically: what stood at `path` stays whole if this fails.

    Args:
        path: The file to write. Its folder is made where it does not exist.
        state: Dicts, lists and tuples of tensors, numbers and strings.

    Raises:
        OSError: If the file cannot be written: the disk is full, the folder may not be written.
        TypeError: If the state holds objects that `torch.load` would have to unpickle.
    """
    try:
        write_atomically(path, lambda temporary: _write(temporary, state))
    except OSError as error:
        expected = "Expected to write a checkpoint (the training and earlier checkpoints are whole)"
        problem = f"{expected}, got: {error.strerror or error}"
        raise OSError(error.errno, problem, os.fspath(path)) from error  # of the number's subclass


def _write(path: Path, state: dict[str, Any]) -> None:
    with path.open("w+b") as file:
        _save(state, file)
        try:
            load_archive(file, "meta")
        except (pickle.UnpicklingError, ValueError) as error:
            raise TypeError(
                "Expected states of models, optimizers, schedulers and samplers that are made of "
                f"tensors, numbers, strings, lists and dicts, got others: {error}"
            ) from error
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.write(FOOTER.pack(MAGIC, VERSION, file.seek(0, 2), digest))


def _save(state: dict[str, Any], file: BinaryIO) -> None:
    """Do as torch.save does, and raise what the disk said: torch makes a RuntimeError of it."""
    said = list[OSError]()

    def write(content: Any) -> int:
        try:
            return file.write(content)
        except OSError as error:
            said.append(error)
            raise

    try:
        torch.save(state, SimpleNamespace(write=write, flush=file.flush))  # pyright: ignore[reportArgumentType]
    except Exception:
        if said:
            raise said[0] from None
        raise


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the state that `write_checkpoint` was given, on the CPU. Nothing is unpickled.

    Raises:
        FileNotFoundError: If there is no such file, or something else in its place.
        ValueError: If the file is cut, was changed, or is no checkpoint of this version.
    """
    with open_file(path, "a checkpoint") as file:
        problem = _problem(file)
        check(problem is None, f"a whole checkpoint at {path}", problem)
        try:
            return load_archive(file)
        except Exception as error:  # a file that somebody made up
            raise ValueError(
                f"Expected a checkpoint at {path}, got another file: {error}"
            ) from error


def _problem(file: BinaryIO) -> str | None:
    """Return what is wrong with a file, `None` if nothing is."""
    size = file.seek(0, 2) - FOOTER.size
    if size < 0:
        return "a file that is too short"
    with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        magic, version, expected, digest = FOOTER.unpack_from(content, size)
        checksum = hashlib.sha256(memoryview(content)[:size]).digest()
    if magic != MAGIC:
        return "a file that is cut, or another one"
    if (version, expected) != (VERSION, size):
        return f"version {version} with {size} bytes instead of version {VERSION}, {expected} bytes"
    return None if checksum == digest else "content that does not have its checksum"


class CheckpointFolder:
    """The latest checkpoints of one training: the newest, and the one before.

    Args:
        folder: Where they are. No other training may write there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = to_path(folder, "checkpoint_folder")
        self.newest: Path | None = None
        """The latest one that was written or read here."""
        self._known: set[Path] = set()

    @classmethod
    def of(cls, folder: str | os.PathLike[str] | None) -> Self | None:
        """Return that of a folder, `None` where none is given."""
        return None if folder is None else cls(folder)

    def paths(self) -> list[Path]:
        """Return the files of all checkpoints, from the earliest to the latest moment."""
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.glob(f"{PREFIX}*")]
        places = [(int(match[1]), int(match[2]), path) for match, path in found if match]
        return [path for *_, path in sorted(places)]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other trainings out of the folder, which is made, for as long as this one trains.

        On Windows other processes are not kept out.

        Raises:
            OSError: If the folder cannot be made or written.
            ValueError: If another process trains into it, or it has checkpoints that are not this
                training's, which it would remove.
        """
        with ExitStack() as stack:
            from_first_rank(lambda: self._take(stack))
            yield

    def _take(self, stack: ExitStack) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_locked(self.folder))
        others = set(self.paths()) - self._known
        expected = "a `checkpoint_folder` without checkpoints, or `resume` before `train`"
        check(not others, expected, max(others, default=None))

    def save(self, state: dict[str, Any], round_: int, step: int) -> Path:
        """Write a checkpoint in the first process, then remove all but it and the one before.

        Args:
            state: As for `write_checkpoint`.
            round_: The round.
            step: Number of steps of the round that were made.

        Returns:
            The file.

        Raises:
            OSError, TypeError: As `write_checkpoint` does.
            RuntimeError: In the other processes, if the first one raises.
        """
        self.newest = from_first_rank(lambda: self._save(state, round_, step))
        return self.newest

    def _save(self, state: dict[str, Any], round_: int, step: int) -> Path:
        path = self.folder / f"{PREFIX}{round_:06d}-{step:09d}.pt"
        write_checkpoint(path, state)
        before = self.newest
        self._known = {path, before if before and before < path else path}
        for other in set(self.paths()) - self._known:
            other.unlink(missing_ok=True)
        for unfinished in self.folder.glob(f".{PREFIX}*"):  # what a kill left
            shutil.rmtree(unfinished, ignore_errors=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """Return the latest state, `None` where there is none.

        A file that is damaged is passed over, with a warning, for the one before.

        Raises:
            FileNotFoundError, ValueError: If all are gone or damaged.
        """
        error: Exception | None = None
        paths = self.paths()
        self._known = set(paths)
        for path in reversed(paths):
            try:
                state = read_checkpoint(path)
            except (FileNotFoundError, ValueError) as damaged:  # a living training removes some
                error = damaged
                warnings.warn(f"{error} The one before is taken.", stacklevel=3)
            else:
                self.newest = path
                return state
        if error is not None:
            raise error
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder by a file in it, which is removed at the end.

    Raises:
        ValueError: If another training has locked it.
    """
    path = folder / ".lock"
    try:
        with locked_file(path) as file:
            try:
                yield
            finally:
                remove(file, path)
    except LockedError as error:
        raise ValueError(
            "Expected a `checkpoint_folder` of one training, got "
            f"{folder}, into which another one trains."
        ) from error
