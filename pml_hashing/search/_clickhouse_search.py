"""Searches in a table of ClickHouse: one scan answers many queries."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pml_hashing.search import _clickhouse_sql as sql
from pml_hashing.search._clickhouse_client import Connection
from pml_hashing.search._clickhouse_sql import Condition

MAX_SORTED = 1000  # neighbors up to which one scan serves many queries
MAX_QUERIES = 100  # of one scan
MAX_TEXT = 2**15  # bytes of their codes in a statement, which a form may take as a field
FEW_QUERIES = 2  # for which a scan each is faster than a sample and a scan
SAMPLED_FROM = 2**12  # rows from which on a sample is worth its scan
SORTING_COST = 20  # of a row, in comparisons
MAX_PLACES = 4000  # rows that are fetched by one statement
ATTEMPTS = 10  # at an answer, while other clients change what it is read from

KEY = ["place", "batch", "version"]


class Found(NamedTuple):
    """Neighbors of a query.

    Attributes:
        distances: int32.
        places: int64, in database order.
        rows: Their ids, and what else was asked for.
    """

    distances: np.ndarray
    places: np.ndarray
    rows: pa.Table


@dataclass(frozen=True)
class Search:
    """Searches by packed codes.

    Attributes:
        connection: The engine.
        table: The name of the table.
        condition: Which rows match.
    """

    connection: Connection
    table: str
    condition: Condition

    def nearest(self, queries: list[bytes], k: int, columns: Sequence[str]) -> list[Found]:
        """Return the `k` nearest rows of each query, with these columns, ties in database order."""
        if k > MAX_SORTED:
            return [self._ordered(query, k, columns) for query in queries]
        return [
            found
            for block in _blocks(queries)
            for found in self._nearest_of_block(block, k, columns)
        ]

    def within(self, queries: list[bytes], radius: int) -> Iterator[tuple[np.ndarray, list[bytes]]]:
        """Yield distances and ids of all rows within a radius of each query."""
        for block in _blocks(queries):
            source = self._source(block, ["place", "batch", "id"])
            for each in self._scan(sql.within(source, radius, len(block))):
                distances, _, _, ids = each.flatten()
                yield distances.to_numpy().astype(np.int32), ids.to_pylist()

    def _ordered(self, query: bytes, k: int, columns: Sequence[str]) -> Found:
        source = self._source([query], ["place", "batch", *dict.fromkeys(["code", *columns])])
        rows = self._rows(sql.ordered(source, k, columns))
        distances, places = rows["d0"].to_numpy().astype(np.int32), rows["place"].to_numpy()
        return Found(distances, places, rows.select(columns))

    def _nearest_of_block(
        self, queries: list[bytes], k: int, columns: Sequence[str]
    ) -> list[Found]:
        for _ in range(ATTEMPTS):
            keys = self._nearest_keys(queries, k)
            rows = self._fetch(keys, columns)
            if rows is not None:
                return rows
        raise RuntimeError(
            f"Expected table {self.table!r} to rest for a moment, got {ATTEMPTS} searches during "
            "each of which other clients merged what they had changed."
        )

    def _nearest_keys(self, queries: list[bytes], k: int) -> list[pa.StructArray]:
        """Return distances and keys of the `k` nearest rows of each query, in one state."""
        if len(queries) <= FEW_QUERIES:
            return [self._nearest_of_one(query, k) for query in queries]
        farthest = sql.farthest(len(queries[0]))
        bounds = self._bounds(queries, k, farthest)
        source = self._source(queries, KEY)
        while True:
            found = self._scan(sql.nearest(source, k, bounds))
            if min(bounds) == farthest or min(map(len, found)) >= k:
                return found
            bounds = [farthest] * len(queries)  # rows of the sample have gone meanwhile

    def _nearest_of_one(self, query: bytes, k: int) -> pa.StructArray:
        rows = self._rows(sql.ordered(self._source([query], KEY), k, KEY[1:]))
        columns = [column.combine_chunks() for column in rows.columns]
        return pa.StructArray.from_arrays(columns, names=["distance", *KEY])

    def _bounds(self, queries: list[bytes], k: int, farthest: int) -> list[int]:
        """Return for each query a distance beyond which none of its neighbors are.

        It is that of the `k`-th nearest row of a sample. Some `k * step` rows are then sorted, and
        the sample is so large that it costs as much.
        """
        count = self.connection.one(f"select count() from {self.table}")
        step = math.isqrt(count // (SORTING_COST * k))
        if count < SAMPLED_FROM or step < 2:
            return [farthest] * len(queries)
        source = self._source(queries, [], sql.one_of(step))
        found = [column[0].as_py() for column in self._rows(sql.sample(source, k, len(queries)))]
        return [int(each[-1]) if len(each) == k else farthest for each in found]

    def _fetch(self, found: list[pa.StructArray], columns: Sequence[str]) -> list[Found] | None:
        """Return columns of rows, or `None` if a version of one is merged away by now."""
        keys = pa.concat_arrays(found)
        places = keys.field(1).unique().to_pylist()
        rows = pa.concat_tables(
            self.connection.rows(
                sql.at_places(self.table, places[start : start + MAX_PLACES], columns)
            )
            for start in range(0, max(1, len(places)), MAX_PLACES)
        )
        row_of = {key: row for row, key in enumerate(zip(*_lists(rows, KEY), strict=True))}
        wanted = [
            row_of.get(key)
            for key in zip(*(part.to_pylist() for part in keys.flatten()[1:]), strict=True)
        ]
        if None in wanted:
            return None
        taken, start, tables = rows.select(columns).take(pa.array(wanted, pa.int64())), 0, []
        for each in found:
            distances, place = each.field(0).to_numpy(), each.field(1).to_numpy()
            part = taken.slice(start, len(each))
            tables.append(Found(distances.astype(np.int32), place, part))
            start += len(each)
        return tables

    def _source(self, queries: list[bytes], columns: Sequence[str], sample: str = "1") -> str:
        return sql.rows(self.table, f"{self.condition.sql} and {sample}", columns, queries)

    def _scan(self, statement: str) -> list[pa.StructArray]:
        """Return the arrays of a scan, one for each query."""
        return [column.combine_chunks().flatten() for column in self._rows(statement).columns]

    def _rows(self, statement: str) -> pa.Table:
        return self.connection.rows(statement, self.condition.bound)


def _lists(rows: pa.Table, columns: Sequence[str]) -> Iterator[list[int]]:
    return (rows[name].to_pylist() for name in columns)


def _blocks(queries: list[bytes]) -> Iterator[list[bytes]]:
    """Yield so many queries at a time that their statement is not too long."""
    size = max(1, min(MAX_QUERIES, MAX_TEXT // len(queries[0]))) if queries else 1
    for start in range(0, len(queries), size):
        yield queries[start : start + size]
