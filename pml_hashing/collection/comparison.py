"""The files of a folder, compared with what a collection holds of them."""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Container
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Self

import numpy as np

from pml_hashing.collection.files import NEVER, FileState, states_of
from pml_hashing.collection.state import State


@dataclass(frozen=True)
class Comparison:
    """The images of a folder, and where they are held.

    Attributes:
        names: Their names, sorted.
        rows: The row of each name in the collection, -1 where it is not held.
        states: What their files are: rows of a `FileState`.
        is_kept: Which files are as they were.
    """

    names: list[str]
    rows: np.ndarray
    states: np.ndarray
    is_kept: np.ndarray

    @classmethod
    def of(cls, names: list[str], root: Path, state: State) -> Self:
        """Look at files without reading them, and compare them with what is held, page by page."""
        states = states_of(f"{root}{os.sep}{name}" for name in names)
        rows, is_kept = np.full(len(names), -1), np.zeros(len(names), dtype=bool)
        start = 0
        for page in state.pages():
            held = state.names(page)
            stop = bisect_right(names, held[-1], lo=start)
            row_of = dict(zip(held, page, strict=True))
            found = [row_of.get(name, -1) for name in names[start:stop]]
            own = np.array(found, dtype=np.int64)
            is_held = own >= 0
            places, own = start + np.flatnonzero(is_held), own[is_held]
            is_same = (states[places] == state.states(page)[own - page.start]).all(axis=1)
            rows[places], is_kept[places] = own, is_same & (states[places, 1] != NEVER)
            start = stop
        return cls(names, rows, states, is_kept)

    @property
    def others(self) -> list[int]:
        """The places of the files that are new, or may have changed."""
        return np.flatnonzero(~self.is_kept).tolist()

    def suspects(self) -> dict[str, FileState]:
        """Return the files that are new, or may have changed."""
        return {self.names[place]: FileState(*self.states[place].tolist()) for place in self.others}

    def row(self, name: str) -> int:
        """Return the row of one of the names."""
        return int(self.rows[bisect_left(self.names, name)])

    def gone(self, count: int) -> list[int]:
        """Return those of so many rows that none of the names has."""
        is_gone = np.ones(count, dtype=bool)
        is_gone[self.rows[self.rows >= 0]] = False
        return np.flatnonzero(is_gone).tolist()

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
