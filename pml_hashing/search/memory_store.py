"""Codes in main memory, or mapped from a file into it."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pml_hashing.search._read_write_lock import ReadWriteLock
from pml_hashing.search._table import Table
from pml_hashing.search.exact import Within
from pml_hashing.search.store import (
    CodeStore,
    Fetched,
    Neighbors,
    Records,
    Where,
    check_types,
    id_held,
    id_missing,
    other_kind,
)

RowSearch: TypeAlias = Callable[[Tensor, int, Table], tuple[Tensor, Tensor]]
"""Returns distances and rows of the `k` neighbors of packed queries in a table."""

RangeSearch: TypeAlias = Callable[[Tensor, int, Where, Table], Within]
"""Returns sizes, distances and rows of what matches within a radius of packed queries."""


class MemoryStore(CodeStore):
    """Codes, ids, metadata and vectors in main memory.

    A change takes amortized constant time for a code. Any number of threads search at once, and a
    change waits for them: a search sees what was there before it or after it.

    Args:
        table: What to hold at first, as it is: nothing if `None`.
    """

    def __init__(self, table: Table | None = None) -> None:
        self._lock = ReadWriteLock()
        self._table = Table.empty(None, with_vectors=False) if table is None else table

    @property
    def code_length(self) -> int | None:
        return self._table.code_length

    @property
    def with_vectors(self) -> bool:
        return self._table.with_vectors

    @property
    def table(self) -> Table:
        """All that is held: as it is now within `frozen`."""
        return self._table

    @property
    def next_id(self) -> int:
        return self._table.ids.next_id

    @property
    def columns(self) -> dict[str, type | None]:
        with self._lock:
            return self._table.types

    @property
    def ids(self) -> list[Hashable]:
        """The ids of all codes, in database order."""
        with self._lock:
            return self._table.ids.take(self._table.rows())

    def __len__(self) -> int:
        return len(self._table)

    def count(self, where: Where) -> int:
        with self._lock:
            return len(self._table.rows(where)) if where else len(self._table)

    def prepare(self, code_length: int, *, with_vectors: bool, next_id: int = 0) -> None:
        with self._lock.writing():
            if (self.code_length, self.with_vectors) != (code_length, with_vectors):
                self.adopt(Table.empty(code_length, with_vectors=with_vectors))
            self._table.ids.skip_to(next_id)

    def adopt(self, table: Table) -> None:
        """Keep a table as it is, in an empty store. It may be mapped from a file.

        Raises:
            ValueError: If codes are held.
        """
        with self._lock.writing():
            if len(self._table):
                raise other_kind(table.code_length, self.code_length, table.with_vectors)
            self._table = table

    def append(self, records: Records) -> None:
        with self._lock.writing():
            table, ids = self._table, records.ids
            held = np.flatnonzero(table.find(ids) >= 0)
            if len(held):
                raise id_held(ids[held[0]])
            metadata = check_types(table.types, records.metadata)
            table.append(records._replace(metadata=metadata))
            if ids:
                table.ids.extend(ids)
            else:
                table.ids.count_on(len(records.packed_codes))

    def replace(self, records: Records) -> None:
        with self._lock.writing():
            rows = self._rows(records.ids)
            metadata = check_types(self._table.types, records.metadata)
            self._table.replace(rows, records._replace(metadata=metadata))
            self._table = self._table.compacted()

    def remove(self, ids: Sequence[Hashable]) -> None:
        with self._lock.writing():
            self._table.remove(self._rows(ids))
            self._table = self._table.compacted()

    def clear(self) -> None:
        with self._lock.writing():
            self._table = Table.empty(None, with_vectors=False)

    def get(self, ids: Sequence[Hashable]) -> Records:
        with self._lock:
            return self._table.records(self._rows(ids))

    def contains(self, id_: Hashable) -> bool:
        with self._lock:
            return bool(self._table.find([id_])[0] >= 0)

    def batches(self, size: int) -> Iterator[Records]:
        table = self._table  # the rows of one that is replaced meanwhile stay as they were
        start = 0
        while start < table.num_rows:
            with self._lock:
                records = table.records(table.rows(start=start, stop=start + size))
            start += size
            if records.ids:
                yield records

    def copied(self) -> Table:
        """Return a copy of all that is held."""
        with self._lock:
            return self._table.copied()

    def first_codes(self, count: int, device: torch.device) -> Tensor:
        """Return the packed codes of the first `count` positions."""
        with self._lock:
            return self._table.searched(device)[0][:count]

    def nearest(
        self,
        packed_query: Tensor,
        k: int,
        where: Where,
        *,
        fetch: Fetched | None = None,
        search: RowSearch | None = None,
        with_ids: bool = True,
    ) -> Neighbors:
        """Return the `k` nearest codes that match, or all that match if these are fewer.

        Args:
            packed_query: uint8, on any device.
            k: Number of neighbors, at least 1.
            where: A condition on columns that there are.
            fetch: What of the neighbors is wanted with them.
            search: Finds them if there is no condition. Exact search if `None`.
            with_ids: Whether ids are wanted, else positions: as `order`.
        """
        with self._lock:
            table = self._table
            if search is None or where or not len(table):
                distances, rows = table.nearest_rows(packed_query, k, where)
            else:
                distances, rows = search(packed_query, min(k, len(table)), table)
            values = None if fetch is None else table.take(fetch, rows)
            if not with_ids:
                return Neighbors(distances, [], table.to_positions(rows), values)
            num_queries, width = rows.shape
            return Neighbors(distances, table.ids_of(rows, [width] * num_queries), rows, values)

    def within(
        self,
        packed_query: Tensor,
        radius: int,
        where: Where,
        *,
        search: RangeSearch | None = None,
    ) -> tuple[list[Tensor], list[list[Hashable]]]:
        """Return distances, int32, and ids of all matching codes within `radius` of each query.

        Args:
            packed_query: uint8, on any device.
            radius: Largest distance, inclusive.
            where: A condition on columns that there are.
            search: Finds them. A scan if `None`.
        """
        with self._lock:
            table = self._table
            if search is None or not len(table):
                sizes, distances, rows = table.within_rows(packed_query, radius, where)
            else:
                sizes, distances, rows = search(packed_query, radius, where, table)
            parts = [distances] if len(sizes) == 1 else list(distances.split(sizes))
            return parts, table.ids_of(rows, sizes)

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def frozen(self) -> ReadWriteLock:
        return self._lock

    def _rows(self, ids: Sequence[Hashable]) -> np.ndarray:
        rows = self._table.find(ids)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            raise id_missing(ids[missing[0]])
        return rows


def in_memory(store: CodeStore) -> MemoryStore:
    """Return the store, or raise if its codes have no positions."""
    if not isinstance(store, MemoryStore):
        raise TypeError(
            "Expected codes in memory, where each has an index, got a "
            f"{type(store).__name__}: `search` finds ids in it."
        )
    return store
