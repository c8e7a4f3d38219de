"""One state of a collection in a database: a table that nobody changes any more."""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pml_hashing.codes import packed_length
from pml_hashing.collection import database_sql as sql
from pml_hashing.collection.encoded import Encoded
from pml_hashing.collection.file_records import DIGEST, Unreadable
from pml_hashing.collection.files import Content
from pml_hashing.collection.labels import Metadata, Row, by_name
from pml_hashing.collection.manifest import Manifest, whole
from pml_hashing.collection.state import CodedImages, DistinctCodes, Rerank, Rows, State
from pml_hashing.search import ClickHouseStore, HammingKNN
from pml_hashing.search._clickhouse_client import Connection
from pml_hashing.search._clickhouse_rows import to_codes, to_ids, to_metadata, to_text, to_vectors
from pml_hashing.search._clickhouse_sql import METADATA
from pml_hashing.search.store import GoneError, Value

MAX_PLACES = 4000  # rows that one statement names
DENSE = 4  # rows are read as one range that has at most so many times as many


class DatabaseState(State):
    """One state of a collection in a database. Nothing of it is loaded.

    Args:
        connection: The engine.
        table: The collection.
        number: Of the writer that made the state.
        images: The table of the images.
        manifest: What the collection is.
        place: What it is called in messages.

    Raises:
        GoneError: If there is no such table any more.
    """

    def __init__(
        self,
        connection: Connection,
        table: str,
        number: int,
        images: str,
        manifest: Manifest,
        place: str,
    ) -> None:
        super().__init__(manifest, place)
        self.number, self.images = number, images
        self._connection, self._table = connection, table
        self._store = None
        if manifest.count:
            self._store = ClickHouseStore(connection, images, unchanging=True)
            if self._store.code_length is None:
                raise GoneError(f"Expected a table {images!r} at {place}, got none.")

    @property
    def columns(self) -> dict[str, type | None]:
        return {} if self._store is None else self._store.columns

    @property
    def unreadable(self) -> list[Unreadable]:
        text = self._connection.one(
            f"select unreadable from {self._table} where number = {self.number}"
        )
        if text is None:
            raise GoneError(f"Expected the state {self.number} of {self.place}, got later ones.")
        with whole(self._table):
            return [Unreadable.of(record) for record in json.loads(text)]

    def knn(self, rerank: Rerank | None = None, num_candidates: int = 100) -> HammingKNN:
        options: dict[str, Any] = {"rerank": rerank, "num_candidates": num_candidates}
        return HammingKNN(code_length=self.manifest.code_length, store=self._store, **options)

    def names(self, rows: Rows) -> list[str]:
        return _names(self._at(rows, ["id"]))

    def rows(self, names: Sequence[str]) -> np.ndarray:
        if self._store is None or not names:
            return np.full(len(names), -1)
        found = self._of_names(names, ["place"])
        row_of = dict(zip(_names(found), found["place"].to_pylist(), strict=True))
        return np.array([row_of.get(name, -1) for name in names], np.int64)

    def states(self, rows: Rows) -> np.ndarray:
        return _integers(self._at(rows, sql.FILE), sql.FILE)

    def contents(self, rows: Rows) -> list[Content]:
        return _contents(self._at(rows, sql.CONTENT))

    def metadata(self, rows: Rows) -> Metadata:
        kinds = self.columns
        return to_metadata(self._at(rows, [f"`{METADATA}{name}`" for name in kinds]), kinds)

    def metadata_of(self, names: Sequence[str]) -> dict[str, Row]:
        if self._store is None or not names:
            return {}
        kinds = self.columns
        found = self._of_names(names, [f"`{METADATA}{column}`" for column in kinds])
        rows = by_name(_names(found), to_metadata(found, kinds))
        return {name: rows[name] for name in names if name in rows}

    def codes(self, rows: Rows) -> np.ndarray:
        return _codes(self._at(rows, ["code"])) if len(rows) else self._no_codes

    def vectors(self, rows: Rows) -> np.ndarray:
        return to_vectors(self._at(rows, ["vector"])["vector"]).numpy()

    def sizes_among(self, sizes: Collection[int]) -> set[int]:
        if self._store is None:
            return set()
        found = self._connection.rows(sql.sizes_among(self.images, list(sizes)))
        return set(found["bytes"].to_pylist())

    def known(self, digests: Collection[bytes]) -> dict[bytes, Encoded]:
        if self._store is None or not digests:
            return {}
        column = "vector" if self.manifest.vectors else "code"
        with self._connection.beside_bytes("digest", digests, DIGEST) as wanted:
            statement = sql.known(self.images, [*sql.CONTENT, column], wanted.sql)
            found = self._connection.rows(statement, **wanted.options)
        if not found.num_rows:
            return {}
        vectors = self.manifest.vectors
        codes = to_vectors(found["vector"]).numpy() if vectors else _codes(found)
        pairs = zip(_contents(found), codes, strict=True)
        return {content.digest: Encoded(content, code.tobytes()) for content, code in pairs}

    def value_counts(self, column: str) -> Mapping[Value, int]:
        name = f"`{METADATA}{column}`"
        found = self._connection.rows(
            f"select {name}, count() as n from {self.images} group by {name}"
        )
        values = to_metadata(found, {column: self.columns[column]})[column]
        return dict(zip(values, found["n"].to_pylist(), strict=True))

    def distinct_codes(self) -> DistinctCodes:
        if self._store is None:
            return DistinctCodes(self._no_codes, np.empty(0, np.int64))
        found = self._connection.rows(
            f"select code, count() as n from {self.images} group by code order by code"
        )
        return DistinctCodes(_codes(found), found["n"].to_numpy())

    def with_codes(self, codes: np.ndarray) -> CodedImages:
        rows = [code.tobytes() for code in codes]
        with self._connection.beside_bytes("code", rows, codes.shape[1]) as wanted:
            found = self._connection.rows(
                f"select id, code, {', '.join(sql.CONTENT)} from {self.images} "
                f"where code in (select code from {wanted.sql}) order by place",
                **wanted.options,
            )
        return CodedImages(_names(found), _codes(found), _contents(found))

    def prepare(self) -> None:
        """Read nothing: searches ask the database."""

    @cached_property
    def _no_codes(self) -> np.ndarray:
        return np.empty((0, packed_length(self.manifest.code_length)), np.uint8)

    def _of_names(self, names: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Return ids and columns of those images that there are, in any order."""
        chosen = ", ".join(["id", *columns])
        with self._connection.wanted(list({to_text(name) for name in names})) as wanted:
            statement = f"select {chosen} from {self.images} where id in {wanted.sql}"
            return self._connection.rows(statement, **wanted.options)

    def _at(self, rows: Rows, columns: Sequence[str]) -> pa.Table:
        """Return columns of images, in the order of their rows."""
        places = np.asarray(rows, np.int64)
        if self._store is None or not len(places) or not columns:
            plain = [column.strip("`") for column in columns]
            return pa.table({column: pa.array([], pa.binary()) for column in plain})
        start, stop = int(places.min()), int(places.max()) + 1
        if stop - start <= DENSE * len(places):
            conditions = [f"place >= {start} and place < {stop}"]
        else:
            blocks = np.array_split(places, -(-len(places) // MAX_PLACES))
            conditions = [f"place in ({', '.join(map(str, block.tolist()))})" for block in blocks]
        chosen = ", ".join(["place", *columns])
        found = pa.concat_tables(
            self._connection.rows(f"select {chosen} from {self.images} where {condition}")
            for condition in conditions
        )
        held = found["place"].to_numpy()
        order = held.argsort()
        at = np.searchsorted(held, places, sorter=order)
        if len(held) < 1 or (held[order[np.minimum(at, len(held) - 1)]] != places).any():
            raise ValueError(f"Expected all images in {self.images!r} at {self.place}, got fewer.")
        return found.take(pa.array(order[at]))


def _names(found: pa.Table) -> list[str]:
    return list(map(str, to_ids(found["id"].to_pylist())))


def _codes(found: pa.Table) -> np.ndarray:
    return to_codes(found["code"]).numpy()


def _integers(found: pa.Table, columns: Sequence[str]) -> np.ndarray:
    if not found.num_rows:
        return np.empty((0, len(columns)), np.int64)
    return np.stack([found[column].to_numpy() for column in columns], axis=1)


def _contents(found: pa.Table) -> list[Content]:
    columns = (found[column].to_pylist() for column in sql.CONTENT)
    return [Content(*values) for values in zip(*columns, strict=True)]
