"""A lock for many readers or one writer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Lets any number of threads read, or one write. Who waits to write goes before new readers.

    As a context it is locked for reading, which a thread may do again while it does. It must not
    write then. A copy is a lock of its own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._num_readers, self._num_waiting, self._is_writing = 0, 0, False
        self._own = threading.local()

    def __reduce__(self) -> tuple[Callable[[], "ReadWriteLock"], tuple[()]]:
        return ReadWriteLock, ()

    def __enter__(self) -> None:
        depth = getattr(self._own, "depth", 0)
        if not depth:
            with self._changed:
                while self._is_writing or self._num_waiting:
                    self._changed.wait()
                self._num_readers += 1
        self._own.depth = depth + 1

    def __exit__(self, *error: object) -> None:
        self._own.depth -= 1
        if not self._own.depth:
            with self._changed:
                self._num_readers -= 1
                if not self._num_readers:
                    self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock for writing."""
        with self._changed:
            self._num_waiting += 1
            try:
                while self._is_writing or self._num_readers:
                    self._changed.wait()
                self._is_writing = True
            finally:
                self._num_waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
