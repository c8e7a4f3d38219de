"""The connection to ClickHouse, in this process or a server: statements, and tables of Arrow."""

import contextlib
import logging
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import clickhouse_connect
import pyarrow as pa
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import (
    DatabaseError,
    OperationalError,
)
from clickhouse_connect.driver.external import ExternalData

from pml_hashing.search._clickhouse_sql import MAX_FIELD, SCHEMA, Schema, check_name
from pml_hashing.search._read_write_lock import ReadWriteLock
from pml_hashing.search.store import GoneError

EMBEDDED = "chdb://"
SERVERS = ("clickhouse", "http", "https")
GONE = ("UNKNOWN_TABLE", "TABLE_IS_DROPPED")  # errors of a table that is not there any more
MADE = "metadata"  # a folder in that of an engine, once it has had a table
MAX_BOUND = 100  # ids that are bound in a statement; more of them go beside it as a table

# Strings are bytes, as names of files are. Told once: the engine in this process takes 5 ms to set
# and restore what is told with a statement.
# Codes of more than 2,048 bits are of a type that the engine asks about.
SETTINGS = {"output_format_arrow_string_as_string": 0, "allow_suspicious_fixed_string_types": 1}

# An insert is one block, and so one part of a table: there wholly or not at all. It is answered
# when it is on disk, not queued.
INSERT = {"async_insert": 0, "min_insert_block_size_bytes": 0, "input_format_parallel_parsing": 0}
CLUSTER = {"distributed_foreground_insert": 1, "insert_quorum": "auto", "insert_quorum_parallel": 0}

# What the client warns of when a server does not answer is in the error that is raised.
UNREACHABLE = "Unexpected Http Driver Exception"
_RAISING = ContextVar("pml_hashing.clickhouse", default=False)
logging.getLogger("clickhouse_connect.driver._backend.http_sync").addFilter(
    lambda record: not (_RAISING.get() and record.msg == UNREACHABLE)
)


class TableState:
    """What the clients of a table have in common: its lock, and what it was found to be.

    Args:
        table: Its name.
        is_kept: Whether what it is stays known until `forget`: no other process changes it.
    """

    def __init__(self, table: str, *, is_kept: bool) -> None:
        self.lock = ReadWriteLock()
        self._table, self._is_kept = table, is_kept
        self._mutex = Lock()
        self._known: Schema | None = None

    def schema(self, connection: "Connection") -> Schema | None:
        """Return what the table is, or `None` if there is none.

        Raises:
            ValueError: If it is another's.
        """
        with self._mutex:
            schema = self._known or self._read(connection)
            self._known = schema if self._is_kept else None
            return schema

    def forget(self) -> None:
        """Look again what the table is."""
        with self._mutex:
            self._known = None

    def _read(self, connection: "Connection") -> Schema | None:
        if not connection.is_made:
            return None
        found = connection.rows(SCHEMA, {"table": self._table})
        if not found.num_rows:
            return None
        columns = ([value.decode() for value in part.to_pylist()] for part in found.columns)
        try:
            return Schema.of(list(zip(*columns, strict=True)))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"Expected `table` to be one that a ClickHouseStore made, got {self._table!r}, "
                f"which is not: {error}"
            ) from error


_STATES: WeakValueDictionary[tuple[str, str], TableState] = WeakValueDictionary()
_STATES_MUTEX = Lock()


class Wanted(NamedTuple):
    """A list or table in a statement.

    Attributes:
        sql: What stands for it.
        options: What goes with the statement.
    """

    sql: str
    options: dict[str, Any]


