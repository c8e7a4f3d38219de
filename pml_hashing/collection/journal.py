"""Codes of a sync that is under way, by the content of their files: a killed one loses none."""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from pml_hashing.collection.files import Content


class Encoded(NamedTuple):
    """The code of a content."""

    content: Content
    code: bytes  # of a row: bits, or float32


class Journal:
    """A file of codes that are appended as they come, each with a checksum.

    It speaks of contents and not of names, so that whatever happens to the files between two runs,
    a code is never another image's.

    Args:
        path: The file. What it holds is kept if it was begun by the same model.
        model: Tells what the codes are of: a fingerprint.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path, self._first = path, _to_line({"model": model})
        self._file: BinaryIO | None = None

    def read(self) -> list[Encoded]:
        """Return what it holds, up to the first line that is cut or changed."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            return list(self._valid(file))

    def __enter__(self) -> Self:
        """Open it for writing, and cut off what is not valid."""
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        for _ in self._valid(self._file):
            pass
        self._file.truncate()
        if not self._file.tell():
            self._file.write(self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, encoded: list[Encoded]) -> None:
        """Write codes. A process that is killed afterwards has not lost them.

        Raises:
            OSError: If the disk is full.
        """
        if self._file is None:
            raise ValueError("Expected an open journal, got one that was not entered.")
        for content, code in encoded:
            record = content._asdict() | {"digest": content.digest.hex(), "code": code.hex()}
            self._file.write(_to_line(record))
        self._file.flush()

    def remove(self) -> None:
        """Delete it: its codes are in the collection."""
        self.path.unlink(missing_ok=True)

    def _valid(self, file: BinaryIO) -> Iterator[Encoded]:
        """Yield what is valid, and leave the file at its end: at the start for another model."""
        end = 0
        for number, line in enumerate(iter(file.readline, b"")):
            if number == 0 and line != self._first:
                break
            if number > 0:
                encoded = _from_line(line)
                if encoded is None:
                    break
                yield encoded
            end += len(line)
        file.seek(end)


def _to_line(record: Mapping[str, object]) -> bytes:
    text = json.dumps(record).encode("ascii")
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _from_line(line: bytes) -> Encoded | None:
    """Return the record of a line, or `None` if the line is cut or changed."""
    text, _, rest = line.rpartition(b" ")
    if not text or rest != b"%08x\n" % zlib.crc32(text):
        return None
    record = json.loads(text)
    digest, code = (bytes.fromhex(record.pop(key)) for key in ("digest", "code"))
    return Encoded(Content(digest, **record), code)
