"""The ids of codes: numbers and strings as arrays, which may be mapped from a file."""

from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol
from zlib import crc32

import numpy as np

INT64 = np.iinfo(np.int64)
BLOCK = 2**16  # strings that are Python objects at a time
ENCODING = ("utf-8", "surrogatepass")  # any Python string, as some names of files are


class IdArray(Protocol):
    """Ids that do not change. Ids are unique, and a row is the place of one."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> list[Hashable]:
        """Return the ids in `rows`."""
        ...

    def find(self, ids: Sequence[Hashable]) -> np.ndarray:
        """Return the rows of `ids`, and -1 for an id that is not here."""
        ...


class CountedIds:
    """The integers from `start` to `stop - 1`."""

    def __init__(self, start: int = 0, stop: int = 0) -> None:
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def take(self, rows: np.ndarray) -> list[Hashable]:
        return (rows + self.start if self.start else rows).tolist()

    def find(self, ids: Sequence[Hashable]) -> np.ndarray:
        return np.array(
            [
                id_ - self.start if isinstance(id_, int) and self.start <= id_ < self.stop else -1
                for id_ in ids
            ],
            dtype=np.int64,
        )


class IntegerIds:
    """Integers of 64 bits.

    Args:
        values: int64.

    Raises:
        ValueError: If one comes twice.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        is_sorted = bool((values[1:] > values[:-1]).all())
        self._order = None if is_sorted else values.argsort(kind="stable")
        if self._order is not None:
            in_order = values[self._order]
            twice = in_order[1:][in_order[1:] == in_order[:-1]]
            if len(twice):
                raise duplicate(int(twice[0]))

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> list[Hashable]:
        return self.values[rows].tolist()

    def find(self, ids: Sequence[Hashable]) -> np.ndarray:
        found = np.full(len(ids), -1)
        places = [place for place, id_ in enumerate(ids) if _is_int64(id_)]
        if not places or not len(self):
            return found
        wanted = np.array([ids[place] for place in places], dtype=np.int64)
        at = np.searchsorted(self.values, wanted, sorter=self._order).clip(max=len(self) - 1)
        rows = at if self._order is None else self._order[at]
        found[places] = np.where(self.values[rows] == wanted, rows, -1)
        return found


class StringIds:
    """Strings as bytes, one after the other, found by their sorted hashes: 8 bytes for each.

    Args:
        offsets: int64, where each string begins, and at last where the last one ends.
        text: uint8, UTF-8.

    Raises:
        ValueError: If they are not whole strings, or one comes twice.
    """

    def __init__(self, offsets: np.ndarray, text: np.ndarray) -> None:
        self.offsets, self.text = offsets, text
        self._check_whole()
        hashes = np.fromiter(map(crc32, self._encoded()), np.uint64, len(self))
        # The hash above, the row below: one sorted array tells the rows of a hash.
        self._keys = np.sort(hashes << np.uint64(32) | np.arange(len(self), dtype=np.uint64))
        self._check_distinct()

    @classmethod
    def of(cls, ids: Sequence[str]) -> "StringIds":
        """Return the same ids as bytes."""
        encoded = [id_.encode(*ENCODING) for id_ in ids]
        offsets = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in encoded], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> list[Hashable]:
        text = self.text.data
        places = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
        return [str(text[start:stop], *ENCODING) for start, stop in places]

    def find(self, ids: Sequence[Hashable]) -> np.ndarray:
        found = np.full(len(ids), -1)
        encoded = [id_.encode(*ENCODING) if isinstance(id_, str) else None for id_ in ids]
        hashes = [0 if part is None else crc32(part) for part in encoded]
        wanted = np.array(hashes, dtype=np.uint64) << np.uint64(32)
        places = np.searchsorted(self._keys, wanted).tolist()
        for number, (part, hash_, place) in enumerate(zip(encoded, hashes, places, strict=True)):
            if part is not None:
                found[number] = self._row(part, hash_, place)
        return found

    def _row(self, encoded: bytes, hash_: int, place: int) -> int:
        while place < len(self):
            found, row = divmod(int(self._keys[place]), 2**32)
            if found != hash_:
                break
            if self.text.data[self.offsets[row] : self.offsets[row + 1]] == encoded:
                return row
            place += 1
        return -1

    def _encoded(self) -> Iterator[memoryview]:
        text = self.text.data
        for start in range(0, len(self), BLOCK):
            for first, last in pairwise(self.offsets[start : start + BLOCK + 1].tolist()):
                yield text[first:last]

    def _check_whole(self) -> None:
        offsets, text = self.offsets, self.text
        if offsets[0] or offsets[-1] != len(text) or (offsets[1:] < offsets[:-1]).any():
            raise ValueError("`id_offsets` do not part the bytes of `ids`.")
        begun = text[offsets[:-1][offsets[:-1] < offsets[1:]]]
        if ((begun & 0xC0) == 0x80).any():  # of a character that begins in another string
            raise ValueError("`id_offsets` part a character of `ids`.")
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            str(text.data[offsets[start] : offsets[stop]], *ENCODING)

    def _check_distinct(self) -> None:
        """Compare the strings of equal hashes, few as these are."""
        hashes = self._keys >> np.uint64(32)
        same = hashes[1:] == hashes[:-1]
        alike = np.append(same, False) | np.append(False, same)
        seen = set()
        for id_ in self.take((self._keys[alike] & np.uint64(2**32 - 1)).astype(np.int64)):
            if id_ in seen:
                raise duplicate(id_)
            seen.add(id_)


