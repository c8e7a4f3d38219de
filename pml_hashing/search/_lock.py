"""A lock for many readers or one writer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class ReadWriteLock:
    """Lets any number of threads read, or one write. Who waits to write goes before new readers.

    A thread that reads may read again. It must not write. A copy is a lock of its own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_readers, self._num_waiting, self._is_writing = 0, 0, False
        self._own = threading.local()

    def __reduce__(self) -> tuple[Callable[[], "ReadWriteLock"], tuple[()]]:
        return ReadWriteLock, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "ReadWriteLock":
        return ReadWriteLock()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read what nobody changes meanwhile."""
        depth = getattr(self._own, "depth", 0)
        if not depth:
            with self._changed:
                while self._is_writing or self._num_waiting:
                    self._changed.wait()
                self._num_readers += 1
        self._own.depth = depth + 1
        try:
            yield
        finally:
            self._own.depth = depth
            if not depth:
                with self._changed:
                    self._num_readers -= 1
                    self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Change what nobody else reads or changes meanwhile."""
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
