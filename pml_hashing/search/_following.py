"""An approximate index that follows its codes as they are added, changed and removed."""

import numpy as np
import torch
from torch import Tensor

from pml_hashing.search import _exact
from pml_hashing.search.approximate import HNSW, IVF

MAX_GROWTH = 4  # centroids learned from a quarter of the codes still serve
NO_KEY = np.iinfo(np.int64).max


class FollowingIndex:
    """A faiss index and, for each code in it, the row where that code is now.

    faiss numbers codes as they come and cannot change or, in a graph, remove one. So a changed code
    is added again, a removed one stays and is passed over, and the index is built anew once more
    than half of it is gone, or once centroids were learned from too few codes.

    Args:
        recipe: What to build.
        packed_codes: uint8, on the CPU, not empty.
    """

    def __init__(self, recipe: IVF | HNSW, packed_codes: Tensor) -> None:
        self._recipe = recipe
        self._build(packed_codes)

    def append(self, packed_codes: Tensor) -> None:
        """Follow codes that were added after the others."""
        self._numbers = np.concatenate([self._numbers, self._add(packed_codes)])

    def replace(self, rows: Tensor, packed_codes: Tensor) -> None:
        """Follow codes that were put in the place of others."""
        self._numbers[rows.numpy()] = self._add(packed_codes)

    def remove(self, rows: Tensor) -> None:
        """Follow the removal of codes."""
        self._numbers = np.delete(self._numbers, rows.numpy())
        self._row_of_number = None

    def nearest(self, query: Tensor, k: int, packed_codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances and rows of `k` near codes; ties among those found in database order.

        A query for which the index finds fewer than `k` codes is searched exactly.

        Args:
            query: Packed codes.
            k: Number of neighbours.
            packed_codes: All codes, on the CPU, at least `k`.
        """
        grown = isinstance(self._recipe, IVF) and len(packed_codes) > MAX_GROWTH * self._built
        if grown or self._index.ntotal > 2 * len(packed_codes):
            self._build(packed_codes)
        queries, codes = query.cpu().numpy(), packed_codes.numpy()
        distances, rows = self._found(queries, k, len(codes))
        missing = rows[:, -1] < 0
        if missing.any():
            distances[missing], rows[missing] = _exact.nearest_arrays(queries[missing], codes, k)
        return torch.from_numpy(distances).to(query.device), torch.from_numpy(rows).to(query.device)

    def _found(self, queries: np.ndarray, k: int, num_codes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what faiss finds, in order, with rows of -1 at the end where it finds less."""
        share_gone = self._index.ntotal / num_codes  # look for that many more than k
        distances, numbers = self._index.search(queries, int(np.ceil(k * share_gone)))
        rows = np.where(numbers >= 0, self._rows()[numbers], -1)
        keys = np.where(rows >= 0, distances.astype(np.int64) * num_codes + rows, NO_KEY)
        keys.sort(axis=1)
        keys = keys[:, :k]
        distances, rows = np.divmod(keys, num_codes)
        return distances.astype(np.int32), np.where(keys == NO_KEY, -1, rows)

    def _rows(self) -> np.ndarray:
        """Return the row of every number that faiss gave, -1 where that code is gone."""
        rows = self._row_of_number
        if rows is None:
            rows = np.full(self._index.ntotal, -1)
            rows[self._numbers] = np.arange(len(self._numbers))
            self._row_of_number = rows
        return rows

    def _add(self, packed_codes: Tensor) -> np.ndarray:
        first = self._index.ntotal
        self._index.add(packed_codes.cpu().numpy())
        self._row_of_number = None
        return np.arange(first, self._index.ntotal)

    def _build(self, packed_codes: Tensor) -> None:
        self._index = self._recipe.build(packed_codes.numpy())
        self._built = len(packed_codes)
        self._numbers = np.arange(self._built)  # of the code in each row
        self._row_of_number: np.ndarray | None = None
