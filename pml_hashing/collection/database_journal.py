"""Codes of a sync that is under way, in a table beside those of the collection."""

from collections.abc import Collection
from typing import Self

import pyarrow as pa

from pml_hashing.collection import database_sql as sql
from pml_hashing.collection.encoded import Encoded
from pml_hashing.collection.file_records import DIGEST
from pml_hashing.collection.files import Content
from pml_hashing.collection.storage import Journal
from pml_hashing.search import _clickhouse_sql as store_sql
from pml_hashing.search._clickhouse_client import Connection


class DatabaseJournal(Journal):
    """A table of codes that are inserted as they come.

    Args:
        connection: The engine.
        table: The collection.
        model: Tells what the codes are of: a fingerprint.
        cluster: Over which the table is spread, if it is.
    """

    def __init__(self, connection: Connection, table: str, model: str, cluster: str | None) -> None:
        self._connection, self._table, self._cluster = connection, f"{table}_encoded", cluster
        self._model, self._bound = model, {"model": model}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave what was inserted. All servers of a cluster have it then."""
        self._connection.run(store_sql.wait(self._table, self._cluster))

    def append(self, encoded: list[Encoded]) -> None:
        if not encoded:
            return
        digests, *sizes = zip(*(each.content for each in encoded), strict=True)
        columns: dict[str, pa.Array] = {}
        columns |= zip(sql.CONTENT[1:], map(pa.array, sizes), strict=True)
        columns["digest"] = pa.array(digests, pa.binary(DIGEST))
        columns["code"] = pa.array([each.code for each in encoded], pa.binary())
        columns["model"] = pa.array([self._model.encode("ascii")] * len(encoded), pa.binary())
        self._connection.insert(self._table, pa.table(columns), self._cluster)

    def sizes_among(self, sizes: Collection[int]) -> set[int]:
        statement = sql.sizes_among(self._table, list(sizes), sql.OF_MODEL)
        return set(self._connection.rows(statement, self._bound)["bytes"].to_pylist())

    def known(self, digests: Collection[bytes]) -> dict[bytes, Encoded]:
        if not digests:
            return {}
        columns = [*sql.CONTENT, "code"]
        with self._connection.beside_bytes("digest", digests, DIGEST) as wanted:
            statement = sql.known(self._table, columns, wanted.sql, sql.OF_MODEL)
            options = dict(wanted.options)
            found = self._connection.rows(statement, self._bound, **options)
        rows = zip(*(found[column].to_pylist() for column in columns), strict=True)
        return {content[0]: Encoded(Content(*content), code) for *content, code in rows}

    def remove(self) -> None:
        if self._connection.one(f"select count() from {self._table}"):
            self._connection.run([sql.forget_encoded(self._table, self._cluster)])
