"""Write a file of packed codes as they come, so that a killed run resumes where it stopped."""

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import torch
from torch import Tensor

from pml_hashing._tensor_files import sign, summarize
from pml_hashing.code_file import describe, from_json_tensor, json_tensor, read_code_file
from pml_hashing.codes import packed_length
from pml_hashing.datasets import UnreadableImageError

HEADER_SIZE = 4096  # room for the header of safetensors, which is written last
WRITTEN_BY = "HashingModel.encode"


class CodesOf(NamedTuple):
    """What codes belong to. A file is continued only for the same."""

    code_length: int
    num_items: int  # of the data set
    model: str  # a fingerprint of its weights

    def described(self) -> dict[str, str]:
        """Return the same as metadata of a file."""
        return {key: str(value) for key, value in self._asdict().items()}


class CodeWriter:
    """Writes packed codes to `path` by way of two files beside it, and continues those it finds.

    `path.partial` is `path` without its header: the codes alone. `path.progress` has one line for
    what the codes belong to, and one line per batch, with checksums of the line and of all codes so
    far. Whenever this is killed, the codes up to the last valid line are kept: the rest is cut off,
    and encoded again. `finish` writes the header and renames the file, which `HammingKNN.load` then
    reads.

    Args:
        path: The file to write. Its folder is made where it does not exist.
        codes_of: What the codes belong to.

    Attributes:
        num_done: Number of items that are done, from the first of the data set on.
        unreadable: Those among them that could not be read, and have no codes.

    Raises:
        OSError: If the files cannot be read and written.
        ValueError: If the existing files belong to other codes.
    """

    def __init__(self, path: str | os.PathLike[str], codes_of: CodesOf) -> None:
        self._path, self._codes_of = Path(path), codes_of
        self._partial, self._progress = (
            self._path.with_name(self._path.name + ending) for ending in (".partial", ".progress")
        )
        self.num_done, self.unreadable = 0, list[UnreadableImageError]()
        self._width, self._num_rows = packed_length(codes_of.code_length), 0
        self._sum = hashlib.sha256()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._begin()
        self._lines: BinaryIO = self._progress.open("r+b")
        self._codes: BinaryIO = self._partial.open("r+b")
        self._continue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._codes.close()
        self._lines.close()

    def append(
        self, packed_codes: Tensor, num_items: int, unreadable: list[UnreadableImageError]
    ) -> None:
        """Write the codes of the next items.

        Args:
            packed_codes: uint8, on the CPU, one row per item that could be read.
            num_items: How many there were.
            unreadable: Those that could not be read.

        Raises:
            OSError: If the disk is full. What was written before is kept.
        """
        codes = packed_codes.numpy().tobytes()
        self._codes.write(codes)
        self._codes.flush()
        self._sum.update(codes)
        self.num_done += num_items
        self._num_rows += len(packed_codes)
        self.unreadable += unreadable
        record = {"items": self.num_done, "rows": self._num_rows, "sha256": self._sum.hexdigest()}
        record["unreadable"] = [_to_json(error) for error in unreadable]
        self._lines.write(_to_line(record))
        self._lines.flush()

    def finish(self) -> None:
        """Move the finished file into place.

        Raises:
            ValueError: If none of the items could be read.
        """
        if not self._num_rows:
            raise ValueError(
                f"Expected at least one readable item, got {len(self.unreadable)} unreadable ones."
            )
        tensors = self._tensors_of_unreadable()
        shape = (self._num_rows, self._width)
        summary = {"packed_codes": (str(torch.uint8), shape, self._sum.hexdigest())}
        summary |= summarize(tensors)
        for tensor in tensors.values():
            self._codes.write(tensor.numpy().tobytes())
        metadata = describe(self._codes_of.code_length, self._num_rows) | self._codes_of.described()
        shapes = {name: shape for name, (_, shape, _) in summary.items()}
        self._codes.seek(0)
        self._codes.write(_to_header(shapes, sign(metadata, summary)))
        self._codes.flush()
        os.fsync(self._codes.fileno())
        self._codes.close()
        self._partial.replace(self._path)
        self._lines.close()
        self._progress.unlink()

    def _tensors_of_unreadable(self) -> dict[str, Tensor]:
        if not self.unreadable:
            return {}
        missing = {error.index for error in self.unreadable}
        return {
            "ids": json_tensor([i for i in range(self.num_done) if i not in missing]),
            "unreadable": json_tensor([_to_json(error) for error in self.unreadable]),
        }

    def _begin(self) -> None:
        """Make both files, or check that they were begun for the same codes."""
        expected = _to_line(self._codes_of.described())
        self._partial.touch()
        self._progress.touch()
        with self._progress.open("r+b") as lines:
            found = lines.readline()
            if found != expected and not expected.startswith(found):
                raise ValueError(
                    f"Expected `{self._progress}` to be begun for {self._codes_of}, "
                    f"got {_from_line(found)}: delete it to begin anew."
                )
            lines.seek(0)
            lines.write(expected)

    def _continue(self) -> None:
        """Go to the end of what is valid, and cut off the rest."""
        end = len(self._lines.readline())
        self._codes.seek(HEADER_SIZE)
        for line in self._lines:
            if not self._holds(_from_line(line)):
                break
            end += len(line)
        self._lines.seek(end)
        self._lines.truncate()
        self._codes.seek(HEADER_SIZE + self._num_rows * self._width)
        self._codes.truncate()

    def _holds(self, record: Any) -> bool:
        try:
            num_rows, num_items = int(record["rows"]), int(record["items"])
            unreadable = [_from_json(error) for error in record["unreadable"]]
        except (KeyError, TypeError, ValueError):
            return False
        total = self._sum.copy()
        total.update(self._codes.read(max(0, num_rows - self._num_rows) * self._width))
        if total.hexdigest() != record.get("sha256"):
            return False
        self._sum, self._num_rows, self.num_done = total, num_rows, num_items
        self.unreadable += unreadable
        return True


def read_finished(
    path: str | os.PathLike[str], codes_of: CodesOf
) -> tuple[Tensor, list[UnreadableImageError]]:
    """Return the packed codes that a `CodeWriter` finished, mapped, and what could not be read.

    Raises:
        ValueError: If the file is damaged, or belongs to other codes.
    """
    tensors, metadata = read_code_file(path, written_by=WRITTEN_BY)
    found = {key: metadata.get(key) for key in codes_of.described()}
    if found != codes_of.described():
        raise ValueError(
            f"Expected no file at `{path}`, or one for {codes_of}, got one for {found}: delete it "
            "to encode anew."
        )
    try:
        records = from_json_tensor(tensors["unreadable"]) if "unreadable" in tensors else []
        return tensors["packed_codes"], [_from_json(record) for record in records]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected a whole file that {WRITTEN_BY} wrote, got `{path}`: {error}"
        ) from error


def _to_line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record).encode("ascii")
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _from_line(line: bytes) -> Any:
    """Return the record of a line, or `None` if the line is cut or changed."""
    text, _, rest = line.rpartition(b" ")
    return json.loads(text) if text and rest == b"%08x\n" % zlib.crc32(text) else None


def _to_header(shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> bytes:
    """Return the first bytes of a safetensors file of uint8 tensors, in this order."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries[name] = {"dtype": "U8", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode("ascii")
    return struct.pack("<Q", HEADER_SIZE - 8) + text.ljust(HEADER_SIZE - 8)


def _to_json(error: UnreadableImageError) -> list[Any]:
    return [str(error), error.path, error.index]


def _from_json(record: list[Any]) -> UnreadableImageError:
    message, path, index = record
    return UnreadableImageError(message, path=path, index=index)