class Ids:
    """Ids that grow: an array that does not, and behind it a list with a dictionary.

    Args:
        ids: The first ids.
    """

    def __init__(self, ids: IdArray | list[Hashable] | None = None) -> None:
        self._array: IdArray = CountedIds()
        self._more: list[Hashable] = []
        self._row_of: dict[Hashable, int] = {}
        if isinstance(ids, list):
            self.extend(ids)
        elif ids is not None:
            self._array = ids

    def __len__(self) -> int:
        return len(self._array) + len(self._more)

    def count_on(self, start: int, count: int) -> None:
        """Append the integers from `start`."""
        array, stop = self._array, start + count
        if not len(self) and stop <= INT64.max:
            self._array = CountedIds(start, stop)
        elif isinstance(array, CountedIds) and array.stop == start and not self._more:
            array.stop = stop
        else:
            self.extend(range(start, stop))

    def extend(self, ids: Sequence[Hashable]) -> None:
        """Append ids. One that stands here already is found at its new place from now on."""
        self._row_of.update(zip(ids, range(len(self), len(self) + len(ids)), strict=True))
        self._more.extend(ids)

    def take(self, rows: np.ndarray) -> list[Hashable]:
        """Return the ids in `rows`."""
        if not self._more:
            return self._array.take(rows)
        first = len(self._array)
        if not first:
            return [self._more[row] for row in rows.tolist()]
        is_first = rows < first
        early = iter(self._array.take(rows[is_first]))
        return [self._more[row - first] if row >= first else next(early) for row in rows.tolist()]

    def find(self, ids: Sequence[Hashable]) -> np.ndarray:
        """Return the rows of `ids`, and -1 for an id that is not here."""
        rows = np.array([self._row_of.get(id_, -1) for id_ in ids], dtype=np.int64)
        missing = np.flatnonzero(rows < 0)
        if len(missing) and len(self._array):
            rows[missing] = self._array.find([ids[place] for place in missing.tolist()])
        return rows

    def kept(self, rows: np.ndarray) -> "Ids":
        """Return the ids in `rows` alone, as new ones."""
        return Ids(pack_ids(self.take(rows)))


def pack_ids(ids: list[Hashable]) -> IntegerIds | StringIds | list[Hashable]:
    """Return the same ids as an array, if they are all of the kind."""
    if all(_is_int64(id_) for id_ in ids):
        return IntegerIds(np.array(ids, dtype=np.int64))
    if all(isinstance(id_, str) for id_ in ids):
        return StringIds.of(ids)  # pyright: ignore[reportArgumentType] - checked above
    return ids


def duplicate(id_: Hashable) -> ValueError:
    """Return the error of an id that comes twice."""
    return ValueError(f"Expected `ids` without duplicates, got {id_!r} twice.")


def _is_int64(id_: Hashable) -> bool:
    return isinstance(id_, int) and INT64.min <= id_ <= INT64.max
