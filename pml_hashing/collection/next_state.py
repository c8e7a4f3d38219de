"""What a collection is to hold after a sync: what stays as it is, and all that is new."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pml_hashing.collection.comparison import Comparison
from pml_hashing.collection.encoded import Encoded, KnownCodes
from pml_hashing.collection.file_records import Files, Unreadable
from pml_hashing.collection.files import Content, FileState
from pml_hashing.collection.labels import Metadata, Row, columns_of
from pml_hashing.collection.manifest import Manifest
from pml_hashing.collection.state import Change, Images, State

BLOCK = 2**13  # images that are written together


class Entry(NamedTuple):
    """A file that is new or may have changed."""

    state: FileState
    content: Content


@dataclass(frozen=True)
class NextState:
    """The state after a sync, beside the one before.

    Attributes:
        state: The one before.
        found: All images that there are then.
        entries: Those whose files are new or may have changed.
        unreadable: The files that have no code.
        known: Where the codes of their contents are.
        given: Metadata that are given for some, by name.
        sources: The rows in which those were held that have another name now.
        manifest: What the collection is then, but for generation and count.
    """

    state: State
    found: Comparison
    entries: Mapping[str, Entry]
    unreadable: list[Unreadable]
    known: Sequence[KnownCodes]
    given: Mapping[str, Row]
    sources: Mapping[str, int]
    manifest: Manifest

    @property
    def is_same(self) -> bool:
        """Whether nothing changes."""
        state = self.state
        return (
            len(self.found.names) == len(state)
            and bool(self._is_kept.all())
            and self._columns.keys() == state.columns.keys()
            and self.unreadable == state.unreadable
            and self.manifest == state.manifest
        )

    def change(self) -> Change:
        """Return what a storage is to write."""
        generation, names = self.state.manifest.generation + 1, self.found.names
        return Change(
            names,
            self._is_kept,
            self.found.rows[self._is_kept],
            self._images(),
            self._columns if names else {},
            self.unreadable,
            replace(self.manifest, generation=generation, count=len(names)),
        )

    @property
    def _is_anew(self) -> bool:
        """Whether metadata that were held count no more."""
        return self.manifest.labels is not None

    @cached_property
    def _columns(self) -> dict[str, type | None]:
        """All columns: of those that come from labels alone, values are text."""
        held = {} if self._is_anew else self.state.columns
        columns = columns_of(held, self.given, self.found.names)
        return dict.fromkeys(columns, str) if self._is_anew else columns

    @cached_property
    def _is_kept(self) -> np.ndarray:
        """Which images are as they were: a mask."""
        is_kept = self.found.is_kept.copy()
        for places in _blocks(np.flatnonzero((self.found.rows >= 0) & ~is_kept)):
            is_kept[places] = self._has_same_file(places)
        if self.given or self._is_anew:
            for places in _blocks(np.flatnonzero(is_kept)):
                is_kept[places] = self._has_same_metadata(places)
        return is_kept

    def _has_same_file(self, places: np.ndarray) -> np.ndarray:
        rows, held = self.found.rows[places], self._entries(places)
        states, contents = self.state.states(rows).tolist(), self.state.contents(rows)
        pairs = zip(held, states, contents, strict=True)
        return np.array([entry == (FileState(*state), own) for entry, state, own in pairs], bool)

    def _has_same_metadata(self, places: np.ndarray) -> np.ndarray:
        held, new = self.state.metadata(self.found.rows[places]), self._metadata(places)
        is_same = np.ones(len(places), dtype=bool)
        for column in held.keys() | new.keys():
            none = [None] * len(places)
            pairs = zip(held.get(column, none), new.get(column, none), strict=True)
            is_same &= np.array([old == value for old, value in pairs], bool)
        return is_same

    def _metadata(self, places: np.ndarray) -> Metadata:
        """Return the values of images: those that were held, and on them those that are given."""
        names = [self.found.names[place] for place in places.tolist()]
        columns: Metadata = {column: [None] * len(names) for column in self._columns}
        if not self._is_anew:
            rows = [self.sources.get(name, row) for name, row in self._named_rows(places)]
            held = [at for at, row in enumerate(rows) if row >= 0]
            for column, values in self.state.metadata([rows[at] for at in held]).items():
                for at, value in zip(held, values, strict=True):
                    columns[column][at] = value
        for at, name in enumerate(names if self.given else ()):
            for column, value in self.given.get(name, {}).items():
                columns[column][at] = value
        return columns

    def _images(self) -> Iterator[Images]:
        """Yield all images that are new or changed."""
        for places in _blocks(np.flatnonzero(~self._is_kept)):
            names = [self.found.names[place] for place in places.tolist()]
            files, codes = self._files_and_codes(places)
            yield Images(places, names, files, codes, self._metadata(places))

    def _files_and_codes(self, places: np.ndarray) -> tuple[Files, np.ndarray]:
        """Return files and codes: as they were held, or by the content of the new ones."""
        files = Files.empty(len(places))
        is_held = self.found.is_kept[places]
        held, new = np.flatnonzero(is_held), np.flatnonzero(~is_held)
        rows, entries = self.found.rows[places[held]], self._entries(places[new])
        states = [FileState(*state) for state in self.state.states(rows).tolist()]
        files.put(held, Files.made(states, self.state.contents(rows)))
        contents = [entry.content for entry in entries]
        files.put(new, Files.made([entry.state for entry in entries], contents))
        held_codes, new_codes = self.state.kept_codes(rows), self._codes(contents)
        codes = np.empty((len(places), new_codes.shape[1]), new_codes.dtype)
        codes[held], codes[new] = held_codes, new_codes
        return files, codes

    def _codes(self, contents: Sequence[Content]) -> np.ndarray:
        found, missing = dict[bytes, Encoded](), {content.digest for content in contents}
        for known in self.known if contents else ():
            found |= known.known(missing)
            missing -= found.keys()
        return self.state.to_rows([found[content.digest].code for content in contents])

    def _named_rows(self, places: np.ndarray) -> Iterator[tuple[str, int]]:
        names = (self.found.names[place] for place in places.tolist())
        return zip(names, self.found.rows[places].tolist(), strict=True)

    def _entries(self, places: np.ndarray) -> list[Entry]:
        return [self.entries[self.found.names[place]] for place in places.tolist()]


def _blocks(places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), BLOCK):
        yield places[start : start + BLOCK]
