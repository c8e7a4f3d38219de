"""Codes in ClickHouse: in a folder that this process opens, on a server, or over a cluster."""

import secrets
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pml_hashing.codes import packed_length
from pml_hashing.search import _clickhouse_sql as sql
from pml_hashing.search._clickhouse_client import Connection, TableState
from pml_hashing.search._clickhouse_rows import (
    columns_of,
    new_rows,
    next_version,
    to_codes,
    to_columns,
    to_ids,
    to_records,
    to_text,
    to_vectors,
)
from pml_hashing.search._clickhouse_search import Found, Search
from pml_hashing.search._clickhouse_sql import Schema
from pml_hashing.search._ids import is_int64
from pml_hashing.search._read_write_lock import ReadWriteLock
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
    type_of,
)

FETCHED = {"packed_codes": ("code", to_codes), "vectors": ("vector", to_vectors)}


class ClickHouseStore(CodeStore):
    """Codes in a table of [ClickHouse](https://clickhouse.com), for more than one machine holds.

    The engine compares packed codes bit by bit and returns exact neighbors, ties in database
    order. It runs in this process and keeps a folder (`chdb:///folder`: one process at a time), or
    it is a server, or a cluster of them, which any number of processes share. What is there already
    is opened, and nothing of it is loaded.

    **Changes** are rows with a higher version (`ReplacingMergeTree`), inserted at once: after a
    kill at any moment a change is there wholly or not at all. Threads of one process see one state
    in each search, and so do clients of a server. Of two clients that add the same id at the same
    moment at most one succeeds, and the other gets the error of an id that is held. Of two that
    update the same code, the later one's stays.

    Needs the extra `pml-hashing[clickhouse]`.

    Args:
        dsn: `chdb:///folder`, or `clickhouse://user:password@host:8123/database`; or a connection
            that is there already.
        table: The table, which the first codes make. Nothing but `clear` drops it.
        cluster: The name of a cluster, of which the server is one. A new table is spread over its
            shards.
        unchanging: Whether nobody changes the table any more: what it is is read once.
        options: Other arguments of `clickhouse_connect.get_client`.

    Raises:
        ConnectionError: If no server answers. All methods raise it, and work again when one does.
        OSError: If the folder is open in another process, or another folder is in this one.
        ValueError: If `dsn` or a name is none, the table is another's, or there is a cluster and
            no server.

    Examples:
        >>> import tempfile, torch
        >>> from pml_hashing.search import ClickHouseStore, HammingKNN
        >>> store = ClickHouseStore(f"chdb://{tempfile.mkdtemp()}", "animals")
        >>> knn = HammingKNN(store=store)
        >>> codes = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.5, 2.0]])
        >>> knn.add(codes, ids=["cat", "dog", "cow"], legs=[4, 4, 4], farm=[0, 0, 1])
        >>> knn.search(torch.tensor([[0.1, 0.2, 0.3]]), k=2, where={"farm": 0})
        (tensor([[0, 2]], dtype=torch.int32), [['dog', 'cat']])
        >>> knn.close()
    """

    def __init__(
        self,
        dsn: str | Connection,
        table: str = "codes",
        *,
        cluster: str | None = None,
        unchanging: bool = False,
        **options: Any,
    ) -> None:
        sql.check_name(table, "table")
        self.table, self._cluster = table, cluster
        self._connection = dsn if isinstance(dsn, Connection) else Connection(dsn, **options)
        self._connection.check_cluster(cluster)
        kept = TableState(table, is_kept=True) if unchanging else None
        self._state = kept or self._connection.state(table)
        self._schema()

    @property
    def code_length(self) -> int | None:
        schema = self._schema()
        return None if schema is None else schema.code_length

    @property
    def with_vectors(self) -> bool:
        schema = self._schema()
        return schema is not None and schema.with_vectors

    @property
    def columns(self) -> dict[str, type | None]:
        schema = self._schema()
        return {} if schema is None else dict(schema.columns)

    @property
    def next_id(self) -> int:
        schema = self._schema()
        return 0 if schema is None else self._next_id(schema)

    def count(self, where: Where) -> int:
        with self._lock:
            schema = self._schema()
            return 0 if schema is None else self._count(schema, where)

    def prepare(self, code_length: int, *, with_vectors: bool, next_id: int = 0) -> None:
        with self._lock.writing():
            wanted = Schema(code_length, with_vectors, next_id, self._cluster)
            schema = self._schema() or self._created(wanted)
            if (schema.code_length, schema.with_vectors) != (code_length, with_vectors):
                if self._count(schema, {}):
                    raise other_kind(code_length, schema.code_length, with_vectors)
                wanted = replace(wanted, cluster=schema.cluster)
                self._alter(self._create(wanted, replace=True))
            elif next_id > self._next_id(schema):
                self._note_next_id(schema, next_id)

    def append(self, records: Records) -> None:
        with self._lock.writing():
            schema = self._held_schema()
            check_types(dict(schema.columns), records.metadata)
            if not len(records.packed_codes):
                return
            if records.ids:
                if self._last_place() is not None:
                    self._check_new(records.ids)
                self._note_beyond(schema, records.ids)
                schema = self._with_columns(schema, records)
                taken = self._insert_new(schema, records.ids, records)
                if taken is not None:
                    raise id_held(taken)
                return
            schema = self._with_columns(schema, records)
            while self._insert_numbered(schema, records) is not None:
                schema = self._held_schema()  # another client has taken the same numbers

    def replace(self, records: Records) -> None:
        with self._lock.writing():
            if not records.ids:
                return
            held, schema = self._rows_of(records.ids, ["*"]), self._held_schema()
            check_types(dict(schema.columns), records.metadata)
            schema = self._with_columns(schema, records)
            changed = to_columns(records, dict(schema.columns), with_vectors=schema.with_vectors)
            kept = {name: held[name] for name in held.column_names}
            self._insert(schema, kept | changed | next_version(held, gone=False))

    def remove(self, ids: Sequence[Hashable]) -> None:
        with self._lock.writing():
            if ids:
                held = self._rows_of(ids, ["place", "batch", "version", "id"])
                self._insert_removed(self._held_schema(), held)

    def clear(self) -> None:
        with self._lock.writing():
            schema = self._schema()
            if schema is not None:
                self._alter(sql.drop(self.table, schema.cluster))

    def get(self, ids: Sequence[Hashable]) -> Records:
        with self._lock:
            schema = self._schema()
            if ids:
                rows = self._rows_of(ids, [] if schema is None else columns_of(schema))
                return to_records(rows, self._held_schema() if schema is None else schema)
            width = 0 if schema is None else packed_length(schema.code_length)
            return Records([], torch.empty(0, width, dtype=torch.uint8, device="cpu"), None, {})

    def contains(self, id_: Hashable) -> bool:
        with self._lock:
            return self._schema() is not None and self._find([id_], ["1"]).num_rows > 0

    def batches(self, size: int) -> Iterator[Records]:
        place, batch = 0, 0
        while (schema := self._schema()) is not None:
            columns = ["place", "batch", *columns_of(schema)]
            rows = self._connection.rows(sql.page(self.table, columns, place, batch, size))
            if not rows.num_rows:
                return
            place, batch = (rows[name][-1].as_py() for name in ("place", "batch"))
            yield to_records(rows, schema)

    def nearest(
        self, packed_query: Tensor, k: int, where: Where, *, fetch: Fetched | None = None
    ) -> Neighbors:
        columns = ["id"] if fetch is None else ["id", FETCHED[fetch][0]]
        with self._lock:
            found = self._search(where).nearest(_to_bytes(packed_query), k, columns)
        return _to_neighbors(found, fetch, packed_query.device)

    def within(
        self, packed_query: Tensor, radius: int, where: Where
    ) -> tuple[list[Tensor], list[list[Hashable]]]:
        with self._lock:
            found = list(self._search(where).within(_to_bytes(packed_query), radius))
        device = packed_query.device
        distances = [torch.from_numpy(distances).to(device) for distances, _ in found]
        return distances, [to_ids(texts) for _, texts in found]

    def frozen(self) -> ReadWriteLock:
        """Return a context in which no thread of this process changes what is held."""
        return self._lock

    def optimize(self) -> None:
        """Merge the versions of changed codes, and drop removed ones, on disk.

        The engine merges in its own time too. After many changes searches are faster once it has.
        """
        with self._lock.writing():
            schema = self._schema()
            if schema is not None:
                self._note_next_id(schema, self._next_id(schema))  # which removed ids still tell
                self._connection.run([sql.optimize(self.table, schema.cluster)])

    def close(self) -> None:
        self._connection.close()

    @property
    def _lock(self) -> ReadWriteLock:
        return self._state.lock

    def _schema(self) -> Schema | None:
        """Return what the table is, or `None` if there is none."""
        return self._state.schema(self._connection)

    def _held_schema(self) -> Schema:
        schema = self._schema()
        if schema is None:
            raise RuntimeError(f"Expected a table {self.table!r}, got none: it was dropped.")
        return schema

    def _created(self, wanted: Schema) -> Schema:
        self._alter(self._create(wanted))
        return self._held_schema()

    def _create(self, wanted: Schema, *, replace: bool = False) -> list[str]:
        database = "" if wanted.cluster is None else self._connection.database
        return sql.create(self.table, wanted, database=database, replace=replace)

    def _alter(self, statements: Sequence[str]) -> None:
        try:
            self._connection.run(statements)
        finally:
            self._state.forget()

    def _count(self, schema: Schema, where: Where) -> int:
        matching, bound = sql.condition(where, dict(schema.columns))
        return self._connection.one(
            f"select count() from {self.table} final where {matching}", bound
        )

    def _next_id(self, schema: Schema) -> int:
        last = self._connection.one(f"select maxOrNull(number) from {self.table}")
        return max(schema.next_id, 0 if last is None else last + 1)

    def _note_next_id(self, schema: Schema, next_id: int) -> None:
        self._alter(sql.note(self.table, replace(schema, next_id=next_id)))

    def _note_beyond(self, schema: Schema, ids: Sequence[Hashable]) -> None:
        """Note the next automatic id where an id is no integer of 64 bits."""
        beyond = (id_ for id_ in ids if isinstance(id_, int) and not is_int64(id_ + 1))
        next_id = 1 + max(beyond, default=-1)
        if next_id > schema.next_id:
            self._note_next_id(schema, next_id)

    def _last_place(self) -> int | None:
        return self._connection.one(sql.last_place(self.table))

    def _check_new(self, ids: Sequence[Hashable]) -> None:
        held = set(self._find(ids, ["id"])["id"].to_pylist())
        for id_ in ids if held else ():
            if to_text(id_) in held:
                raise id_held(id_)

    def _with_columns(self, schema: Schema, records: Records) -> Schema:
        """Add the columns of metadata that are new, and return what the table is then."""
        kinds = {name: type_of(values) for name, values in records.metadata.items()}
        known = dict(schema.columns)
        statements = sql.add_columns(self.table, schema.cluster, kinds, known)
        if not statements:
            return schema
        self._alter(statements)
        return self._held_schema()

    def _insert_new(
        self, schema: Schema, ids: Sequence[Hashable], records: Records
    ) -> Hashable | None:
        """Insert codes, and return an id that another client has added meanwhile, if there is one.

        Nothing is inserted then. Of two clients the one whose rows came last sees the other's, so
        that no id stays twice.
        """
        batch, kinds = secrets.randbits(63), dict(schema.columns)
        last = self._last_place()
        first = 1 if last is None else last + 1
        rows = new_rows(ids, np.arange(first, first + len(ids)), batch)
        codes = to_columns(records, kinds, with_vectors=schema.with_vectors)
        self._insert(schema, rows | codes)
        if self._connection.embedded:  # no other process has it open
            return None
        with self._connection.wanted(rows["id"].to_pylist()) as wanted:
            taken = self._connection.one(sql.taken(self.table, wanted.sql, batch), **wanted.options)
        if taken is None:
            return None
        self._insert_removed(schema, pa.table(rows))
        return to_ids([taken])[0]

    def _insert_numbered(self, schema: Schema, records: Records) -> Hashable | None:
        """Insert codes under the next integers, and return what `_insert_new` does."""
        first = self._next_id(schema)
        ids = range(first, first + len(records.packed_codes))
        self._note_beyond(schema, ids[-1:])
        return self._insert_new(schema, ids, records)

    def _insert_removed(self, schema: Schema, held: pa.Table) -> None:
        rows = {name: held[name] for name in ("place", "batch", "id")}
        self._insert(schema, rows | next_version(held, gone=True))

    def _insert(self, schema: Schema, rows: Mapping[str, pa.Array]) -> None:
        self._connection.insert(self.table, pa.table(dict(rows)), schema.cluster)

    def _rows_of(self, ids: Sequence[Hashable], columns: Sequence[str]) -> pa.Table:
        """Return rows in the order of their ids.

        Raises:
            ValueError: If an id is not held.
        """
        if self._schema() is None:
            raise id_missing(ids[0])
        found = self._find(ids, columns)
        row_of = {text: row for row, text in enumerate(found["id"].to_pylist())}
        rows = [row_of.get(to_text(id_)) for id_ in ids]
        if None in rows:
            raise id_missing(ids[rows.index(None)])
        return found.take(pa.array(rows))

    def _find(self, ids: Sequence[Hashable], columns: Sequence[str]) -> pa.Table:
        with self._connection.wanted([to_text(id_) for id_ in ids]) as wanted:
            statement = sql.of_ids(self.table, columns, wanted.sql)
            return self._connection.rows(statement, **wanted.options)

    def _search(self, where: Where) -> Search:
        condition = sql.condition(where, self.columns if where else {})
        return Search(self._connection, self.table, condition)


def _to_bytes(packed_query: Tensor) -> list[bytes]:
    return [query.tobytes() for query in packed_query.cpu().numpy()]


def _to_neighbors(found: list[Found], fetch: Fetched | None, device: torch.device) -> Neighbors:
    """Return what was found of all queries: as many of each, should a client have added some."""
    width = min((len(each.places) for each in found), default=0)
    distances = [torch.from_numpy(each.distances[:width]) for each in found]
    order = [torch.from_numpy(each.places[:width].copy()) for each in found]
    values = None
    if fetch is not None and width:
        column, convert = FETCHED[fetch]
        rows = [convert(each.rows[column].slice(0, width)) for each in found]
        values = torch.stack(rows).to(device)
    ids = [to_ids(each.rows["id"].slice(0, width).to_pylist()) for each in found]
    return Neighbors(
        _stacked(distances, torch.int32).to(device),
        ids,
        _stacked(order, torch.int64).to(device),
        values,
    )


def _stacked(rows: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack(rows) if rows else torch.empty(0, 0, dtype=dtype, device="cpu")
