"""One state of a collection, for reading, wherever it is kept."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from pml_hashing.codes import packed_length
from pml_hashing.collection.encoded import Encoded
from pml_hashing.collection.file_records import Files, Unreadable
from pml_hashing.collection.files import Content
from pml_hashing.collection.labels import LABEL, Metadata, Row, by_name, labels_of
from pml_hashing.collection.manifest import Manifest
from pml_hashing.search import HammingKNN
from pml_hashing.search.store import Value

Rerank: TypeAlias = Literal["asymmetric", "vectors"]

Rows: TypeAlias = Sequence[int] | np.ndarray
"""The rows of some images: a range, or any in any order."""

PAGE = 2**16  # images that are looked at together


class DistinctCodes(NamedTuple):
    """Codes, each once.

    Attributes:
        codes: Packed, `(n, ceil(code_length / 8))`, uint8, sorted by their bytes.
        counts: How many images have each.
    """

    codes: np.ndarray
    counts: np.ndarray


class CodedImages(NamedTuple):
    """Images with their codes.

    Attributes:
        names: Sorted.
        codes: Packed, `(n, ceil(code_length / 8))`, uint8.
        contents: What is in their files.
    """

    names: list[str]
    codes: np.ndarray
    contents: Sequence[Content]


class State(ABC):
    """The images of a collection at one time: later changes do not change it.

    Images are in the order of their names. A *row* is the place of one in this order, from 0.

    Args:
        manifest: What the collection is.
        place: What it is called in messages.
    """

    def __init__(self, manifest: Manifest, place: object) -> None:
        self.manifest, self.place = manifest, place

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def root(self) -> Path:
        """The folder of the images.

        Raises:
            ValueError: If there was no sync.
        """
        if self.manifest.images is None:
            raise ValueError(f"Expected `images` in the first sync of {self.place}, got None.")
        return Path(self.manifest.images)

    @property
    @abstractmethod
    def columns(self) -> dict[str, type | None]:
        """The columns of metadata and the types of their values."""

    @property
    @abstractmethod
    def unreadable(self) -> list[Unreadable]:
        """The files that have no code, by name."""

    @abstractmethod
    def knn(self, rerank: Rerank | None = None, num_candidates: int = 100) -> HammingKNN:
        """Return a search in the codes, whose ids are names."""

    @abstractmethod
    def names(self, rows: Rows) -> list[str]:
        """Return the names of images."""

    @abstractmethod
    def rows(self, names: Sequence[str]) -> np.ndarray:
        """Return the row of each name, -1 where there is no such image."""

    @abstractmethod
    def states(self, rows: Rows) -> np.ndarray:
        """Return what the files were: rows of a `FileState`, int64 `(n, 4)`."""

    @abstractmethod
    def contents(self, rows: Rows) -> list[Content]:
        """Return what was in the files."""

    @abstractmethod
    def metadata(self, rows: Rows) -> Metadata:
        """Return the values of images in each column."""

    def metadata_of(self, names: Sequence[str]) -> dict[str, Row]:
        """Return the values in each column of those of these images that there are, by name."""
        rows = self.rows(names).tolist()
        held = {name: row for name, row in zip(names, rows, strict=True) if row >= 0}
        return by_name(held, self.metadata(list(held.values())) if held else {})

    @abstractmethod
    def codes(self, rows: Rows) -> np.ndarray:
        """Return packed codes."""

    @abstractmethod
    def vectors(self, rows: Rows) -> np.ndarray:
        """Return real codes, of a collection that keeps them, of at least one image."""

    def kept_codes(self, rows: Rows) -> np.ndarray:
        """Return codes as the collection keeps them: real ones where there are vectors."""
        if not self.manifest.vectors:
            return self.codes(rows)
        return self.vectors(rows) if len(rows) else self.to_rows([])

    @abstractmethod
    def sizes_among(self, sizes: Collection[int]) -> set[int]:
        """Return those of some sizes, in bytes, that a file had."""

    @abstractmethod
    def known(self, digests: Collection[bytes]) -> dict[bytes, Encoded]:
        """Return the codes of those of some contents that are held, by their digests."""

    @abstractmethod
    def value_counts(self, column: str) -> Mapping[Value, int]:
        """Return how many images have each value of a column that there is."""

    @abstractmethod
    def distinct_codes(self) -> DistinctCodes:
        """Return all codes, each once."""

    @abstractmethod
    def with_codes(self, codes: np.ndarray) -> CodedImages:
        """Return the images that have one of some packed codes, each given once."""

    @abstractmethod
    def prepare(self) -> None:
        """Read what searches need, so that none of them waits for it."""

    def pages(self) -> Iterator[range]:
        """Yield all rows, some at a time."""
        for start in range(0, len(self), PAGE):
            yield range(start, min(start + PAGE, len(self)))

    def row(self, name: str) -> int:
        """Return the row of a name.

        Raises:
            KeyError: If there is no such image.
        """
        return self.rows_of([name])[0]

    def rows_of(self, names: Sequence[str]) -> list[int]:
        """Return the row of each name.

        Raises:
            KeyError: If there is no such image.
        """
        rows = self.rows(names).tolist()
        if -1 in rows:
            raise self.missing(names[rows.index(-1)])
        return rows

    def missing(self, name: object) -> KeyError:
        """Return the error of an image that is not there."""
        return KeyError(f"Expected the name of an image in {self.place}, got {name!r}.")

    def contains(self, name: object) -> bool:
        """Return whether there is an image of this name."""
        return isinstance(name, str) and bool(self.rows([name])[0] >= 0)

    def to_rows(self, codes: Sequence[bytes]) -> np.ndarray:
        """Return the bytes of codes as the rows that the collection keeps."""
        length, vectors = self.manifest.code_length, self.manifest.vectors
        width = length if vectors else packed_length(length)
        dtype = np.float32 if vectors else np.uint8
        return np.frombuffer(bytearray(b"".join(codes)), dtype).reshape(-1, width)

    def check_column(self, column: str) -> None:
        """Raise a `ValueError` unless there is such a column."""
        if column not in self.columns:
            raise ValueError(f"Expected a column of {sorted(self.columns)}, got {column!r}.")

    def counts(self, column: str) -> dict[str | int | float | bool, int]:
        """Return how many images have each value of a column, or each label."""
        self.check_column(column)
        held = {v: count for v, count in self.value_counts(column).items() if v is not None}
        if column != LABEL:
            return dict(sorted(held.items()))
        counts = Counter[Any]()
        for value, count in held.items():
            for label in labels_of(value):
                counts[label] += count
        return dict(sorted(counts.items()))

    @cached_property
    def _label_values(self) -> list[Value]:
        return list(self.value_counts(LABEL))

    def to_where(self, where: Mapping[str, object] | None) -> Mapping[str, object] | None:
        """Return a condition in which a label stands for all sets of labels that have it."""
        if not isinstance(where, Mapping) or LABEL not in where or LABEL not in self.columns:
            return where  # for the search, which refuses what is wrong
        wanted = where[LABEL]
        many = isinstance(wanted, list | tuple | set | frozenset | np.ndarray)
        found = list(wanted) if many else [wanted]  # pyright: ignore[reportArgumentType, reportCallIssue]
        labels = {label for label in found if isinstance(label, str | None)}
        sets = [
            value
            for value in self._label_values
            if value in labels or not labels.isdisjoint(labels_of(value))
        ]
        refused = [label for label in found if not isinstance(label, str | None)]
        return {**where, LABEL: [*sorted(sets, key=str), *refused]}


def as_bytes(codes: np.ndarray) -> np.ndarray:
    """Return rows of uint8 as one value each, which is sorted as its bytes are."""
    kind = np.dtype((np.void, codes.shape[1]))
    return np.ascontiguousarray(codes).view(kind).ravel()


class Images(NamedTuple):
    """Images that are new or changed.

    Attributes:
        rows: Their places among all images of the new state.
        names: Their names.
        files: What their files are.
        codes: Packed or real rows, as the collection keeps them.
        metadata: Their values in each column.
    """

    rows: np.ndarray
    names: list[str]
    files: Files
    codes: np.ndarray
    metadata: Metadata


class Change(NamedTuple):
    """What a new state is, beside the one before.

    Attributes:
        names: Of all its images, sorted.
        kept: Which of them are as they were, a mask.
        held: Where each of those is held, int64.
        images: All others, some at a time, in order.
        columns: All columns of metadata, and what is known of their types.
        unreadable: The files that have no code.
        manifest: What the collection is then.
    """

    names: list[str]
    kept: np.ndarray
    held: np.ndarray
    images: Iterator[Images]
    columns: dict[str, type | None]
    unreadable: list[Unreadable]
    manifest: Manifest
