"""What a collection holds, for reading: names, files, metadata, codes."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pml_hashing.collection.labels import Row
from pml_hashing.collection.snapshot import Snapshot


class Contents:
    """The images of one state after another, each read at once.

    Args:
        snapshot: The present state.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __len__(self) -> int:
        return self._snapshot.manifest.count

    def __contains__(self, name: object) -> bool:
        return name in self._snapshot.row_of

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @property
    def names(self) -> list[str]:
        """The names of all images, sorted."""
        return list(self._snapshot.names)

    @property
    def code_length(self) -> int:
        """Number of bits."""
        return self._snapshot.manifest.code_length

    @property
    def columns(self) -> dict[str, type | None]:
        """The columns of metadata and the types of their values."""
        return self._snapshot.knn().columns

    @property
    def images(self) -> Path:
        """The folder of the images, as of the last sync.

        Raises:
            ValueError: If there was none.
        """
        return self._snapshot.root

    @property
    def generation(self) -> int:
        """A number that grows with each change."""
        return self._snapshot.manifest.generation

    def path(self, name: str) -> Path:
        """Return the file of an image.

        Raises:
            KeyError: If there is no such image.
        """
        self._snapshot.row(name)
        return self._snapshot.root / name

    def metadata(self, name: str) -> Row:
        """Return the value of an image in each column.

        Raises:
            KeyError: If there is no such image.
        """
        snapshot = self._snapshot
        row = snapshot.row(name)
        return {column: values[row] for column, values in snapshot.columns.items()}

    def codes(self, names: Iterable[str] | None = None) -> Tensor:
        """Return packed codes of images, uint8 `(n, ceil(code_length / 8))`. All if `None`.

        Raises:
            KeyError: If there is no such image.
        """
        snapshot = self._snapshot
        packed_codes = torch.from_numpy(snapshot.codes(packed=True))
        if names is None:
            return packed_codes.clone()
        return packed_codes[[snapshot.row(name) for name in names]]

    def count(self, where: Mapping[str, object] | None = None) -> int:
        """Return how many images match a condition, as of `search`.

        Raises:
            TypeError: If a value cannot be in its column.
            ValueError: If there is no such column.
        """
        snapshot = self._snapshot
        return snapshot.knn().count(snapshot.to_where(where))

    def counts(self, column: str = "label") -> dict[str | int | float | bool, int]:
        """Return how many images have each value of a column, and each label.

        Raises:
            ValueError: If there is no such column.
        """
        return self._snapshot.counts(column)
