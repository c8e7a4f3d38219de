"""Codes of a sync that is under way, in a file beside the collection."""

import json
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Self

from pml_hashing._files import errors_named, open_to_change, text_of, to_line, write_all
from pml_hashing.collection.encoded import CodesInMemory, Encoded
from pml_hashing.collection.file_records import DIGEST
from pml_hashing.collection.files import Content
from pml_hashing.collection.storage import Journal


class FolderJournal(Journal):
    """A file of codes that are appended as they come, each with a checksum.

    Args:
        path: The file. What it holds is kept if it was begun by the same model.
        model: Tells what the codes are of: a fingerprint.
        code_bytes: Bytes of each code.

    Raises:
        ValueError: When it is read, if a line has its checksum, but is none that `append` writes.
    """

    def __init__(self, path: Path, model: str, code_bytes: int) -> None:
        self.path, self._first = path, to_line({"model": model})
        self._code_bytes = code_bytes
        self._file: BinaryIO | None = None

    @cached_property
    def _codes(self) -> CodesInMemory:
        """What it holds, up to the first line that is cut or changed."""
        if not self.path.is_file():
            return CodesInMemory()
        with self.path.open("rb") as file:
            return CodesInMemory(self._valid(file))

    def sizes_among(self, sizes: Collection[int]) -> set[int]:
        return self._codes.sizes_among(sizes)

    def known(self, digests: Collection[bytes]) -> dict[bytes, Encoded]:
        return self._codes.known(digests)

    def __enter__(self) -> Self:
        """Open it for writing, and cut off what is not valid."""
        with ExitStack() as opened, errors_named(self.path):
            self._file = opened.enter_context(open_to_change(self.path))
            with open(self._file.fileno(), "rb", closefd=False) as file:
                for _ in self._valid(file):
                    pass
                end = file.tell()
            self._file.truncate(end)
            self._file.seek(end)
            if not end:
                write_all(self._file, self._first, self.path)
            opened.pop_all()  # until it is left
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, encoded: list[Encoded]) -> None:
        """Write codes. A process that is killed afterwards has not lost them.

        Raises:
            OSError: If the disk is full. It has the name of the file.
        """
        if self._file is None:
            raise ValueError("Expected an open journal, got one that was not entered.")
        lines = bytearray()
        for content, code in encoded:
            record = content._asdict() | {"digest": content.digest.hex(), "code": code.hex()}
            lines += to_line(record)
        write_all(self._file, lines, self.path)
        self._codes.add(encoded)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _valid(self, file: BinaryIO) -> Iterator[Encoded]:
        """Yield what is valid, and leave the file at its end: at the start for another model."""
        end = 0
        for number, line in enumerate(iter(file.readline, b"")):
            if number == 0 and line != self._first:
                break
            if number > 0:
                text = text_of(line)
                if text is None:  # the line is cut or changed
                    break
                yield self._from_text(text)
            end += len(line)
        file.seek(end)

    def _from_text(self, text: bytes) -> Encoded:
        try:
            record = json.loads(text)
            digest, code = (bytes.fromhex(record.pop(key)) for key in ("digest", "code"))
            content = Content(digest, **record)
            sizes_are_whole = all(type(size) is int and size >= 0 for size in content[1:])
            if not sizes_are_whole or (len(digest), len(code)) != (DIGEST, self._code_bytes):
                raise ValueError("a value of it is of another kind or size.")
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"Expected `{self.path}` to hold lines that Collection.sync wrote, got "
                f"{text[:99]!r} ({error}): delete it to encode anew what was encoded last."
            ) from error
        return Encoded(content, code)
