"""Rows of codes in main memory, in order of insertion, with their ids and metadata."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pml_hashing.search._ids import Ids
from pml_hashing.search.store import Fetched, Records, Value, Where, type_of


class Rows:
    """Rows of a tensor that makes room for twice as many whenever it is full.

    Args:
        rows: The first rows. They are kept without being copied, and may be mapped from a file.
        count: How many there are. All if `None`, else the rest is room for more.
    """

    def __init__(self, rows: Tensor, count: int | None = None) -> None:
        self._room, self._count = rows, len(rows) if count is None else count

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> Tensor:
        """All rows, for reading, and for writing into those that are there."""
        return self._room[: self._count]

    def append(self, rows: Tensor) -> None:
        """Copy rows behind the others."""
        count = self._count + len(rows)
        if count > len(self._room):
            room = self._room.new_empty(max(count, 2 * self._count), *self._room.shape[1:])
            room[: self._count] = self.values
            self._room = room
        self._room[self._count : count] = rows
        self._count = count


class Column:
    """One value per row, as the number of a distinct value. Number 0 is `None`.

    Args:
        numbers: int32, one for each row.
        values: The distinct values, the first of them `None`.
    """

    def __init__(self, numbers: Tensor, values: Sequence[Value] = (None,)) -> None:
        self.numbers, self.values = Rows(numbers), list(values)
        self._number_of = {value: number for number, value in enumerate(values)}

    @property
    def type(self) -> type | None:
        """The type of the values."""
        return type_of(self.values[1]) if len(self.values) > 1 else None

    def number(self, values: Sequence[Value]) -> Tensor:
        """Return the numbers of values, new ones where they are new."""
        number_of = self._number_of
        for value in values:
            if value not in number_of:
                number_of[value] = len(self.values)
                self.values.append(value)
        return torch.tensor([number_of[value] for value in values], dtype=torch.int32)

    def take(self, rows: np.ndarray) -> list[Value]:
        """Return the values in `rows`."""
        return [self.values[number] for number in self.numbers.values.numpy()[rows].tolist()]

    def matches(self, wanted: Sequence[Value]) -> np.ndarray:
        """Return for each row whether it holds one of the values."""
        numbers = self.numbers.values.numpy()
        found = [self._number_of[value] for value in wanted if value in self._number_of]
        if len(found) == 1:
            return numbers == found[0]
        is_wanted = np.zeros(len(self.values), dtype=bool)
        is_wanted[found] = True
        return is_wanted[numbers]


class Table:
    """Codes, ids, vectors and columns, row by row. A removed row stays, marked, until `compacted`.

    Args:
        packed_codes: uint8.
        ids: One for each code.
        vectors: float32, if there are any.
        columns: Of metadata.
        count: How many codes there are. All if `None`, else the rest is room for more.

    Attributes:
        is_kept: For each row whether it is not removed, bool. `None` as long as all rows are.
        replaced: Rows that were changed, in the order of the changes.
    """

    def __init__(
        self,
        packed_codes: Tensor,
        ids: Ids,
        vectors: Tensor | None = None,
        columns: Mapping[str, Column] | None = None,
        count: int | None = None,
    ) -> None:
        self.codes, self.ids = Rows(packed_codes, count), ids
        self.vectors = None if vectors is None else Rows(vectors, count)
        self.columns = dict(columns or {})
        self.is_kept: Rows | None = None
        self.replaced: list[int] = []
        self._num_removed = 0
        self._searched: tuple[Tensor, np.ndarray | None] | None = None

    def __len__(self) -> int:
        return len(self.codes) - self._num_removed

    def append(
        self,
        packed_codes: Tensor,
        ids: Sequence[Hashable] | None,
        next_id: int,
        vectors: Tensor | None,
        metadata: Mapping[str, Sequence[Value]],
    ) -> None:
        """Append rows, with the integers from `next_id` if there are no ids."""
        num_rows, count = len(self.codes), len(packed_codes)
        self.codes.append(packed_codes)
        if ids is None:
            self.ids.count_on(next_id, count)
        else:
            self.ids.extend(ids)
        if self.vectors is not None and vectors is not None:
            self.vectors.append(vectors)
        if self.is_kept is not None:
            self.is_kept.append(torch.ones(count, dtype=torch.bool))
        for name in metadata:
            if name not in self.columns:
                self.columns[name] = Column(torch.zeros(num_rows, dtype=torch.int32))
        for name, column in self.columns.items():
            column.numbers.append(column.number(metadata.get(name, [None] * count)))
        self._searched = None

    def replace(
        self,
        rows: np.ndarray,
        packed_codes: Tensor,
        vectors: Tensor | None,
        metadata: Mapping[str, Sequence[Value]],
    ) -> None:
        """Put other codes into rows, and values into the columns that are named."""
        places = torch.from_numpy(rows)
        self.codes.values[places] = packed_codes.cpu()
        if self.vectors is not None and vectors is not None:
            self.vectors.values[places] = vectors.cpu()
        for name, values in metadata.items():
            if name not in self.columns:
                self.columns[name] = Column(torch.zeros(len(self.codes), dtype=torch.int32))
            column = self.columns[name]
            column.numbers.values[places] = column.number(values)
        self.replaced.extend(rows.tolist())
        self._searched = None

    def remove(self, rows: np.ndarray) -> None:
        """Mark rows as removed."""
        if self.is_kept is None:
            self.is_kept = Rows(torch.ones(len(self.codes), dtype=torch.bool))
        self.is_kept.values[torch.from_numpy(rows)] = False
        self._num_removed += len(rows)
        self._searched = None

    def compacted(self) -> "Table":
        """Return this table, or a new one without its marks if these are more than what is kept.

        What changes takes constant time for each row, as a table is made anew no more often than
        there were as many changes as it has rows.
        """
        if max(self._num_removed, len(self.replaced)) * 2 <= len(self.codes):
            return self
        rows = self.kept_rows()
        places = torch.from_numpy(rows)
        columns = {}
        for name, column in self.columns.items():
            columns[name] = Column(torch.empty(0, dtype=torch.int32))
            columns[name].numbers.append(columns[name].number(column.take(rows)))
        vectors = None if self.vectors is None else self.vectors.values[places]
        return Table(self.codes.values[places], self.ids.kept(rows), vectors, columns)

    def find(self, ids: Sequence[Hashable]) -> np.ndarray:
        """Return the rows of `ids`, and -1 for an id that is not held."""
        rows = self.ids.find(ids)
        if self.is_kept is not None:
            known = np.flatnonzero(rows >= 0)
            rows[known[~self.is_kept.values.numpy()[rows[known]]]] = -1
        return rows

    def kept_rows(self, where: Where | None = None) -> np.ndarray:
        """Return the rows that are not removed and match, in order."""
        if self.is_kept is None and not where:
            return np.arange(len(self.codes))
        masks = [self._matches(name, wanted) for name, wanted in (where or {}).items()]
        if self.is_kept is not None:
            masks.append(self.is_kept.values.numpy())
        return np.flatnonzero(masks[0] if len(masks) == 1 else np.logical_and.reduce(masks))

    def _matches(self, name: str, wanted: Sequence[Value]) -> np.ndarray:
        if name in self.columns:
            return self.columns[name].matches(wanted)
        return np.full(len(self.codes), None in wanted)  # as in a column that all are without

    def kept_rows_from(self, start: int, count: int) -> np.ndarray:
        """Return those of `count` rows that are not removed."""
        if self.is_kept is None:
            return np.arange(start, min(start + count, len(self.codes)))
        return start + np.flatnonzero(self.is_kept.values[start : start + count].numpy())

    def fetched(self, rows: Tensor, what: Fetched) -> Tensor:
        """Return packed codes or vectors of rows, in their shape."""
        found = self.codes if what == "packed_codes" else self.vectors
        if found is None:
            raise ValueError("Expected a `store` with vectors, got one without.")
        return found.values[rows.to(found.values.device)]

    def count(self, where: Where) -> int:
        """Return the number of rows that match."""
        return len(self.kept_rows(where)) if where else len(self)

    def to_positions(self, rows: Tensor) -> Tensor:
        """Return the places of rows among those that are not removed."""
        if self.is_kept is None:
            return rows
        removed = (~self.is_kept.values).nonzero().flatten()
        return rows.cpu() - torch.searchsorted(removed, rows.cpu())

    def searched(self, device: torch.device, where: Where) -> tuple[Tensor, np.ndarray | None]:
        """Return the codes that match, on a device, and their rows if these are not all.

        What is made for all codes, elsewhere or without removed ones, is kept until they change.
        """
        if self._searched is not None and not where and self._searched[0].device == device:
            return self._searched
        rows = self.kept_rows(where) if where or self._num_removed else None
        codes = self.codes.values
        if rows is not None:
            codes = torch.from_numpy(np.take(codes.cpu().numpy(), rows, axis=0))
        found = codes.to(device), rows
        if not where:
            self._searched = found
        return found

    def records(self, rows: np.ndarray) -> Records:
        """Return all that is in `rows`."""
        places = torch.from_numpy(rows)
        return Records(
            self.ids.take(rows),
            self.codes.values[places],
            None if self.vectors is None else self.vectors.values[places],
            {name: column.take(rows) for name, column in self.columns.items()},
        )
