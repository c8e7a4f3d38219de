"""Labels and other metadata of images: from sub-folders, a table, or a mapping."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from pml_hashing.datasets.tables import SEPARATOR, read_table, row_of, to_labels
from pml_hashing.search._arguments import to_value
from pml_hashing.search.store import Value, other_type

LABEL = "label"
FOLDERS, KEEP = "folders", "keep"
RESERVED = ("self", "codes", "ids")  # arguments of `HammingKNN.train`

Row: TypeAlias = dict[str, Value]
"""The metadata of one image."""

Metadata: TypeAlias = dict[str, list[Value]]
"""For each column one value per image."""

Labels: TypeAlias = str | os.PathLike[str] | Mapping[str, object] | None
"""`"folders"`, `"keep"`, the path of a table, or for names a label, labels, or columns."""


def by_name(names: Iterable[str], metadata: Metadata) -> dict[str, Row]:
    """Return the metadata of each of some images."""
    return {
        name: {column: values[place] for column, values in metadata.items()}
        for place, name in enumerate(names)
    }


def labels_of(value: Value) -> tuple[str, ...]:
    """Return the labels that the column `label` holds of an image."""
    return tuple(str(value).split(SEPARATOR)) if value is not None else ()


def join_labels(labels: Iterable[str]) -> str | None:
    """Return labels as one value of the column `label`, in one order; `None` for none.

    Raises:
        ValueError: If a label holds the separator, and would be read as two.
    """
    distinct = sorted({label.strip() for label in labels} - {""})
    if whole := [label for label in distinct if SEPARATOR in label]:
        raise ValueError(
            f"Expected labels without {SEPARATOR!r}, which stands between two, got {whole[0]!r}."
        )
    return SEPARATOR.join(distinct) or None


def rows_of(labels: Labels, root: Path, names: Sequence[str]) -> tuple[dict[str, Row], list[str]]:
    """Return the metadata of images by their names, and what is said of images that are not there.

    Args:
        labels: Where they come from.
        root: The folder of the images.
        names: The images.

    Raises:
        FileNotFoundError: If there is no such table.
        TypeError: If `labels` is nothing of these, or a mapping has something else than labels and
            columns, or a value that no column can have.
        ValueError: If the table is none, a folder or label has the separator of labels in it, or a
            number is NaN or beyond 64 bits.
    """
    if labels is None or labels == KEEP:
        return {}, []
    if labels == FOLDERS:
        return _rows_of_folders(names), []
    if isinstance(labels, Mapping):
        rows = {str(name): _to_row(str(name), value) for name, value in labels.items()}
    elif isinstance(labels, str | os.PathLike):
        rows = _read_table(Path(labels), root, set(names))
    else:
        raise TypeError(
            f'Expected `labels` to be "{FOLDERS}", "{KEEP}", a table, a dict or None, '
            f"got {type(labels).__name__}."
        )
    for row in rows.values():
        _check_columns(row)
    known = set(names)
    absent = sorted(name for name in rows if name not in known)
    return {name: row for name, row in rows.items() if name in known}, absent


def columns_of(
    held: Mapping[str, type | None], given: Mapping[str, Row], names: Collection[str]
) -> dict[str, type | None]:
    """Return all columns, sorted, and the types of their values after some are given.

    A column of integers becomes one of floats with the first float. One in which all images are
    given a value may become any.

    Args:
        held: The columns before, and their types.
        given: The rows of images that are given some.
        names: All images that there are then.

    Raises:
        TypeError: If a value is not of the type of its column.
    """
    counts, values = Counter[str](), dict[str, dict[type, Value]]()  # one of each type
    for row in map(given.__getitem__, filter(given.__contains__, names)):
        counts.update(row.keys())
        for column, value in row.items():
            values.setdefault(column, {}).setdefault(type(value), value)
    columns = dict(held) | dict.fromkeys(value for value in values if value not in held)
    for column, found in values.items():
        before = None if counts[column] == len(names) else columns[column]
        columns[column] = _joint_type(column, before, found)
    return dict(sorted(columns.items()))


def _joint_type(column: str, kind: type | None, found: Mapping[type, Value]) -> type | None:
    """Return the type of a column of one type that is given values of others."""
    for other, value in found.items():
        if kind is None or value is None or other is kind:
            kind = kind if value is None else other
        elif {kind, other} == {int, float}:
            kind = float
        else:
            raise other_type(column, kind, value)
    return kind


def _check_columns(row: Row) -> None:
    for column in row:
        if not isinstance(column, str) or not column.isidentifier() or column in RESERVED:
            raise ValueError(
                "Expected columns of metadata whose names are identifiers and none of "
                f"{', '.join(RESERVED)}, got {column!r}."
            )


def _rows_of_folders(names: Iterable[str]) -> dict[str, Row]:
    row_of: dict[str, Row] = {}  # one for all images of a folder
    rows = {}
    for name in names:
        folder, _, rest = name.partition("/")
        label = folder if rest else ""
        if label not in row_of:
            row_of[label] = {LABEL: join_labels([label])}
        rows[name] = row_of[label]
    return rows


def _to_row(name: str, value: object) -> Row:
    if isinstance(value, Mapping):
        row = {
            column: to_value(f"{column}` of `{name}", held)
            for column, held in value.items()
            if column != LABEL
        }
        return row | _to_row(name, value[LABEL]) if LABEL in value else row
    if value is None or isinstance(value, str):
        return {LABEL: join_labels((value or "").split(SEPARATOR))}
    if isinstance(value, Sequence) and all(isinstance(label, str) for label in value):
        return {LABEL: join_labels(value)}
    raise TypeError(
        f"Expected `labels` of {name!r} to be a label, a list of labels or a dict of columns, "
        f"got {value!r}."
    )


def _read_table(path: Path, root: Path, names: set[str]) -> dict[str, Row]:
    """Return the rows of a CSV file by the names of their images."""
    rows: dict[str, Row] = {}
    for row in read_table(path):
        with row_of(path, row):
            name = _to_name(row.path, path.parent, root, names)
            if name in rows:
                raise ValueError(f"{name!r} comes twice.")
            rows[name] = {column: cell or None for column, cell in row.cells.items()}
            if LABEL in row.cells:
                rows[name][LABEL] = join_labels(to_labels(row.cells[LABEL]))
    return rows


def _to_name(text: str, folder: Path, root: Path, names: set[str]) -> str:
    """Return the name of an image, whose path is in the folder of the images or the table's."""
    if text in names:
        return text
    path = os.path.relpath(folder.resolve() / text, root)
    return Path(path).as_posix()


def remembered(labels: Labels) -> str | None:
    """Return where labels come from, if later syncs look there again."""
    if labels is None or labels == KEEP or isinstance(labels, Mapping):
        return None
    return FOLDERS if labels == FOLDERS else str(Path(labels).resolve())
