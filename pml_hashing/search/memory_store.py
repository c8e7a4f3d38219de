"""Codes in main memory, or mapped from a file into it."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pml_hashing.codes import packed_length
from pml_hashing.search import exact
from pml_hashing.search._ids import Ids
from pml_hashing.search._lock import ReadWriteLock
from pml_hashing.search._table import Table
from pml_hashing.search.approximate import ApproximateIndex
from pml_hashing.search.store import (
    CodeStore,
    Fetched,
    Neighbors,
    Records,
    Value,
    Where,
    check_types,
    id_held,
    id_missing,
    other_kind,
)


def empty_table(code_length: int | None, *, with_vectors: bool, room: int = 0) -> Table:
    """Return a table for codes of this length, with room for so many."""
    codes = torch.empty(room, packed_length(code_length or 0), dtype=torch.uint8)
    vectors = torch.empty(room, code_length or 0) if with_vectors else None
    return Table(codes, Ids(), vectors, count=0)


class MemoryStore(CodeStore):
    """Codes, ids, metadata and vectors in main memory.

    A change takes amortized constant time for a code. Any number of threads search at once, and a
    change waits for them: a search sees what was there before it or after it.
    """

    def __init__(self) -> None:
        self._lock = ReadWriteLock()
        self._code_length: int | None = None
        self._next_id = 0
        self._table = empty_table(None, with_vectors=False)

    @property
    def code_length(self) -> int | None:
        return self._code_length

    @property
    def with_vectors(self) -> bool:
        return self._table.vectors is not None

    @property
    def next_id(self) -> int:
        return self._next_id

    @property
    def columns(self) -> dict[str, type | None]:
        with self._lock:
            return {name: column.type for name, column in self._table.columns.items()}

    @property
    def ids(self) -> list[Hashable]:
        """The ids of all codes, in database order."""
        with self._lock:
            return self._table.ids.take(self._table.kept_rows())

    def __len__(self) -> int:
        return len(self._table)

    def count(self, where: Where) -> int:
        with self._lock:
            return self._table.count(where)

    def prepare(self, code_length: int, *, with_vectors: bool, next_id: int = 0) -> None:
        with self._lock.writing():
            if (self._code_length, self.with_vectors) != (code_length, with_vectors):
                if len(self._table):
                    raise other_kind(code_length, self._code_length, with_vectors)
                self._table = empty_table(code_length, with_vectors=with_vectors)
            self._code_length = code_length
            self._next_id = max(self._next_id, next_id)

    def adopt(self, code_length: int, table: Table, next_id: int) -> None:
        """Keep a table as it is, in an empty store. It may be mapped from a file.

        Raises:
            ValueError: If codes are held.
        """
        with self._lock.writing():
            if len(self._table):
                raise other_kind(code_length, self._code_length, table.vectors is not None)
            self._code_length, self._table, self._next_id = code_length, table, next_id

    def append(
        self,
        packed_codes: Tensor,
        ids: Sequence[Hashable] | None,
        *,
        vectors: Tensor | None,
        metadata: Mapping[str, Sequence[Value]],
    ) -> None:
        with self._lock.writing():
            if ids is not None:
                held = np.flatnonzero(self._table.find(ids) >= 0)
                if len(held):
                    raise id_held(ids[held[0]])
            check_types({name: x.type for name, x in self._table.columns.items()}, metadata)
            self._table.append(packed_codes, ids, self._next_id, vectors, metadata)
            last = self._next_id + len(packed_codes) - 1
            integers = [last] if ids is None else (id_ for id_ in ids if isinstance(id_, int))
            self._next_id = max(self._next_id, 1 + max(integers, default=-1))

    def replace(
        self,
        ids: Sequence[Hashable],
        packed_codes: Tensor,
        *,
        vectors: Tensor | None,
        metadata: Mapping[str, Sequence[Value]],
    ) -> None:
        with self._lock.writing():
            rows = self._rows(ids)
            check_types({name: x.type for name, x in self._table.columns.items()}, metadata)
            self._table.replace(rows, packed_codes, vectors, metadata)
            self._table = self._table.compacted()

    def remove(self, ids: Sequence[Hashable]) -> None:
        with self._lock.writing():
            self._table.remove(self._rows(ids))
            self._table = self._table.compacted()

    def clear(self) -> None:
        with self._lock.writing():
            self._code_length, self._next_id = None, 0
            self._table = empty_table(None, with_vectors=False)

    def get(self, ids: Sequence[Hashable]) -> Records:
        with self._lock:
            return self._table.records(self._rows(ids))

    def contains(self, id_: Hashable) -> bool:
        with self._lock:
            return bool(self._table.find([id_])[0] >= 0)

    def batches(self, size: int) -> Iterator[Records]:
        table = self._table  # the rows of one that is replaced meanwhile stay as they were
        start = 0
        while True:
            with self._lock:
                if start >= len(table.codes):
                    return
                rows = table.kept_rows_from(start, size)
                start += size
                records = table.records(rows)
            if len(rows):
                yield records

    def first_codes(self, count: int) -> Tensor:
        """Return the packed codes of the first `count` positions."""
        with self._lock:
            return self._table.searched(torch.device("cpu"), {})[0][:count]

    def nearest(
        self,
        packed_query: Tensor,
        k: int,
        where: Where,
        *,
        fetch: Fetched | None = None,
        index: ApproximateIndex | None = None,
        with_ids: bool = True,
    ) -> Neighbors:
        """Return the `k` nearest codes that match, or all that match if these are fewer.

        Args:
            packed_query: uint8, on any device.
            k: Number of neighbours, at least 1.
            where: A condition on columns that there are.
            fetch: What of the neighbours is wanted with them.
            index: Searches approximately if there is no condition, for under one it cannot.
            with_ids: Whether ids are wanted, else positions: as `order`.
        """
        with self._lock:
            table = self._table
            if index is not None and not where:
                distances, rows = index.nearest(packed_query, min(k, len(table)), table)
            else:
                codes, rows_of = table.searched(packed_query.device, where)
                distances, rows = exact.nearest(packed_query, codes, min(k, len(codes)))
                rows = rows if rows_of is None else torch.from_numpy(rows_of[rows.cpu().numpy()])
            ids = table.ids.take(rows.flatten().cpu().numpy()) if with_ids else []
            width = max(1, rows.shape[1])
            return Neighbors(
                distances,
                [ids[start : start + width] for start in range(0, len(ids), width)],
                (rows if with_ids else table.to_positions(rows)).to(packed_query.device),
                None if fetch is None else table.fetched(rows, fetch).to(packed_query.device),
            )

    def within(
        self, packed_query: Tensor, radius: int, where: Where
    ) -> tuple[list[Tensor], list[list[Hashable]]]:
        with self._lock:
            codes, rows_of = self._table.searched(packed_query.device, where)
            counts, distances, rows = exact.within(packed_query, codes, radius)
            found = rows.cpu().numpy()
            ids = iter(self._table.ids.take(found if rows_of is None else rows_of[found]))
        sizes = counts.tolist()
        return list(distances.split(sizes)), [list(islice(ids, size)) for size in sizes]

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def frozen(self) -> AbstractContextManager[object]:
        return self._lock

    def _rows(self, ids: Sequence[Hashable]) -> np.ndarray:
        rows = self._table.find(ids)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            raise id_missing(ids[missing[0]])
        return rows
