"""Tables of images: CSV files whose first row names the columns, one of which holds paths."""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NamedTuple, Self

from pml_hashing._files import open_file

PATH_COLUMNS = ("path", "name", "file", "filename", "file_name", "image")
SEPARATOR = "|"


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
        line: Where it ends in the file, from 1 on.
        path: The path of its image, not empty. Bytes in it that are no UTF-8 are as Python has them
            in names of files.
        cells: What stands in the other columns, by their names, without spaces around it.
    """

    line: int
    path: str
    cells: dict[str, str]


def read_table(
    path: str | os.PathLike[str],
    path_column: str | None = None,
    columns: Sequence[str] | None = None,
) -> list[TableRow]:
    """Return the rows of a table, a CSV file in UTF-8. Empty lines are passed over.

    Args:
        path: The table.
        path_column: Name of the column with the paths. The first of `PATH_COLUMNS` that is there if
            `None`.
        columns: Names of the other columns that are wanted. All that have a name if `None`.

    Raises:
        FileNotFoundError: If there is no such file, or a folder, a pipe or a device in its place.
        ValueError: If it is not such a table, a column that is wanted is missing or comes twice, or
            a row has too few or too many cells, or no path. It names the file and the line.
    """
    with (
        open_file(path, "a table of images") as opened,
        # Names of files are bytes, of which some are no text.
        TextIOWrapper(opened, "utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        reader = csv.reader(file, strict=True)
        try:
            header = _Header.of(next(reader, []), path_column, columns)
            return [header.to_row(reader.line_num, cells) for cells in reader if cells]
        except (csv.Error, ValueError) as error:
            raise _wrong(path, reader.line_num, error) from error


@contextmanager
def row_of(path: str | os.PathLike[str], row: TableRow) -> Iterator[None]:
    """Turn what is wrong with a row into an error that names the table and the line."""
    try:
        yield
    except ValueError as error:
        raise _wrong(path, row.line, error) from error


def to_labels(text: str, separator: str = SEPARATOR) -> list[str]:
    """Return the labels in a cell. There are none in an empty one.

    Raises:
        ValueError: If one of several is empty.
    """
    labels = [label.strip() for label in text.split(separator)] if text.strip() else []
    if not all(labels):
        raise ValueError(f"one of the labels in {text!r} is empty.")
    return labels


def _wrong(path: str | os.PathLike[str], line: int, error: Exception) -> ValueError:
    return ValueError(
        f"Expected a table of images, a CSV file in UTF-8, at {path}, got another in line {line}: "
        f"{error}"
    )


class _Header(NamedTuple):
    """The cells of a row that are wanted, by their places."""

    num_cells: int
    path: int
    columns: dict[str, int]

    @classmethod
    def of(
        cls, names: Sequence[str], path_column: str | None, columns: Sequence[str] | None
    ) -> Self:
        names = [_text(name) for name in names]
        paths = PATH_COLUMNS if path_column is None else (path_column,)
        path = next((name for name in paths if name in names), None)
        if path is None:
            found = ", ".join(map(repr, names)) or "none"
            raise ValueError(f"none of its columns is {', '.join(paths)}, they are {found}.")
        if columns is None:  # some programs number the rows in a column without a name
            columns = [name for name in names if name not in ("", path)]
        for name in (path, *columns):
            if name not in names:
                raise ValueError(f"it has no column {name}.")
            if names.count(name) > 1:
                raise ValueError(f"it has {names.count(name)} columns {name}.")
        return cls(len(names), names.index(path), {name: names.index(name) for name in columns})

    def to_row(self, line: int, cells: Sequence[str]) -> TableRow:
        if len(cells) != self.num_cells:
            raise ValueError(f"it has {self.num_cells} columns, but not here.")
        path = cells[self.path].strip()
        if not path:
            raise ValueError("there is no path.")
        return TableRow(line, path, {name: _text(cells[at]) for name, at in self.columns.items()})


def _text(cell: str) -> str:
    text = cell.strip()
    if not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text):
        raise ValueError(f"{text!r} is not in UTF-8.")
    return text
