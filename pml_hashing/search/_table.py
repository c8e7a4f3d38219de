"""Rows of codes in main memory, in order of insertion, with their ids and metadata."""

from collections.abc import Hashable, Iterable, Sequence
from functools import reduce
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pml_hashing.code_file import COLUMN
from pml_hashing.codes import packed_length
from pml_hashing.search import exact
from pml_hashing.search._ids import Ids, to_array
from pml_hashing.search.store import Fetched, Records, Value, Where, type_of

KEPT = "is_kept"  # the tensor that marks rows, beside those of a file


class Column:
    """The distinct values of a column of metadata and their numbers. Number 0 is `None`."""

    def __init__(self, values: Iterable[Value] = ()) -> None:
        self.values = [None, *values]
        self._number_of = {value: number for number, value in enumerate(self.values)}

    def to_numbers(self, values: Sequence[Value]) -> Tensor:
        """Return the numbers of values, new ones where they are new."""
        for value in values:
            if value not in self._number_of:
                self._number_of[value] = len(self.values)
                self.values.append(value)
        return torch.tensor(
            [self._number_of[value] for value in values], dtype=torch.int32, device="cpu"
        )

    def matches(self, wanted: Sequence[Value], numbers: np.ndarray) -> np.ndarray:
        """Return for each number whether it is that of one of the values."""
        found = [self._number_of[value] for value in wanted if value in self._number_of]
        if len(found) == 1:
            return numbers == found[0]
        is_wanted = np.zeros(len(self.values), dtype=bool)
        is_wanted[found] = True
        return is_wanted[numbers]


