"""Where codes and their ids are kept: a small interface, and the memory behind it."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from pml_hashing.search import _exact


class CodeStore(ABC):
    """Codes in database order, each with an id of its own, and real-valued vectors if wanted.

    `HammingKNN` checks all that it hands over: shapes, lengths, that ids are new. Rows are numbers
    from 0 to `len(store) - 1`. Implement this to keep codes elsewhere than in memory.
    """

    @property
    @abstractmethod
    def code_length(self) -> int | None:
        """Number of bits of a code, or `None` as long as it is not known."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def reset(self, code_length: int | None) -> None:
        """Forget all codes, and expect codes of this length."""

    @abstractmethod
    def append(
        self, packed_codes: Tensor, ids: Sequence[Hashable] | None, vectors: Tensor | None
    ) -> None:
        """Keep codes after those kept so far.

        Args:
            packed_codes: uint8, `(n, ceil(code_length / 8))`, to be copied.
            ids: New ids, distinct. If `None`, integers count on from the largest there was.
            vectors: float32, `(n, code_length)`, for every code of the store or for none.
        """

    def adopt(
        self, packed_codes: Tensor, ids: Sequence[Hashable] | None, vectors: Tensor | None
    ) -> None:
        """Keep codes as `append` does, in an empty store, but without copying them if it can.

        They are the store's from now on, and may be mapped from a file.
        """
        self.append(packed_codes, ids, vectors)

    @abstractmethod
    def replace(self, rows: Tensor, packed_codes: Tensor, vectors: Tensor | None) -> None:
        """Put other codes in the place of those in `rows`. Their ids stay."""

    @abstractmethod
    def remove(self, rows: Tensor) -> None:
        """Forget the codes in `rows`. Those behind them move up."""

    @abstractmethod
    def packed_codes(self, device: torch.device | None = None) -> Tensor:
        """Return all codes, packed, in database order, for reading only.

        Args:
            device: Where they are wanted. The CPU if `None`.
        """

    @abstractmethod
    def vectors(self, rows: Tensor) -> Tensor:
        """Return the vectors of `rows`, on the CPU."""

    @abstractmethod
    def ids(self, rows: Tensor) -> list[Hashable]:
        """Return the ids of `rows`."""

    @abstractmethod
    def rows(self, ids: Iterable[Hashable]) -> Tensor:
        """Return the rows of `ids`, int64, and -1 for an id that is not kept."""

    def nearest(self, packed_query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return distances and rows of the `k` nearest codes, exactly, ties in database order.

        A store whose codes are spread over machines overrides this and `within`, to search where
        the codes are.
        """
        codes = self.packed_codes(packed_query.device)
        return _exact.nearest(packed_query, codes, self.code_length or 0, k)

    def within(self, packed_query: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return how many codes are within `radius` of each query, their distances and rows."""
        codes = self.packed_codes(packed_query.device)
        return _exact.within(packed_query, codes, self.code_length or 0, radius)


class MemoryStore(CodeStore):
    """Codes, ids and vectors in main memory. Adding takes amortized constant time for a code."""

    def __init__(self) -> None:
        self.reset(None)

    @property
    def code_length(self) -> int | None:
        return self._code_length

    def __len__(self) -> int:
        return len(self._codes)

    def reset(self, code_length: int | None) -> None:
        self._code_length = code_length
        self._codes, self._vectors = _Rows(), _Rows()
        self._ids: list[Hashable] | None = None  # None: the id of a code is its row
        self._next_id = 0
        self._forget_derived()

    def append(
        self, packed_codes: Tensor, ids: Sequence[Hashable] | None, vectors: Tensor | None
    ) -> None:
        self._append(packed_codes, ids, vectors, copied=True)

    def adopt(
        self, packed_codes: Tensor, ids: Sequence[Hashable] | None, vectors: Tensor | None
    ) -> None:
        self._append(packed_codes, ids, vectors, copied=False)

    def _append(
        self,
        packed_codes: Tensor,
        ids: Sequence[Hashable] | None,
        vectors: Tensor | None,
        *,
        copied: bool,
    ) -> None:
        automatic = range(self._next_id, self._next_id + len(packed_codes))
        if ids is not None or self._ids is not None:
            held = self._own_ids()
            held.extend(automatic if ids is None else ids)
        integers = automatic if ids is None else (id_ for id_ in ids if isinstance(id_, int))
        self._next_id = max(self._next_id, 1 + max(integers, default=-1))
        self._codes.append(packed_codes, copied=copied)
        if vectors is not None:
            self._vectors.append(vectors, copied=copied)
        self._forget_derived()

    def replace(self, rows: Tensor, packed_codes: Tensor, vectors: Tensor | None) -> None:
        self._codes.values[rows] = packed_codes.cpu()
        if vectors is not None:
            self._vectors.values[rows] = vectors.cpu()
        self._on_device = None

    def remove(self, rows: Tensor) -> None:
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[rows] = False
        self._ids = [id_ for id_, keep in zip(self._own_ids(), kept.tolist(), strict=True) if keep]
        self._codes.keep(kept)
        if len(self._vectors):
            self._vectors.keep(kept)
        self._forget_derived()

    def packed_codes(self, device: torch.device | None = None) -> Tensor:
        codes = self._codes.values
        if device is None or device.type == "cpu":
            return codes
        if self._on_device is None or self._on_device.device != device:
            self._on_device = codes.to(device)
        return self._on_device

    def vectors(self, rows: Tensor) -> Tensor:
        return self._vectors.values[rows]

    def ids(self, rows: Tensor) -> list[Hashable]:
        if self._ids is None:
            return rows.tolist()
        return [self._ids[row] for row in rows.tolist()]

    def rows(self, ids: Iterable[Hashable]) -> Tensor:
        if self._row_of_id is None:
            held = range(len(self)) if self._ids is None else self._ids
            self._row_of_id = {id_: row for row, id_ in enumerate(held)}
        return torch.tensor([self._row_of_id.get(id_, -1) for id_ in ids], dtype=torch.int64)

    def _own_ids(self) -> list[Hashable]:
        if self._ids is None:
            self._ids = list(range(len(self)))
        return self._ids

    def _forget_derived(self) -> None:
        self._row_of_id: dict[Hashable, int] | None = None
        self._on_device: Tensor | None = None  # a copy of the codes where they were last searched


class _Rows:
    """Rows of a tensor that makes room for twice as many whenever it is full."""

    def __init__(self) -> None:
        self._room = torch.empty(0)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> Tensor:
        return self._room[: self._count]

    def append(self, rows: Tensor, *, copied: bool) -> None:
        count = self._count + len(rows)
        if not copied and not self._count:
            self._room, self._count = rows, count
            return
        if count > len(self._room):
            size = max(count, 2 * self._count)
            room = torch.empty(size, rows.shape[1], dtype=rows.dtype)
            if self._count:
                room[: self._count] = self.values
            self._room = room
        self._room[self._count : count] = rows
        self._count = count

    def keep(self, kept: Tensor) -> None:
        self._room = self.values[kept]
        self._count = len(self._room)
