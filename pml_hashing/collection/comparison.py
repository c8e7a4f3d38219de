"""The files of a folder, compared with what a collection holds of them."""

import os
from collections.abc import Container
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Self

import numpy as np

from pml_hashing.collection.files import NEVER, FileState, states_of
from pml_hashing.collection.snapshot import Snapshot


@dataclass(frozen=True)
class Comparison:
    """The images of a folder, and where they are held.

    Attributes:
        names: Their names, sorted.
        rows: Where each name is held, -1 where it is not.
        states: What their files are: rows of a `FileState`.
        is_kept: Which files are as they were.
    """

    names: list[str]
    rows: np.ndarray
    states: np.ndarray
    is_kept: np.ndarray

    @classmethod
    def of(cls, names: list[str], root: Path, snapshot: Snapshot) -> Self:
        """Look at files without reading them, and compare them with what is held."""
        row_of, held = snapshot.row_of, snapshot.files.states
        states = states_of(f"{root}{os.sep}{name}" for name in names)
        rows = np.fromiter((row_of.get(name, -1) for name in names), np.int64, len(names))
        is_kept = (rows >= 0) & (states[:, 1] != NEVER)
        is_kept[is_kept] = (states[is_kept] == held[rows[is_kept]]).all(axis=1)
        return cls(names, rows, states, is_kept)

    @property
    def others(self) -> list[int]:
        """The places of the files that are new, or may have changed."""
        return np.flatnonzero(~self.is_kept).tolist()

    def suspects(self) -> dict[str, FileState]:
        """Return the files that are new, or may have changed."""
        return {self.names[place]: FileState(*self.states[place].tolist()) for place in self.others}

    def with_codes(self, names: Container[str]) -> Self:
        """Return what is kept, and of the other files those that have one of the names."""
        has_code = self.is_kept.copy()
        for place in self.others:
            has_code[place] = self.names[place] in names
        if has_code.all():
            return self
        kept = list(compress(self.names, has_code.tolist()))
        arrays = (array[has_code] for array in (self.rows, self.states, self.is_kept))
        return type(self)(kept, *arrays)