class Connection:
    """A client of an engine in this process, which reads a folder, or of a server.

    An engine makes its folder when something is written first: to look for what is not there
    leaves nothing behind.

    Args:
        dsn: `chdb:///folder`, or `clickhouse://user:password@host:8123/database`.
        options: Other arguments of `clickhouse_connect.get_client`.

    Attributes:
        embedded: Whether the engine is in this process.
        place: Its folder, or host and port of a server, without what is secret.

    Raises:
        ConnectionError: If there is no server.
        OSError: If the folder is in use by another process, or this one uses another folder, or it
            is a file. Of a folder without a database, the first two are found by the first `run`.
        ValueError: If `dsn` is neither.
    """

    def __init__(self, dsn: str, **options: Any) -> None:
        self.embedded = dsn.startswith(EMBEDDED)
        if self.embedded:
            self.place = _to_folder(dsn)
            options |= {"interface": "chdb", "path": self.place}
        else:
            self.place = _to_address(dsn)
            options |= {"dsn": dsn, "autogenerate_session_id": False}  # one is for one thread
        options["settings"] = SETTINGS | options.get("settings", {})
        self._options, self._mutex, self._held = options, Lock(), None
        if self.is_made:
            self._opened()

    @property
    def is_made(self) -> bool:
        """Whether there is a database: a server has one, a folder once it has had a table."""
        return self._held is not None or not self.embedded or Path(self.place, MADE).is_dir()

    @property
    def database(self) -> str:
        """The name of the database."""
        return self.one("select currentDatabase()").decode()

    def check_cluster(self, cluster: str | None) -> None:
        """Raise unless a server knows a cluster of this name.

        Raises:
            ValueError: If it knows none, or the engine is in this process.
        """
        if cluster is None:
            return
        check_name(cluster, "cluster")
        if self.embedded:
            raise ValueError(
                f"Expected `cluster` with a server, as in 'clickhouse://host:8123/database', got "
                f"{cluster!r} with an engine in this process, at {self.place}."
            )
        found = self.rows("select distinct cluster from system.clusters order by cluster")
        names = [name.decode() for name in found["cluster"].to_pylist()]
        if cluster not in names:
            raise ValueError(
                f"Expected `cluster` that the server at {self.place} knows, one of "
                f"{', '.join(names)}, got {cluster!r}."
            )

    def state(self, table: str) -> TableState:
        """Return the state of a table: one for all clients of an engine in this process."""
        if not self.embedded:
            return TableState(table, is_kept=False)
        with _STATES_MUTEX:
            state = _STATES.get((self.place, table)) or TableState(table, is_kept=True)
            return _STATES.setdefault((self.place, table), state)

    def run(self, statements: Sequence[str], **options: Any) -> None:
        """Run statements that return nothing, one after the other."""
        client = self._opened()
        for statement in statements:
            with self._errors():
                client.command(statement, **options)

    def rows(
        self, sql: str, parameters: Mapping[str, Any] | None = None, **options: Any
    ) -> pa.Table:
        """Return the rows of a query, strings as bytes.

        Raises:
            GoneError: If there is no such table, or no database.
        """
        if not self.is_made:
            raise GoneError(f"Expected a database at {self.place}, got none.")
        client, bound = self._opened(), dict(parameters or {})
        with self._errors():
            content = client.raw_query(sql, parameters=bound, fmt="Arrow", **options)
        return pa.ipc.RecordBatchFileReader(content).read_all()

    def one(self, sql: str, parameters: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Return the first value of the first row, or `None` if there is none."""
        found = self.rows(sql, parameters, **options)
        return found.column(0)[0].as_py() if found.num_rows else None

    def insert(self, table: str, rows: pa.Table, cluster: str | None = None) -> None:
        """Add rows to a table, all at once."""
        size = {"max_insert_block_size": len(rows), "min_insert_block_size_rows": len(rows)}
        settings = INSERT | size | settings_of(cluster)
        client = self._opened()
        with self._errors():
            client.insert_arrow(table, rows, settings=settings)

    @contextmanager
    def wanted(self, ids: Sequence[bytes]) -> Iterator[Wanted]:
        """Put ids where statements of this context find them."""
        if len(ids) <= MAX_BOUND and 2 * sum(map(len, ids)) <= MAX_FIELD:  # of them escaped
            texts = [id_.decode("ascii") for id_ in ids]
            yield Wanted("{wanted:Array(String)}", {"parameters": {"wanted": texts}})
            return
        with self.beside(pa.table({"id": pa.array(ids, pa.binary())}), ["id String"]) as table:
            yield Wanted(f"(select id from {table.sql})", table.options)

    @contextmanager
    def beside(self, rows: pa.Table, structure: Sequence[str]) -> Iterator[Wanted]:
        """Put a table where statements of this context find it, under a name that is given.

        Args:
            rows: The table.
            structure: Names and types of its columns.
        """
        if not self.embedded:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows)
            data = ExternalData(
                file_name="wanted",
                data=sink.getvalue().to_pybytes(),
                fmt="Arrow",
                structure=list(structure),
            )
            yield Wanted("wanted", {"external_data": data})
            return
        name = f"wanted_{secrets.token_hex(8)}"
        self.run([f"create temporary table {name} ({', '.join(structure)})"])
        try:
            self.insert(name, rows)
            yield Wanted(name, {})
        finally:
            self.run([f"drop temporary table {name}"])

    @contextmanager
    def beside_bytes(self, column: str, values: Collection[bytes], width: int) -> Iterator[Wanted]:
        """Put a column of bytes, as many in each value, where statements find it, as `beside`."""
        rows = pa.table({column: pa.array(list(values), pa.binary(width))})
        with self.beside(rows, [f"{column} FixedString({width})"]) as table:
            yield table

    def close(self) -> None:
        """Let go of the connection."""
        if self._held is not None:
            self._held.close()

    def _opened(self) -> Client:
        """Return the client. An engine makes its folder where there is none."""
        with self._mutex:
            if self._held is None:
                if self.embedded:
                    _make_folder(Path(self.place))
                with self._errors():
                    self._held = clickhouse_connect.get_client(**self._options)
            return self._held

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise an error of the connection as what it is."""
        raising = _RAISING.set(True)
        try:
            yield
        except (OperationalError, urllib3.exceptions.HTTPError, OSError) as error:
            if self.embedded:
                raise
            raise ConnectionError(
                f"Expected a ClickHouse server that answers at {self.place}, got: {_cause(error)}"
            ) from error
        except DatabaseError as error:
            if any(name in str(error) for name in GONE):
                raise GoneError(f"Expected a table at {self.place}, got none: {error}") from error
            if not self.embedded or "Unable to open" not in str(error):
                raise
            raise OSError(
                f"Expected a folder of ClickHouse at {self.place} that can be written, that no "
                "other process has open, and no other folder open in this process: the engine "
                f"serves one folder and one process. Got: {error}"
            ) from error
        finally:
            _RAISING.reset(raising)


def settings_of(cluster: str | None) -> dict[str, Any]:
    """Return the settings of an insert that is answered when most replicas of a shard have it."""
    return {} if cluster is None else CLUSTER


def _cause(error: BaseException) -> BaseException:
    """Return what an error goes back to: the client repeats the whole request in its own."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _to_folder(dsn: str) -> str:
    folder = dsn.removeprefix(EMBEDDED)
    if not folder or "?" in folder:
        raise ValueError(f"Expected `dsn` of a folder, as in 'chdb:///folder', got {dsn!r}.")
    path = Path(os.path.realpath(folder))
    _check_no_file(path)
    return str(path)


def _make_folder(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        path.mkdir(parents=True)
    _check_no_file(path)


def _check_no_file(path: Path) -> None:
    if path.exists() and not path.is_dir():  # of which the engine says more than a screen holds
        raise NotADirectoryError(f"Expected `dsn` of a folder, got a file at {path}.")


def _to_address(dsn: str) -> str:
    """Return host and port of a server, without what is secret."""
    parts = urlsplit(dsn)
    if parts.scheme not in SERVERS or not parts.hostname:
        raise ValueError(
            "Expected `dsn` of a folder, as in 'chdb:///folder', or of a server, as in "
            f"'clickhouse://host:8123/database', got one that begins with {parts.scheme!r}."
        )
    try:
        port = parts.port
    except ValueError:  # what stands for the port may be the beginning of a password
        raise ValueError(
            "Expected `dsn` with a port from 0 to 65535, got another: a password has %2F for /, "
            "%3F for ? and %23 for #."
        ) from None
    return parts.hostname if port is None else f"{parts.hostname}:{port}"
