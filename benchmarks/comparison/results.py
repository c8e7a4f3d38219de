"""One JSON line for each finished cell, in a file that survives being killed; or all as CSV."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Return all records of a file, none if it does not exist. A torn last line does not count.

    Raises:
        ValueError: If another line is no JSON object.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records.append(dict(json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected a JSON object in line {number} of {path}, got {line[:60]!r}."
            ) from error
    return records


def drop_torn_line(path: Path) -> None:
    """Cut off an unfinished last line, which a killed process left."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line, in a single write that is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        os.fsync(file.fileno())


def write_csv(path: Path, records: Iterable[Record]) -> None:
    """Write a row for each record, and a column for each value, also those of the budget.

    What a record lacks, as float features lack a code length, is an empty cell.
    """
    rows = [_flat(record) for record in records]
    columns = list(dict.fromkeys(column for row in rows for column in row))

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, write)


def _flat(record: Record) -> Record:
    flat: Record = {}
    for name, value in record.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path, and move that file to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
