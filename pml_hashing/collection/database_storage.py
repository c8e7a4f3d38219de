"""A collection in ClickHouse: a table for each state, and one that tells the present state."""

import json
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pml_hashing.collection import database_sql as sql
from pml_hashing.collection.database_draft import DatabaseDraft
from pml_hashing.collection.database_journal import DatabaseJournal
from pml_hashing.collection.database_state import DatabaseState
from pml_hashing.collection.file_records import Unreadable
from pml_hashing.collection.lease import Lease
from pml_hashing.collection.manifest import Manifest
from pml_hashing.collection.state import Change, State
from pml_hashing.collection.storage import Model, Storage
from pml_hashing.search import _clickhouse_sql as store_sql
from pml_hashing.search._clickhouse_client import Connection, settings_of
from pml_hashing.search._clickhouse_sql import Schema
from pml_hashing.search.store import GoneError


class Present(NamedTuple):
    """What the present state is.

    Attributes:
        number: Of the writer that made it.
        images: The table of its images, or nothing if there are none.
        before: That of the state before.
        manifest: What the collection is.
    """

    number: int
    images: str
    before: str
    manifest: Manifest


class DatabaseStorage(Storage):
    """A collection in a database.

    The present state is the last row of the table, by the number of the writer. A sync fills a
    table that nobody knows, and then inserts such a row, unless a later writer has come. The table
    of the state before is kept for those who still read it. All others are of syncs that were
    killed, and the next writer drops them.

    Args:
        dsn: `chdb:///folder`, or `clickhouse://user:password@host:8123/database`.
        table: The name of the collection.
        model_folder: Where its model is. In the folder of an engine in this process, if `None`.
        cluster: The name of a cluster, over which a new collection is spread.

    Raises:
        ConnectionError: If no server answers.
        OSError: If the folder is open in another process, or another folder is in this one.
        ValueError: If `dsn`, `table` or `cluster` is none, the folder of the model of a server is
            not given, or there is a cluster and no server.
    """

    def __init__(
        self, dsn: str, table: str, model_folder: Path | None, cluster: str | None = None
    ) -> None:
        sql.check_table(table)
        self._connection, self._table, self.name = Connection(dsn), table, table
        self._connection.check_cluster(cluster)
        self._wanted_cluster = cluster
        place, embedded = self._connection.place, self._connection.embedded
        self.place = f"table {table!r} at {place}"
        if model_folder is None and not embedded:
            raise ValueError(
                "Expected `model_folder`, where the model of a collection on a server is on this "
                "machine, got None."
            )
        self.model_folder = model_folder or Path(place) / f"{table}.model"
        self._owns_model = model_folder is None
        self.folder = Path(place) if embedded else self.model_folder
        self._lease: Lease | None = None

    @property
    def cluster(self) -> str | None:
        """The name of the cluster over which it is spread, if it is."""
        if self._connection.embedded:
            return None
        found = self._connection.one(sql.CLUSTER_OF, {"table": self._table})
        return found.decode() or None if found else None

    def check_new(self) -> None:
        if not self._connection.is_made:
            return
        columns = self._connection.rows(sql.IS_TABLE, {"table": self._table})["name"].to_pylist()
        if columns and [column.decode() for column in columns] != list(sql.PRESENT):
            raise FileExistsError(f"Expected `table` of no other kind, got {self.place}.")
        if columns and self._present() is not None:
            raise FileExistsError(
                f"Expected no collection at {self.place}, got one: `open` opens it."
            )
        if columns and self.cluster != self._wanted_cluster:
            raise FileExistsError(
                f"Expected {self.place} to be new or spread over {self._wanted_cluster}, got "
                f"tables spread over {self.cluster}, left by a `create` that was killed: drop them."
            )

    def create(self, manifest: Manifest, model: Model) -> None:
        self.check_new()
        database = "" if self._wanted_cluster is None else self._connection.database
        self._connection.run(sql.create(self._table, self._wanted_cluster, database))
        with self.writing(0) as lease:
            self.check_new()
            self._save(model)
            self._make_present(lease, Present(lease.number, "", "", manifest), [])

    def read_manifest(self) -> Manifest:
        return self._held().manifest

    def read(self) -> DatabaseState:
        while True:
            present = self._held()
            try:
                return self._state(present)
            except GoneError:
                if self._held() == present:
                    raise

    def latest(self, state: State) -> State:
        present = self._held()
        is_same = isinstance(state, DatabaseState) and state.number == present.number
        return state if is_same else self.read()

    @contextmanager
    def writing(self, timeout: float) -> Iterator[Lease]:
        lease = Lease(self._connection, self._table, self.place, self.cluster)
        with lease.held(timeout):
            self._lease = lease
            try:
                self._connection.run(sql.caught_up(self._table, lease.cluster))
                present = self._present()
                if present is not None:
                    self._drop_others(lease, present)
                yield lease
            finally:
                self._lease = None

    def journal(self, manifest: Manifest) -> DatabaseJournal:
        return DatabaseJournal(self._connection, self._table, manifest.model, self.cluster)

    def commit(self, state: State, change: Change) -> State:
        lease = self._lease
        if lease is None or not isinstance(state, DatabaseState):
            raise RuntimeError(f"Expected to write to {self.place}, got no lease of it.")
        try:
            images = self._fill(lease, state, change) if change.names else ""
            present = Present(lease.number, images, state.images, change.manifest)
            self._make_present(lease, present, change.unreadable)
        except GoneError:  # whoever took over has dropped it
            lease.check()
            raise
        self._drop_others(lease, present)
        return self._state(present)

    def tidy(self, state: State) -> None:
        """Do nothing: `writing` drops what a killed sync has left."""

    def close(self) -> None:
        self._connection.close()

    def _fill(self, lease: Lease, state: DatabaseState, change: Change) -> str:
        """Return a new table of all images."""
        table = f"{self._table}_state_{lease.number}_{secrets.token_hex(8)}"
        manifest = change.manifest
        schema = Schema(manifest.code_length, manifest.vectors, cluster=lease.cluster)
        draft = DatabaseDraft(self._connection, table, schema, change.columns)
        for images in change.images:
            draft.add(images)
        if len(change.held):
            kept = np.flatnonzero(change.kept)
            draft.copy(state.images, state.columns, kept, change.held)
        draft.finish(len(change.names))
        return table

    def _held(self) -> Present:
        present = self._present()
        if present is None:
            raise FileNotFoundError(
                f"Expected a collection at {self.place}, got none: `Collection.create` makes one."
            )
        return present

    def _present(self) -> Present | None:
        try:
            found = self._connection.rows(sql.present(self._table, sql.PRESENT[:4]))
        except GoneError:
            return None
        if not found.num_rows:
            return None
        row = found.to_pylist()[0]
        manifest = Manifest.of(row["manifest"], self.place)
        return Present(row["number"], row["state"].decode(), row["before"].decode(), manifest)

    def _state(self, present: Present) -> DatabaseState:
        return DatabaseState(
            self._connection,
            self._table,
            present.number,
            present.images,
            present.manifest,
            self.place,
        )

    def _make_present(self, lease: Lease, present: Present, unreadable: list[Unreadable]) -> None:
        """Make a state the present one, unless another writer has come: the engine looks.

        Raises:
            GoneError: If another writer has come, and has dropped the table of the images.
            TimeoutError: If another writer has come.
        """
        values = present.images, present.before, present.manifest.text, json.dumps(unreadable)
        row: dict[str, Any] = {"number": pa.array([present.number], pa.uint64())}
        for name, value in zip(sql.PRESENT[1:], values, strict=True):
            row[name] = pa.array([value.encode("ascii")], pa.binary())
        with self._connection.beside(pa.table(row), sql.TYPES_OF_PRESENT) as given:
            statement = sql.make_present(self._table, given.sql, lease.number, present.images)
            self._connection.run([statement], settings=settings_of(lease.cluster), **given.options)
        self._connection.run(sql.caught_up(self._table, lease.cluster))
        held = self._present()
        if held is None or held.number != present.number:
            lease.check()
            raise lease.lost()

    def _drop_others(self, lease: Lease, present: Present) -> None:
        """Drop the tables of earlier writers, but those of the present state and the one before.

        Who is taken for dead and lives on may still fill one: it is told that the table is gone.
        """
        prefix, kept = f"{self._table}_state_", {present.images, present.before}
        found = self._connection.rows(sql.STATE_TABLES, {"prefix": prefix})["name"].to_pylist()
        for name in sorted({name.decode().removesuffix("_shard") for name in found} - kept):
            made = re.fullmatch(r"(\d+)_[0-9a-f]{16}", name.removeprefix(prefix))
            if made is not None and int(made[1]) < lease.number:
                self._connection.run(store_sql.drop(name, lease.cluster))

    def _save(self, model: Model) -> None:
        """Save the model, or leave it where it is.

        Raises:
            FileExistsError: If another model, or something else, is there.
        """
        folder = self.model_folder
        if self._owns_model or not folder.exists() or not any(folder.iterdir()):
            folder.parent.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(folder)
            return
        with tempfile.TemporaryDirectory() as other:
            model.save_pretrained(other)
            if not _are_same(Path(other), folder):
                raise FileExistsError(
                    f"Expected `model_folder` to be new, empty or of this model, got {folder}."
                )


def _are_same(made: Path, held: Path) -> bool:
    """Return whether a folder has the files of another one, and their contents."""
    return all(
        (held / path.name).is_file() and (held / path.name).read_bytes() == path.read_bytes()
        for path in made.iterdir()
    )
