"""Who may write to a collection in a database: one at a time, and none that is dead."""

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from pml_hashing.collection import database_sql as sql
from pml_hashing.collection.waiting import wait_to_write
from pml_hashing.search._clickhouse_client import Connection

LEASE_SECONDS = 30.0  # after which a writer that says nothing is taken for dead
SAYS_OFTEN = 5  # times in these
SECONDS_BETWEEN_TRIES = 0.2
PROCESS = secrets.token_hex(8)  # this one, whatever number the system gives it


class Writer(NamedTuple):
    """Who wrote last, or still does.

    Attributes:
        number: Grows from writer to writer.
        owner: Its machine and process, for people.
        is_alive: Whether it may still write.
    """

    number: int
    owner: str
    is_alive: bool


class Lease:
    """The right to write, as long as this process says that it is alive.

    A writer takes the next number, and has it if nobody else took the same one: of two that do so
    at the same moment, both see the other or one does, and who sees another gives way. It then says
    every few seconds, by the clock of the server, that it is alive. One that says nothing for
    `LEASE_SECONDS` is taken for dead, and the next one takes over. Should it live on, it finds a
    larger number before it makes its state the present one. An engine in this process serves no
    other, so that the lease of another process is that of a dead one.

    Args:
        connection: The engine.
        table: The collection.
        place: What it is called in messages.
        cluster: Over which it is spread, if it is: then each server is asked only after it has
            what the others have.
    """

    def __init__(
        self, connection: Connection, table: str, place: str, cluster: str | None = None
    ) -> None:
        self._connection, self._table, self._place = connection, table, place
        self.cluster = cluster
        self._catch_up = sql.caught_up(f"{table}_writers", cluster)
        self._token, self._step, self.number = secrets.token_hex(8), 0, 0

    @contextmanager
    def held(self, timeout: float) -> Iterator[None]:
        """Return a context in which this one may write.

        Raises:
            TimeoutError: If another one may for so many seconds, without end if negative.
        """
        wait_to_write(self._taken, self._place, timeout, SECONDS_BETWEEN_TRIES)
        stopped = threading.Event()
        saying = threading.Thread(target=self._say, args=(stopped,), daemon=True)
        if not self._connection.embedded:
            saying.start()
        try:
            yield
        finally:
            stopped.set()
            if saying.is_alive():
                saying.join()
            with suppress(ConnectionError):  # it ends by itself
                self._write(released=True)

    def check(self) -> None:
        """Raise unless nobody else has taken over.

        Raises:
            TimeoutError: If somebody has.
        """
        other = self._later()
        if other is not None:
            raise self.lost(other)

    def lost(self, other: str = "another process") -> TimeoutError:
        """Return the error of a process for which another one was taken."""
        return TimeoutError(
            f"Expected to write to {self._place} to the end, got {other}, which took over "
            f"because this process was not heard of for {LEASE_SECONDS:g} seconds: sync again."
        )

    def _taken(self) -> str | None:
        """Take the right to write, or return who has it."""
        last = self._last()
        if last.is_alive:
            return f"another process that writes, {last.owner}"
        self.number, self._step = last.number + 1, 0
        self._write(released=False)
        other = self._later()
        if other is not None:
            self._write(released=True)
            return f"another process that writes, {other}"
        return None

    def _last(self) -> Writer:
        self._connection.run(self._catch_up)
        found = self._connection.rows(sql.last_writers(self._table)).to_pylist()
        last = {row["token"]: row for row in found}  # what each said last
        for row in last.values():
            if not row["released"] and self._is_alive(row["process"], row["alive"]):
                return Writer(row["number"], row["owner"].decode(), is_alive=True)
        return Writer(self._connection.one(sql.last_number(self._table)), "", is_alive=False)

    def _is_alive(self, process: bytes, in_time: int) -> bool:
        return process.decode() == PROCESS if self._connection.embedded else bool(in_time)

    def _later(self) -> str | None:
        bound = {"token": self._token}
        self._connection.run(self._catch_up)
        other = self._connection.one(sql.later_writers(self._table, self.number), bound)
        return None if other is None else other.decode()

    def _say(self, stopped: threading.Event) -> None:
        """Say again and again that this process is alive."""
        while not stopped.wait(LEASE_SECONDS / SAYS_OFTEN):
            with suppress(ConnectionError):  # whoever writes is told
                self._write(released=False)

    def _write(self, *, released: bool) -> None:
        self._step += 1
        owner = f"process {os.getpid()} of {socket.gethostname()}"
        bound = {"token": self._token, "owner": owner, "process": PROCESS}
        statement = sql.write_lease(
            self._table, self.number, self._step, LEASE_SECONDS, released=released
        )
        self._connection.run([statement], parameters=bound)
