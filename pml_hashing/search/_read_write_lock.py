"""A lock that any number of threads hold to read, or one to write."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, RLock, get_ident


class ReadWriteLock:
    """Lets any number of threads read, or one write. Who waits to write goes before new readers.

    As a context it is locked for reading, which a thread may do again while it does. It must not
    write then. Who writes must not read through it. A copy is a lock of its own.
    """

    def __init__(self) -> None:
        self._mutex = RLock()
        self._changed = Condition(self._mutex)
        self._readers: list[int] = []
        self._num_writers = 0  # the one that writes and those that wait

    def __reduce__(self) -> tuple[type["ReadWriteLock"], tuple[()]]:
        return ReadWriteLock, ()

    def __enter__(self) -> None:
        thread = get_ident()
        with self._mutex:
            while self._num_writers and thread not in self._readers:
                self._changed.wait()
            self._readers.append(thread)

    def __exit__(self, *error: object) -> None:
        with self._mutex:
            self._readers.remove(get_ident())
            if self._num_writers:
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock for writing."""
        with self._mutex:
            self._num_writers += 1
            try:
                self._changed.wait_for(lambda: not self._readers)
                yield
            finally:
                self._num_writers -= 1
                self._changed.notify_all()