class Table:
    """Codes, ids, vectors and columns, row by row. A removed row stays, marked, until `compacted`.

    Args:
        code_length: Number of bits, if known.
        tensors: As in a file, from which they may be mapped: `packed_codes`, `vectors` if they are
            kept, and the numbers of each column. They may have more rows, as room for more.
        ids: One for each row.
        columns: The values of each column.

    Attributes:
        replaced: Rows that were changed, in the order of the changes.
        num_rows: Number of rows, the removed ones among them.
    """

    def __init__(
        self,
        code_length: int | None,
        tensors: dict[str, Tensor],
        ids: Ids,
        columns: dict[str, Column] | None = None,
    ) -> None:
        self.code_length, self._room, self.ids = code_length, dict(tensors), ids
        self.columns = {} if columns is None else columns
        self.num_rows, self._num_removed, self.replaced = len(ids), 0, list[int]()
        self._searched: tuple[Tensor, np.ndarray | None] | None = None

    @classmethod
    def empty(cls, code_length: int | None, *, with_vectors: bool, room: int = 0) -> "Table":
        """Return a table without rows, with room for so many."""
        codes = torch.empty(room, packed_length(code_length or 0), dtype=torch.uint8, device="cpu")
        vectors = (
            {"vectors": torch.empty(room, code_length or 0, device="cpu")} if with_vectors else {}
        )
        return cls(code_length, {"packed_codes": codes} | vectors, Ids())

    def __len__(self) -> int:
        return self.num_rows - self._num_removed

    @property
    def with_vectors(self) -> bool:
        """Whether there are vectors."""
        return "vectors" in self._room

    @property
    def types(self) -> dict[str, type | None]:
        """The type of each column."""
        return {name: type_of(column.values[:2]) for name, column in self.columns.items()}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of rows, for reading."""
        return {name: tensor[: self.num_rows] for name, tensor in self._room.items()}

    def append(self, records: Records) -> None:
        """Append all of the records but their ids."""
        rows, stop = self._to_rows(records), self.num_rows + len(records.packed_codes)
        for name, tensor in self._room.items():
            self._room[name] = with_room(tensor, stop)
            self._room[name][self.num_rows : stop] = rows.get(name, 1 if name == KEPT else 0)
        self.num_rows, self._searched = stop, None

    def replace(self, rows: np.ndarray, records: Records) -> None:
        """Put codes and vectors into rows, and values into the columns that are named."""
        for name, tensor in self._to_rows(records).items():
            self._room[name][torch.from_numpy(rows)] = tensor.cpu()
        self.replaced.extend(rows.tolist())
        self._searched = None

    def remove(self, rows: np.ndarray) -> None:
        """Mark rows as removed."""
        if len(rows) == 0:
            return
        if KEPT not in self._room:
            size = len(self._room["packed_codes"])
            self._room[KEPT] = torch.ones(size, dtype=torch.bool, device="cpu")
        self._room[KEPT][torch.from_numpy(rows)] = False
        self._num_removed += len(rows)
        self._searched = None

    def compacted(self) -> "Table":
        """Return this table, or a new one without its marks if these are more than what is kept.

        What changes takes constant time for each row, as a table is made anew no more often than
        there were as many changes as it has rows.
        """
        if max(self._num_removed, len(self.replaced)) * 2 <= self.num_rows:
            return self
        return self._anew()

    def copied(self) -> "Table":
        """Return a copy of what is not removed, which later changes leave as it is."""
        if self._num_removed or self.replaced:
            return self._anew()
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        columns = {name: Column(column.values[1:]) for name, column in self.columns.items()}
        table = Table(self.code_length, tensors, Ids(self.ids.to_array()), columns)
        table.ids.skip_to(self.ids.next_id)
        return table

    def _anew(self) -> "Table":
        records = self.records(self.rows())
        table = Table.empty(self.code_length, with_vectors=self.with_vectors, room=len(self))
        table.append(records)
        table.ids = Ids(to_array(records.ids))
        table.ids.skip_to(self.ids.next_id)
        return table

    def find(self, ids: Sequence[Hashable]) -> np.ndarray:
        """Return the rows of `ids`, and -1 for an id that is not held."""
        return self.without_removed(self.ids.find(ids))

    def without_removed(self, rows: np.ndarray) -> np.ndarray:
        """Put -1 in the place of rows that are removed, and return them."""
        if self._num_removed:
            rows[~self._room[KEPT].numpy()[rows]] = -1
        return rows

    def rows(
        self, where: Where | None = None, start: int = 0, stop: int | None = None
    ) -> np.ndarray:
        """Return the rows from `start` that are not removed and match, in order."""
        part = slice(start, min(self.num_rows, stop or self.num_rows))
        masks = self._matches(part, where or {})
        if KEPT in self._room:
            masks.append(self._room[KEPT][part].numpy())
        if not masks:
            return np.arange(part.start, part.stop)
        return start + np.flatnonzero(reduce(np.logical_and, masks))

    def nearest_rows(
        self, query: Tensor, k: int, where: Where | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return distances and rows as `exact.nearest`, of at most `k` codes that match."""
        codes, rows_of = self.searched(query.device, where)
        distances, rows = exact.nearest(query, codes, min(k, codes.shape[0]))
        return distances, _rows_in(rows_of, rows)

    def within_rows(self, query: Tensor, radius: int, where: Where) -> exact.Within:
        """Return sizes, distances and rows as `exact.within`, of the codes that match."""
        codes, rows_of = self.searched(query.device, where)
        sizes, distances, rows = exact.within(query, codes, radius)
        return sizes, distances, _rows_in(rows_of, rows)

    def searched(
        self, device: torch.device, where: Where | None = None
    ) -> tuple[Tensor, np.ndarray | None]:
        """Return the codes that match, on a device, and their rows if these are not all.

        What is made for all codes, elsewhere or without removed ones, is kept until they change.
        """
        found = None if where else self._searched
        if found is not None and found[0].device == device:
            return found
        rows = self.rows(where) if where or self._num_removed else None
        codes = self._room["packed_codes"][: self.num_rows]
        if rows is not None:
            codes = torch.from_numpy(np.take(codes.cpu().numpy(), rows, axis=0))
        found = codes.to(device), rows
        if not where:
            self._searched = found
        return found

    def ids_of(self, rows: Tensor, sizes: list[int]) -> list[list[Hashable]]:
        """Return the ids of rows, so many for each query."""
        ids = self.ids.take(rows.cpu().numpy().ravel())
        if len(sizes) == 1:
            return [ids]
        each = iter(ids)
        return [list(islice(each, size)) for size in sizes]

    def to_positions(self, rows: Tensor) -> Tensor:
        """Return the places of rows among those that are not removed."""
        if not self._num_removed:
            return rows
        kept = None if self._searched is None else self._searched[1]
        kept = self.rows() if kept is None else kept
        return torch.from_numpy(np.searchsorted(kept, rows.cpu().numpy())).to(rows.device)

    def take(self, name: Fetched, rows: Tensor) -> Tensor:
        """Return packed codes or vectors of rows, in their shape and on their device."""
        if name not in self._room:
            raise ValueError("Expected a `store` with vectors, got one without.")
        tensor = self._room[name]
        return tensor[rows.to(tensor.device)].to(rows.device)

    def records(self, rows: np.ndarray) -> Records:
        """Return all that is in `rows`."""
        taken = {name: tensor[torch.from_numpy(rows)] for name, tensor in self._room.items()}
        metadata = {
            name: [column.values[number] for number in taken[COLUMN + name].tolist()]
            for name, column in self.columns.items()
        }
        return Records(self.ids.take(rows), taken["packed_codes"], taken.get("vectors"), metadata)

    def matches(self, rows: np.ndarray, where: Where) -> np.ndarray:
        """Return for each row whether it matches."""
        return reduce(np.logical_and, self._matches(rows, where), np.ones(len(rows), dtype=bool))

    def _matches(self, part: slice | np.ndarray, where: Where) -> list[np.ndarray]:
        """Return for each condition which rows of a part match."""
        masks = []
        for name, wanted in where.items():
            if name in self.columns:
                numbers = self._room[COLUMN + name].numpy()[part]
                masks.append(self.columns[name].matches(wanted, numbers))
            else:  # it is no more, since the condition was checked: all have `None`
                size = len(part) if isinstance(part, np.ndarray) else part.stop - part.start
                masks.append(np.full(size, None in wanted))
        return masks

    def _to_rows(self, records: Records) -> dict[str, Tensor]:
        """Return records as rows of the tensors, after making the columns that are new."""
        rows = {"packed_codes": records.packed_codes}
        if self.with_vectors and records.vectors is not None:
            rows["vectors"] = records.vectors
        for name, values in records.metadata.items():
            if name not in self.columns:
                self.columns[name] = Column()
                room = len(self._room["packed_codes"])
                self._room[COLUMN + name] = torch.zeros(room, dtype=torch.int32, device="cpu")
            rows[COLUMN + name] = self.columns[name].to_numbers(values)
        return rows


def with_room(tensor: Tensor, needed: int) -> Tensor:
    """Return a tensor of rows, or a copy twice as long, or more, if it has less than are needed."""
    if needed <= len(tensor):
        return tensor
    room = tensor.new_empty(max(needed, 2 * len(tensor)), *tensor.shape[1:])
    room[: len(tensor)] = tensor
    return room


def _rows_in(rows_of: np.ndarray | None, places: Tensor) -> Tensor:
    """Return the rows in a table of places among the codes that were searched."""
    if rows_of is None:
        return places
    return torch.from_numpy(rows_of[places.cpu().numpy()]).to(places.device)
