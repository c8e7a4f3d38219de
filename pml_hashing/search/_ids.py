"""The ids of codes: integers and strings as arrays, which may be mapped from a file."""

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TypeGuard
from zlib import crc32

import numpy as np

from pml_hashing._checks import check_distinct

INT64 = np.iinfo(np.int64)
BLOCK = 2**16  # strings that are Python objects at a time
ENCODING = ("utf-8", "surrogatepass")  # any Python string, as some names of files are


class IdArray:
    """Integers of 64 bits, or strings, which do not change. A row is the place of an id.

    An id is found by sorted keys: integers themselves, which take no memory if they are sorted, or
    hashes of strings, 8 bytes for each.

    Args:
        values: Integers, int64, or the bytes of all strings, one after the other, UTF-8, uint8.
        offsets: int64, where each string begins, and at last where the last one ends.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray | None = None) -> None:
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def next_id(self) -> int:
        """One more than the largest integer."""
        return int(self.values.max(initial=-1)) + 1 if self.offsets is None else 0

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.take(np.arange(len(self))))

    def take(self, rows: np.ndarray) -> list[Hashable]:
        """Return the ids in `rows`."""
        if self.offsets is None:
            return self.values[rows].tolist()
        text, starts, stops = self.values.data, self.offsets[rows], self.offsets[rows + 1]
        places = zip(starts.tolist(), stops.tolist(), strict=True)
        return [str(text[start:stop], *ENCODING) for start, stop in places]

    def find(self, ids: Sequence[Hashable]) -> np.ndarray:
        """Return the rows of `ids`, and -1 for an id that is not here."""
        found = np.full(len(ids), -1)
        fits = is_int64 if self.offsets is None else is_string
        places = np.flatnonzero([fits(id_) for id_ in ids])
        wanted = self._keys_of([ids[place] for place in places.tolist()])
        keys, order = self._sorted
        at, stop = (np.searchsorted(keys, wanted, side) for side in ("left", "right"))
        while (left := at < stop).any():  # more than once where strings share a hash
            places, at, stop = places[left], at[left], stop[left]
            rows = at if order is None else order[at].astype(np.int64)
            taken = zip(places.tolist(), self.take(rows), strict=True)
            same = [ids[place] == id_ for place, id_ in taken]
            found[places[same]] = rows[same]
            at = at + 1
        return found

    def check(self) -> None:
        """Raise a `ValueError` unless these are whole strings, and no id comes twice."""
        if self.offsets is not None:
            self._check_whole(self.offsets)
        keys, order = self._sorted
        same = np.flatnonzero(keys[1:] == keys[:-1])
        alike = np.union1d(same, same + 1)
        check_distinct(self.take(alike if order is None else order[alike].astype(np.int64)))

    def _check_whole(self, offsets: np.ndarray) -> None:
        text = self.values
        if offsets[0] or offsets[-1] != len(text) or (offsets[1:] < offsets[:-1]).any():
            raise ValueError("`id_offsets` do not part the bytes of `ids`.")
        begun = text[offsets[:-1][offsets[:-1] < offsets[1:]]]
        if ((begun & 0xC0) == 0x80).any():  # of a character that begins in another string
            raise ValueError("`id_offsets` part a character of `ids`.")
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            str(text.data[offsets[start] : offsets[stop]], *ENCODING)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Keys in order, and their rows if that is another order."""
        keys = self.values
        if self.offsets is not None:
            bounds, text = self.offsets, self.values.data
            blocks = (bounds[at : at + BLOCK + 1].tolist() for at in range(0, len(self), BLOCK))
            hashes = (crc32(text[start:stop]) for at in blocks for start, stop in pairwise(at))
            keys = np.fromiter(hashes, np.uint32, len(self))
        if (keys[1:] >= keys[:-1]).all():
            return keys, None
        order = keys.argsort(kind="stable").astype(np.uint32)
        return keys[order], order

    def _keys_of(self, ids: list) -> np.ndarray:
        if self.offsets is None:
            return np.array(ids, dtype=np.int64)
        return np.array([crc32(id_.encode(*ENCODING)) for id_ in ids], dtype=np.uint32)


