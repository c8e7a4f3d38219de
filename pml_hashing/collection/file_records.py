"""What the files of images were when they were encoded: arrays with a row for each code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from pml_hashing._tensor_files import write_tensors
from pml_hashing.code_file import from_json_tensor, json_tensor
from pml_hashing.collection.files import Content, FileState

FILES_FORMAT = {"format": "pml_hashing.Collection.files", "format_version": "1"}
STATE, DIGEST, SIZES = 4, 32, 3  # the widths of the rows


class Unreadable(NamedTuple):
    """A file that has no code."""

    name: str
    state: FileState
    message: str

    @classmethod
    def of(cls, record: Any) -> Self:
        """Return what JSON holds of one.

        Raises:
            TypeError: If it is none.
            ValueError: As `TypeError`.
        """
        name, state, message = record
        are_texts = isinstance(name, str) and isinstance(message, str)
        if not are_texts or any(type(number) is not int for number in state):
            raise TypeError(f"{record!r:.99} is no unreadable file.")
        return cls(name, FileState(*state), message)


@dataclass(frozen=True)
class Files:
    """What the files were: a row for each code.

    Attributes:
        states: Rows of a `FileState`, int64 `(n, 4)`.
        digests: SHA-256 of the contents, uint8 `(n, 32)`.
        sizes: Bytes, width and height, int64 `(n, 3)`.
        unreadable: The files that have no code, by name.
    """

    states: np.ndarray
    digests: np.ndarray
    sizes: np.ndarray
    unreadable: list[Unreadable]

    @classmethod
    def empty(cls, count: int = 0, unreadable: Sequence[Unreadable] = ()) -> Self:
        """Return so many rows of zeros."""
        return cls(
            np.zeros((count, STATE), np.int64),
            np.zeros((count, DIGEST), np.uint8),
            np.zeros((count, SIZES), np.int64),
            list(unreadable),
        )

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return what a file holds.

        Raises:
            KeyError: If a part of it is missing.
            TypeError: As `ValueError`.
            ValueError: If it is none of this kind.
        """
        states, digests, sizes = (tensors[name].numpy() for name in ("states", "digests", "sizes"))
        found = [(array.dtype, *array.shape[1:]) for array in (states, digests, sizes)]
        wanted = [(np.int64, STATE), (np.uint8, DIGEST), (np.int64, SIZES)]
        if found != wanted or not len(states) == len(digests) == len(sizes):
            raise ValueError(f"its tensors are of types and widths {found}, not {wanted}.")
        unreadable = from_json_tensor(tensors["unreadable"])
        return cls(states, digests, sizes, [Unreadable.of(record) for record in unreadable])

    def __len__(self) -> int:
        return len(self.states)

    @property
    def contents(self) -> "ContentRows":
        """What was in the files."""
        return ContentRows(self.digests, self.sizes)

    def write(self, path: Path, generation: int) -> None:
        """Write it to a file."""
        tensors = {
            "states": torch.from_numpy(self.states),
            "digests": torch.from_numpy(self.digests),
            "sizes": torch.from_numpy(self.sizes),
            "unreadable": json_tensor(self.unreadable),
        }
        write_tensors(path, tensors, FILES_FORMAT | {"generation": str(generation)})

    @classmethod
    def made(cls, states: Sequence[FileState], contents: Sequence[Content]) -> Self:
        """Return rows of files."""
        digests = b"".join(content.digest for content in contents)
        return cls(
            np.array(states, np.int64).reshape(-1, STATE),
            np.frombuffer(digests, np.uint8).reshape(-1, DIGEST),
            np.array([content[1:] for content in contents], np.int64).reshape(-1, SIZES),
            [],
        )

    def put(self, rows: np.ndarray, other: "Files", from_rows: np.ndarray | None = None) -> None:
        """Put rows of others, all of them if `None`, into rows."""
        taken = slice(None) if from_rows is None else from_rows
        self.states[rows] = other.states[taken]
        self.digests[rows] = other.digests[taken]
        self.sizes[rows] = other.sizes[taken]


class ContentRows(Sequence[Content]):
    """What was in the files, row by row.

    Args:
        digests: As of `Files`.
        sizes: As of `Files`.
    """

    def __init__(self, digests: np.ndarray, sizes: np.ndarray) -> None:
        self._digests, self._sizes = digests, sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, row: int) -> Content:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Content(self._digests[row].tobytes(), *self._sizes[row].tolist())
