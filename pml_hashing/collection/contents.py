"""What a collection holds, for reading: names, files, metadata, codes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from pml_hashing._checks import check_integer
from pml_hashing.collection.labels import Row
from pml_hashing.collection.state import State
from pml_hashing.collection.storage import Storage
from pml_hashing.search.store import GoneError, Value

Read = TypeVar("Read")

ATTEMPTS = 10  # at reading a state that is gone before it was read


class Contents:
    """The images of one state after another, each read at once.

    Args:
        storage: Where the states are.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._state = storage.read()

    def __len__(self) -> int:
        return len(self._state)

    def __contains__(self, name: object) -> bool:
        return self._read(lambda state: state.contains(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @property
    def folder(self) -> Path:
        """The folder of the collection; of one on a server, that of its model."""
        return self._storage.folder

    @property
    def place(self) -> str:
        """Where it is: a folder, or a table of a database."""
        return self._storage.place

    @property
    def name(self) -> str:
        """The name of its folder or table."""
        return self._storage.name

    @property
    def cluster(self) -> str | None:
        """The name of the cluster of databases over which it is spread, if it is."""
        return self._storage.cluster

    @property
    def names(self) -> list[str]:
        """The names of all images, sorted."""
        return self.names_from(0)

    def names_from(self, start: int, count: int | None = None) -> list[str]:
        """Return so many names from a place in the order of names on; all of them if `None`.

        Raises:
            TypeError: If `start` or `count` is no integer.
            ValueError: If one is negative.
        """
        check_integer(start, 0, "start")
        if count is not None:
            check_integer(count, 0, "count")

        def read(state: State) -> list[str]:
            stop = len(state) if count is None else min(start + count, len(state))
            return state.names(range(min(start, stop), stop))

        return self._read(read)

    @property
    def code_length(self) -> int:
        """Number of bits."""
        return self._state.manifest.code_length

    @property
    def vectors(self) -> bool:
        """Whether real codes are kept beside the bits."""
        return self._state.manifest.vectors

    @property
    def columns(self) -> dict[str, type | None]:
        """The columns of metadata and the types of their values."""
        return self._read(lambda state: state.columns)

    @property
    def images(self) -> Path:
        """The folder of the images, as of the last sync.

        Raises:
            ValueError: If there was none.
        """
        return self._state.root

    @property
    def generation(self) -> int:
        """A number that grows with each change."""
        return self._state.manifest.generation

    def path(self, name: str) -> Path:
        """Return the file of an image.

        Raises:
            KeyError: If there is no such image.
        """

        def read(state: State) -> Path:
            state.row(name)
            return state.root / name

        return self._read(read)

    def metadata(self, name: str) -> Row:
        """Return the value of an image in each column.

        Raises:
            KeyError: If there is no such image.
        """

        def read(state: State) -> Row:
            found = state.metadata_of([name])
            if not found:
                raise state.missing(name)
            return found[name]

        return self._read(read)

    def metadata_of(self, names: Iterable[str]) -> dict[str, Row]:
        """Return the values in each column of those of these images that there are, by name.

        A database is asked once for all.

        Raises:
            TypeError: If `names` is one name.
        """
        asked = _to_names(names)
        return self._read(lambda state: state.metadata_of(asked))

    def values(self, column: str) -> list[Value]:
        """Return the value of each image in a column, in the order of names.

        Raises:
            ValueError: If there is no such column.
        """

        def read(state: State) -> list[Value]:
            state.check_column(column)
            return state.metadata(range(len(state)))[column]

        return self._read(read)

    def codes(self, names: Iterable[str] | None = None) -> Tensor:
        """Return packed codes of images, uint8 `(n, ceil(code_length / 8))`. All if `None`.

        Raises:
            KeyError: If there is no such image.
            TypeError: If `names` is one name.
        """
        wanted = None if names is None else _to_names(names)

        def read(state: State) -> Tensor:
            rows = range(len(state)) if wanted is None else state.rows_of(wanted)
            return torch.from_numpy(state.codes(rows).copy())

        return self._read(read)

    def count(self, where: Mapping[str, object] | None = None) -> int:
        """Return how many images match a condition, as of `search`.

        Raises:
            TypeError: If a value cannot be in its column.
            ValueError: If there is no such column.
        """
        return self._read(lambda state: state.knn().count(state.to_where(where)))

    def counts(self, column: str = "label") -> dict[str | int | float | bool, int]:
        """Return how many images have each value of a column, and each label.

        Raises:
            ValueError: If there is no such column.
        """
        return self._read(lambda state: state.counts(column))

    def _read(self, read: Callable[[State], Read]) -> Read:
        """Return what is read of one state: the present one, or the latest if that is gone.

        A database keeps a state that others have replaced for a while only.
        """
        for _ in range(ATTEMPTS):
            state = self._state
            try:
                return read(state)
            except GoneError:
                self._state = self._storage.latest(state)
                if self._state is state:
                    raise
        return read(self._state)


def _to_names(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):  # whose letters would be taken for names
        raise TypeError(f"Expected `names` to be a list of names, got one: {names!r}.")
    return list(names)