class Ids:
    """Ids that grow: those that count, or an array, and behind it a list with a dictionary.

    Args:
        first: The first ids.

    Attributes:
        next_id: One more than the largest integer that there ever was.
    """

    def __init__(self, first: range | IdArray | list[Hashable] = range(0)) -> None:
        self._first, self._more = (range(0), []) if isinstance(first, list) else (first, [])
        self._row_of: dict[Hashable, int] = {}
        self.next_id = self._first.stop if isinstance(self._first, range) else self._first.next_id
        if isinstance(first, list):
            self.extend(first)

    def __len__(self) -> int:
        return len(self._first) + len(self._more)

    @property
    def are_counted(self) -> bool:
        """Whether they are the integers from 0, as they are where none came."""
        return isinstance(self._first, range) and not self._more

    def skip_to(self, next_id: int) -> None:
        """Count from here on at least."""
        self.next_id = max(self.next_id, next_id)

    def count_on(self, count: int) -> None:
        """Append the next integers."""
        first, next_id = self._first, self.next_id
        if isinstance(first, range) and not self._more and next_id + count <= INT64.max:
            start = first.start if first else next_id
            if start + len(first) == next_id:
                self._first, self.next_id = range(start, next_id + count), next_id + count
                return
        self.extend(range(next_id, next_id + count))

    def extend(self, ids: Sequence[Hashable]) -> None:
        """Append ids. One that stands here already is found at its new place from now on."""
        self._row_of.update(zip(ids, range(len(self), len(self) + len(ids)), strict=True))
        self._more.extend(ids)
        self.skip_to(1 + max((id_ for id_ in ids if isinstance(id_, int)), default=-1))

    def take(self, rows: np.ndarray) -> list[Hashable]:
        """Return the ids in `rows`."""
        more, num_first = self._more, len(self._first)
        if not more:
            return self._take_first(rows)
        if not num_first:
            return [more[row] for row in rows.tolist()]
        early = iter(self._take_first(rows[rows < num_first]))
        return [more[row - num_first] if row >= num_first else next(early) for row in rows.tolist()]

    def to_array(self) -> IdArray | list[Hashable]:
        """Return all ids, as an array if they are all of the kind."""
        if isinstance(self._first, IdArray) and not self._more:
            return self._first
        return to_array(self.take(np.arange(len(self))))

    def find(self, ids: Sequence[Hashable]) -> np.ndarray:
        """Return the rows of `ids`, and -1 for an id that is not here."""
        rows = np.array([self._row_of.get(id_, -1) for id_ in ids], dtype=np.int64)
        missing = np.flatnonzero(rows < 0)
        if len(missing) and len(self._first):
            rows[missing] = self._find_first([ids[place] for place in missing.tolist()])
        return rows

    def _take_first(self, rows: np.ndarray) -> list[Hashable]:
        if isinstance(self._first, range):
            start = self._first.start
            return (rows + start if start else rows).tolist()
        return self._first.take(rows)

    def _find_first(self, ids: Sequence[Hashable]) -> np.ndarray | list[int]:
        first = self._first
        if not isinstance(first, range):
            return first.find(ids)
        return [first.index(id_) if is_int64(id_) and id_ in first else -1 for id_ in ids]


def to_array(ids: list[Hashable]) -> IdArray | list[Hashable]:
    """Return the same ids as an array, if they are all of the kind."""
    if all(map(is_int64, ids)):
        return IdArray(np.array(ids, dtype=np.int64))
    if not all(map(is_string, ids)):
        return ids
    encoded = [id_.encode(*ENCODING) for id_ in ids if isinstance(id_, str)]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return IdArray(np.frombuffer(bytearray().join(encoded), dtype=np.uint8), offsets)


def joined(parts: Sequence[IdArray | list[Hashable]]) -> IdArray | list[Hashable]:
    """Return the ids of all parts, as an array if all are one of the same kind."""
    arrays = [part for part in parts if isinstance(part, IdArray)]
    if len(arrays) < len(parts) or len({part.offsets is None for part in arrays}) > 1:
        return [id_ for part in parts for id_ in (part if isinstance(part, list) else list(part))]
    values = np.concatenate([part.values for part in arrays])
    sizes = [np.diff(part.offsets) for part in arrays if part.offsets is not None]
    return IdArray(values, np.cumsum(np.concatenate([[0], *sizes])) if sizes else None)


def id_from_json(id_: object) -> Hashable:
    """Return the id that JSON has written: a tuple as a list, as no list is an id.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(id_, list):
        return tuple(map(id_from_json, id_))
    if type(id_) not in (str, int):
        raise ValueError(f"an id is {id_!r}, which is no string, integer or list of these.")
    return id_  # pyright: ignore[reportReturnType] - its type was checked


def is_int64(id_: Hashable) -> TypeGuard[int]:
    """Return whether this is an integer of 64 bits."""
    return isinstance(id_, int) and INT64.min <= id_ <= INT64.max


def is_string(id_: Hashable) -> TypeGuard[str]:
    """Return whether this is a string."""
    return isinstance(id_, str)
