"""The table of a new state, while a sync fills it."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from pml_hashing.codes import pack
from pml_hashing.collection import database_sql as sql
from pml_hashing.collection.file_records import DIGEST, Files
from pml_hashing.collection.state import Images
from pml_hashing.search import _clickhouse_sql as store_sql
from pml_hashing.search._clickhouse_client import Connection, settings_of
from pml_hashing.search._clickhouse_rows import new_rows, to_columns
from pml_hashing.search._clickhouse_sql import METADATA, Schema
from pml_hashing.search.store import Records, check_types, type_of

CAST_TO: dict[type, tuple[type, ...]] = {float: (int,)}  # by the engine, of what it copies


class DatabaseDraft:
    """A new table of images, which nobody reads yet.

    Args:
        connection: The engine.
        table: Its name.
        schema: What it is to hold.
        columns: The columns of metadata, and what is known of their types.
    """

    def __init__(
        self,
        connection: Connection,
        table: str,
        schema: Schema,
        columns: Mapping[str, type | None],
    ) -> None:
        self._connection, self.table, self._cluster = connection, table, schema.cluster
        self._vectors, self._kinds = schema.with_vectors, dict[str, type | None]()
        database = "" if schema.cluster is None else connection.database
        connection.run(sql.create_state(table, schema, database))
        self._add_columns(columns)

    def add(self, images: Images) -> None:
        """Insert images that are new or changed.

        Raises:
            TypeError: If a value of metadata is not of the type of its column.
        """
        check_types(self._kinds, images.metadata)
        self._add_columns({name: type_of(values) for name, values in images.metadata.items()})
        rows = new_rows(images.names, images.rows.astype(np.int64), 0) | _columns_of(images.files)
        records = self._records(images)
        rows |= to_columns(records, self._kinds, with_vectors=self._vectors)
        self._connection.insert(self.table, pa.table(rows), self._cluster)

    def copy(
        self, old: str, kinds: Mapping[str, type | None], places: np.ndarray, held: np.ndarray
    ) -> None:
        """Take over images as they are held, without fetching them.

        Args:
            old: The table of the state before.
            kinds: Its columns of metadata and their types.
            places: Where the images are in the new state, ascending.
            held: Where they are in the old one, ascending.
        """
        starts = np.flatnonzero(np.diff(places, prepend=-2) - 1 | np.diff(held, prepend=-2) - 1)
        stops = np.append(starts[1:], len(places)) - 1
        runs = {
            "start": pa.array(held[starts]),
            "stop": pa.array(held[stops] + 1),
            "shift": pa.array(places[starts] - held[starts]),
            "zero": pa.array(np.zeros(len(starts), np.uint8)),
        }
        metadata = [
            METADATA + name
            for name, kind in self._kinds.items()
            if kind is not None and kinds.get(name) in {kind, *CAST_TO.get(kind, ())}
        ]
        vector = ["vector"] if self._vectors else []
        columns = ["id", "code", *vector, *sql.FILE, *sql.CONTENT, *metadata]
        with self._connection.beside(pa.table(runs), sql.RUNS) as wanted:
            statement = sql.copy(self.table, old, wanted.sql, columns)
            settings = settings_of(self._cluster)
            self._connection.run([statement], settings=settings, **wanted.options)

    def finish(self, count: int) -> None:
        """Check that all images are there, and forget the types of columns without values.

        All servers of a cluster have them then: whoever is told of the state finds it whole.

        Raises:
            RuntimeError: If they are not.
        """
        self._connection.run(store_sql.wait(self.table, self._cluster))
        typed = [name for name, kind in self._kinds.items() if kind is not None]
        counts = ", ".join(["count()", *(f"count(`{METADATA}{name}`)" for name in typed)])
        found = self._connection.rows(f"select {counts} from {self.table}")
        held, *values = (column[0].as_py() for column in found.columns)
        if held != count:
            raise RuntimeError(f"Expected {count} images in {self.table!r}, got {held}.")
        for name, num_values in zip(typed, values, strict=True):
            if not num_values:
                self._connection.run(sql.without_type(self.table, self._cluster, name))

    def _add_columns(self, kinds: Mapping[str, type | None]) -> None:
        """Add columns that are new, and types that are."""
        self._connection.run(store_sql.add_columns(self.table, self._cluster, kinds, self._kinds))
        for name, kind in kinds.items():
            self._kinds[name] = self._kinds.get(name) or kind

    def _records(self, images: Images) -> Records:
        codes = torch.from_numpy(images.codes)
        packed_codes, vectors = (pack(codes), codes) if self._vectors else (codes, None)
        return Records(list(images.names), packed_codes, vectors, images.metadata)


def _columns_of(files: Files) -> dict[str, pa.Array]:
    numbers = dict(zip(sql.FILE, files.states.T, strict=True))
    numbers |= dict(zip(sql.CONTENT[1:], files.sizes.T, strict=True))
    columns = {name: pa.array(np.ascontiguousarray(values)) for name, values in numbers.items()}
    digests = [digest.tobytes() for digest in files.digests]
    return columns | {"digest": pa.array(digests, pa.binary(DIGEST))}
