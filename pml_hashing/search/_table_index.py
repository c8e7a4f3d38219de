"""An index of faiss over a table of codes, which follows the table's changes."""

import threading
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from pml_hashing.search._table import Table, with_room


class Recipe(Protocol):
    """What to build.

    Attributes:
        max_growth: How many times as many codes as it was built of an index can serve.
    """

    max_growth: ClassVar[float]

    def build(self, packed_codes: np.ndarray) -> Any:
        """Return an index of faiss that holds the codes, or `None` if none would help."""


class TableIndex:
    """A faiss index over a table, and for each code in it the row where that code is.

    faiss numbers codes as they come and cannot change or, in most indexes, remove one. So a changed
    code is added again, a removed one stays and is passed over, and the index is built anew once
    more than half of it is gone, or there are many more codes than it was built of. It looks what
    has changed whenever it is asked for: nothing has to tell it.

    Args:
        recipe: What to build. A copy builds its own.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._table: Table | None = None
        self._num_built = 0
        self._mutex = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., "TableIndex"], tuple[Recipe]]:
        return TableIndex, (self._recipe,)

    def current(self, table: Table) -> tuple[Any, np.ndarray]:
        """Return the index over a table, and the row of each code in it, -1 if it was changed.

        The index is `None` if none would help. Removed codes are in it. Threads may ask at once, as
        long as the table does not change meanwhile.
        """
        with self._mutex:
            self._follow(table)
            return self._index, self._row_of.numpy()  # another thread may build anew

    def is_of(self, table: Table) -> bool:
        """Return whether an index over this table was built."""
        return self._table is table

    def adopt(self, index: Any, table: Table) -> None:
        """Take an index that holds all codes of a table, none of which was removed or changed."""
        with self._mutex:
            self._hold(index, table, np.arange(len(table)))

    def _hold(self, index: Any, table: Table, rows: np.ndarray) -> None:
        """Search in an index from now on, whose codes are in these rows of a table."""
        self._index, self._table, self._num_built = index, table, len(rows)
        self._row_of = self._number_of = torch.empty(0, dtype=torch.int64, device="cpu")
        if index is not None:
            self._number(rows, 0)
        self._seen = table.num_rows, len(table.replaced)

    def _follow(self, table: Table) -> None:
        """Add what is new in the table, and what was changed, or build anew."""
        if self._table is not table or self._is_outdated(table):
            codes, rows_of = table.searched(torch.device("cpu"))
            rows = np.arange(len(codes)) if rows_of is None else rows_of
            self._hold(self._recipe.build(codes.numpy()), table, rows)
        elif self._index is not None and self._seen != (table.num_rows, len(table.replaced)):
            self._add_changes(table)

    def _is_outdated(self, table: Table) -> bool:
        if len(table) > self._recipe.max_growth * self._num_built:
            return True
        return self._index is not None and self._index.ntotal > 2 * len(table)

    def _add_changes(self, table: Table) -> None:
        num_rows, num_replaced = self._seen
        changed = [row for row in table.replaced[num_replaced:] if row < num_rows]
        changed = np.unique(np.array(changed, dtype=np.int64))
        self._row_of[self._number_of[torch.from_numpy(changed)]] = -1
        rows = np.append(changed, np.arange(num_rows, table.num_rows))
        self._number(rows, self._index.ntotal)
        self._index.add(table.tensors["packed_codes"].numpy()[rows])
        self._seen = table.num_rows, len(table.replaced)

    def _number(self, rows: np.ndarray, first: int) -> None:
        """Note that the index numbers these rows from `first`."""
        places, stop = torch.from_numpy(rows), first + len(rows)
        self._row_of = with_room(self._row_of, stop)
        self._row_of[first:stop] = places
        self._number_of = with_room(self._number_of, 1 + int(rows.max()))
        self._number_of[places] = torch.arange(first, stop, device="cpu")
