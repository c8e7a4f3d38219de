"""Write a file of packed codes as they come, so that a killed run resumes where it stopped."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from operator import index
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pml_hashing._arrays import is_time
from pml_hashing._checks import check_distinct
from pml_hashing._files import (
    errors_named,
    open_to_change,
    sync_folder,
    text_of,
    to_line,
    write_all,
)
from pml_hashing._locks import LockedError, locked_file, remove
from pml_hashing._safetensors import header_of
from pml_hashing._tensor_files import sign, summarize
from pml_hashing.code_file import describe, from_json_tensor, json_tensor, read_code_file
from pml_hashing.codes import packed_length
from pml_hashing.datasets import UnreadableImageError

HEADER_SIZE = 4096  # room for the header of safetensors, which is written last
WRITTEN_BY = "HashingModel.encode"


Id: TypeAlias = str | int


def check_item_ids(ids: Sequence[Id], num_items: int | None) -> list[Id]:
    """Return the ids of items as a list.

    Args:
        ids: Distinct strings or integers, or an array of integers.
        num_items: How many items there are, if known.

    Raises:
        TypeError: If one is something else.
        ValueError: If their number is wrong, or one comes twice.
    """
    is_array = isinstance(ids, Tensor | np.ndarray)
    checked = ids.tolist() if is_array and not is_time(ids) else list(ids)
    wrong = next((id_ for id_ in checked if type(id_) not in (str, int)), None)
    if wrong is not None:
        raise TypeError(f"Expected `ids` that are strings or integers, got {wrong!r}.")
    if num_items not in (None, len(checked)):
        raise ValueError(f"Expected {num_items} `ids`, one for each item, got {len(checked)}.")
    check_distinct(checked)
    return checked


class CodesOf(NamedTuple):
    """What codes belong to. A file is continued only for the same."""

    code_length: int
    num_items: int | None  # of the data set; `None` where only its end tells
    model: str  # a fingerprint of its weights
    item_ids: str | None = None  # one of the ids of its items, if they have any

    @classmethod
    def items(
        cls, code_length: int, num_items: int | None, model: str, ids: Sequence[Id] | None
    ) -> Self:
        """Return what codes of items with ids belong to."""
        if ids is None:
            return cls(code_length, num_items, model)
        text = json.dumps(list(ids)).encode("ascii")
        return cls(code_length, num_items, model, hashlib.sha256(text).hexdigest())

    def described(self) -> dict[str, str]:
        """Return the same as metadata of a file."""
        return {key: str(value) for key, value in self._asdict().items() if value is not None}


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
        ids: One for each item of the data set. Their places if `None`.

    Attributes:
        num_done: Number of items that are done, from the first of the data set on.
        unreadable: Those among them that could not be read, and have no codes.

    Raises:
        OSError: If the files cannot be read and written.
        ValueError: If the existing files belong to other codes, hold what no writer wrote, or
            another process or thread is writing them.
    """

    def __init__(
        self, path: str | os.PathLike[str], codes_of: CodesOf, ids: Sequence[Id] | None = None
    ) -> None:
        self._path, self._codes_of = Path(os.path.realpath(path)), codes_of
        self._ids = ids
        self._partial, self._progress = (
            self._path.with_name(self._path.name + ending) for ending in (".partial", ".progress")
        )
        self.num_done, self.unreadable = 0, list[UnreadableImageError]()
        self._width, self._num_rows = packed_length(codes_of.code_length), 0
        self._sum = hashlib.sha256()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with errors_named(self._path), ExitStack() as stack:
            try:
                self._lines = stack.enter_context(locked_file(self._progress))
            except LockedError as error:
                raise ValueError(
                    f"Expected a `path` that nothing else encodes to, got {path}, to which another "
                    "process or thread is writing codes."
                ) from error
            self._codes = stack.enter_context(open_to_change(self._partial))
            self._continue()
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

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
        write_all(self._codes, codes, self._path)
        self._sum.update(codes)
        self.num_done += num_items
        self._num_rows += len(packed_codes)
        self.unreadable += unreadable
        record = {"items": self.num_done, "rows": self._num_rows, "sha256": self._sum.hexdigest()}
        record["unreadable"] = [_to_json(error) for error in unreadable]
        write_all(self._lines, to_line(record), self._path)

    def finish(self) -> None:
        """Move the finished file into place.

        Raises:
            OSError: If the disk is full. The codes are kept.
            ValueError: If none of the items could be read, or there are not as many as ids.
        """
        if not self._num_rows:
            raise ValueError(
                f"Expected at least one readable item, got {len(self.unreadable)} unreadable ones."
            )
        if self._codes_of.num_items not in (None, self.num_done):
            raise ValueError(
                f"Expected {self._codes_of.num_items} items in `inputs`, one for each of `ids`, "
                f"got {self.num_done}."
            )
        tensors = self._tensors_beside()
        shape = (self._num_rows, self._width)
        summary = {"packed_codes": (str(torch.uint8), shape, self._sum.hexdigest())}
        summary |= summarize(tensors)
        metadata = describe(self._codes_of.code_length, self._num_rows) | self._codes_of.described()
        shapes = {name: (torch.uint8, shape) for name, (_, shape, _) in summary.items()}
        for tensor in tensors.values():
            write_all(self._codes, tensor.numpy().tobytes(), self._path)
        self._codes.seek(0)
        write_all(self._codes, header_of(shapes, sign(metadata, summary), HEADER_SIZE), self._path)
        with errors_named(self._path):
            os.fsync(self._codes.fileno())
        self._codes.close()
        self._partial.replace(self._path)
        sync_folder(self._path.parent)
        remove(self._lines, self._progress)

    def _tensors_beside(self) -> dict[str, Tensor]:
        if not self.unreadable and self._ids is None:
            return {}
        missing = {error.index for error in self.unreadable}
        ids = range(self.num_done) if self._ids is None else self._ids
        kept = json_tensor([id_ for place, id_ in enumerate(ids) if place not in missing])
        if not missing:
            return {"ids": kept}
        return {"ids": kept, "unreadable": json_tensor([_to_json(e) for e in self.unreadable])}

    def _continue(self) -> None:
        """Go to the end of what is valid, and cut off the rest.

        Raises:
            ValueError: If the files were begun for other codes, or a line says what none can say.
        """
        with (
            open(self._lines.fileno(), "rb", closefd=False) as lines,
            open(self._codes.fileno(), "rb", closefd=False) as codes,
        ):
            codes.seek(HEADER_SIZE)
            end = self._begin(lines.readline())
            for line in lines:
                if not self._holds(line, codes):
                    break
                end += len(line)
        self._lines.truncate(end)
        self._lines.seek(end)
        self._codes.truncate(HEADER_SIZE + self._num_rows * self._width)
        self._codes.seek(0, 2)

    def _begin(self, found: bytes) -> int:
        """Write the first line, if it is not there, and return its length."""
        expected = to_line(self._codes_of.described())
        if found != expected and not expected.startswith(found):
            raise ValueError(
                f"Expected `{self._progress}` to be begun for {self._codes_of}, "
                f"got {_from_line(found)}: delete it to begin anew."
            )
        if found != expected:
            self._lines.seek(0)
            write_all(self._lines, expected, self._path)
        return len(expected)

    def _holds(self, line: bytes, codes: BinaryIO) -> bool:
        """Tell whether a line is whole, and the next codes are those that it was written for."""
        record = _from_line(line)
        if record is None:
            return False
        num_items, num_rows, unreadable = self._checked(record)
        total, wanted = self._sum.copy(), (num_rows - self._num_rows) * self._width
        if wanted > os.fstat(codes.fileno()).st_size - codes.tell():
            return False
        total.update(codes.read(wanted))
        if total.hexdigest() != record.get("sha256"):
            return False
        self._sum, self._num_rows, self.num_done = total, num_rows, num_items
        self.unreadable += unreadable
        return True

    def _checked(self, record: Any) -> tuple[int, int, list[UnreadableImageError]]:
        """Return how many items and rows are done by a line, and its unreadable items.

        Raises:
            ValueError: If it is none that `append` writes. It has its checksum: somebody made it.
        """
        try:
            num_items, num_rows = index(record["items"]), index(record["rows"])
            unreadable = [_from_json(error) for error in record["unreadable"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_written(record) from error
        missing = [error.index for error in unreadable]
        most = self._codes_of.num_items or num_items
        new = range(self.num_done, num_items)
        if (
            not self.num_done < num_items <= most
            or num_rows - self._num_rows != num_items - self.num_done - len(missing)
            or missing != sorted(set(missing))
            or not all(place in new for place in missing)
        ):
            raise self._not_written(record)
        return num_items, num_rows, unreadable

    def _not_written(self, record: Any) -> ValueError:
        return ValueError(
            f"Expected `{self._progress}` to hold lines that {WRITTEN_BY} wrote, got "
            f"{str(record)[:99]} after item {self.num_done}: delete it to begin anew."
        )


def read_finished(
    path: str | os.PathLike[str], codes_of: CodesOf
) -> tuple[Tensor, list[UnreadableImageError]]:
    """Return the packed codes that a `CodeWriter` finished, mapped, and what could not be read.

    Raises:
        ValueError: If the file is damaged, or belongs to other codes.
    """
    tensors, metadata = read_code_file(path, written_by=WRITTEN_BY)
    found = {key: metadata[key] for key in CodesOf._fields if key in metadata}
    if found != codes_of.described():
        raise ValueError(
            f"Expected no file at `{path}`, or one for {codes_of}, got one for {found}: delete it "
            "to encode anew."
        )
    try:
        records = from_json_tensor(tensors["unreadable"]) if "unreadable" in tensors else []
        unreadable = [_from_json(record) for record in records]
        num_items = len(tensors["packed_codes"]) + len(unreadable)
        if codes_of.num_items not in (None, num_items):
            raise ValueError(f"it is of {num_items} items, not {codes_of.num_items}.")
        return tensors["packed_codes"], unreadable
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected a whole file that {WRITTEN_BY} wrote, got `{path}`: {error}"
        ) from error


def _from_line(line: bytes) -> Any:
    """Return the record of a line, or `None` if the line is cut or changed."""
    text = text_of(line)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text[:99]  # somebody made it


def _to_json(error: UnreadableImageError) -> list[Any]:
    return [str(error), error.path, error.index]


def _from_json(record: list[Any]) -> UnreadableImageError:
    message, path, place = record
    if not isinstance(message, str) or not isinstance(path, str):
        raise TypeError(f"{record!r:.99} is no unreadable item.")
    return UnreadableImageError(message, path=path, index=index(place))
