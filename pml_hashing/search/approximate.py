"""Approximate indexes of faiss: what to build, how hard to search, and how one follows changes."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.codes import BITS_OF_A_BYTE
from pml_hashing.search._table import Table, with_room
from pml_hashing.search.graph import Graph

MAX_GROWTH = 4  # centroids learned from a quarter of the codes still serve
NO_KEY = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class IVF:
    """Inverted lists: codes are clustered, and a query is compared with the nearest clusters only.

    The centroids are learned from the codes (faiss' k-means with a fixed seed), and anew once four
    times as many codes are held.

    Args:
        num_lists: Number of clusters. The square root of the number of codes if `None`.
        num_probes: Clusters that are searched for a query, of all there are.

    Raises:
        ValueError: If a number is less than 1.

    Examples:
        >>> import torch
        >>> from pml_hashing.search import IVF, HammingKNN
        >>> knn = HammingKNN(index=IVF(num_lists=2, num_probes=1))
        >>> knn.add(torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [1.0, 1.0, -1.0]]))
        >>> knn(torch.tensor([[1.0, 1.0, 1.0]]), k=2)[1]
        tensor([[1, 2]])
    """

    num_lists: int | None = None
    num_probes: int = 16

    def __post_init__(self) -> None:
        if self.num_lists is not None:
            check_at_least(self.num_lists, 1, "num_lists")
        check_at_least(self.num_probes, 1, "num_probes")

    def build(self, packed_codes: np.ndarray) -> Any:
        """Return a `faiss.IndexBinaryIVF` that holds `packed_codes`."""
        num_codes, width = packed_codes.shape
        num_lists = min(num_codes, self.num_lists or math.isqrt(num_codes))
        quantizer = faiss.IndexBinaryFlat(width * BITS_OF_A_BYTE)
        index = faiss.IndexBinaryIVF(quantizer, quantizer.d, num_lists)
        index.cp.min_points_per_centroid = 1  # fewer than 39 a list would be warned of on stderr
        index.nprobe = min(self.num_probes, num_lists)
        index.train(packed_codes)
        index.add(packed_codes)
        return index


@dataclass(frozen=True, kw_only=True)
class HNSW:
    """A navigable graph: every code is linked to near ones, and a query walks along the links.

    Args:
        num_links: Links of a code (twice as many on the ground level): 4 bytes each.
        ef_construction: Candidates that are kept in view when a code is linked.
        ef_search: Candidates that are kept in view when a query is answered, at least `k`.

    Raises:
        ValueError: If `num_links` is less than 2 or another number less than 1.

    Examples:
        >>> import torch
        >>> from pml_hashing.search import HNSW, HammingKNN
        >>> knn = HammingKNN(index=HNSW())
        >>> knn.add(torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [1.0, 1.0, -1.0]]))
        >>> knn(torch.tensor([[1.0, 1.0, 1.0]]), k=2)[1]
        tensor([[1, 2]])
    """

    num_links: int = 16
    ef_construction: int = 40
    ef_search: int = 64

    def __post_init__(self) -> None:
        check_at_least(self.num_links, 2, "num_links")
        check_at_least(self.ef_construction, 1, "ef_construction")
        check_at_least(self.ef_search, 1, "ef_search")

    def build(self, packed_codes: np.ndarray) -> Any:
        """Return a `faiss.IndexBinaryHNSW` that holds `packed_codes`."""
        index = faiss.IndexBinaryHNSW(packed_codes.shape[1] * BITS_OF_A_BYTE, self.num_links)
        index.hnsw.efConstruction = self.ef_construction
        index.hnsw.efSearch = self.ef_search
        index.add(packed_codes)
        return index


class ApproximateIndex:
    """A faiss index over a table, and for each code in it the row where that code is.

    faiss numbers codes as they come and cannot change or, in a graph, remove one. So a changed code
    is added again, a removed one stays and is passed over, and the index is built anew once more
    than half of it is gone, or once centroids were learned from too few codes. It looks what has
    changed whenever it is searched: nothing has to tell it.

    Args:
        recipe: What to build. The first search does.
    """

    def __init__(self, recipe: IVF | HNSW) -> None:
        self._recipe = recipe
        self._table: Table | None = None
        self._num_built = 0
        self._mutex = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., "ApproximateIndex"], tuple[IVF | HNSW]]:
        return ApproximateIndex, (self._recipe,)  # a copy builds its own

    def nearest(self, query: Tensor, k: int, table: Table) -> tuple[Tensor, Tensor]:
        """Return distances and rows of `k` near codes; ties among those found in database order.

        A query for which the index finds fewer than `k` codes is searched exactly. Threads may
        search at once, as long as the table does not change meanwhile.

        Args:
            query: Packed codes.
            k: Number of neighbours.
            table: What to search, at least `k` codes.
        """
        with self._mutex:
            self._follow(table)
            index, row_of = self._index, self._row_of.numpy()  # another thread may build anew
        found, numbers = index.search(query.cpu().numpy(), math.ceil(k * index.ntotal / len(table)))
        rows = table.without_removed(np.where(numbers >= 0, row_of[numbers], -1))
        keys = np.where(rows >= 0, found.astype(np.int64) * table.num_rows + rows, NO_KEY)
        keys.sort(axis=1)
        keys = torch.from_numpy(keys[:, :k])
        distances, rows = (keys // table.num_rows).int(), keys % table.num_rows
        missing = keys[:, -1] == NO_KEY
        if missing.any():
            distances[missing], rows[missing] = table.nearest_rows(query.cpu()[missing], k)
        return distances.to(query.device), rows.to(query.device)

    def graph(self, table: Table) -> Graph | None:
        """Return the graph over exactly the codes of a table in their order, if there is one.

        There is none before the first search, of an IVF, or after codes were replaced or removed.
        """
        with self._mutex:
            if not isinstance(self._recipe, HNSW) or self._table is not table:
                return None
            self._follow(table)
            size, rows = self._index.ntotal, self._row_of[: self._index.ntotal]
            if not size == len(table) == table.num_rows or (rows != torch.arange(size)).any():
                return None
            return Graph.of(self._index, self._recipe.num_links)

    def restore(self, graph: Graph, table: Table) -> None:
        """Take a checked graph over all codes of a table, if it is of this recipe."""
        made_by = self._recipe
        with self._mutex:
            if not isinstance(made_by, HNSW) or len(graph.levels) != len(table):
                return
            if (made_by.num_links, made_by.ef_construction) != (
                graph.num_links,
                graph.ef_construction,
            ):
                return
            index = graph.restored(table.tensors["packed_codes"].numpy())
            index.hnsw.efConstruction = made_by.ef_construction
            index.hnsw.efSearch = made_by.ef_search
            self._hold(index, table, np.arange(len(table)))
            self._num_rows, self._num_replaced = table.num_rows, len(table.replaced)

    def _hold(self, index: Any, table: Table, rows: np.ndarray) -> None:
        """Search in an index from now on, whose codes are in these rows of a table."""
        self._index, self._table, self._num_built = index, table, len(rows)
        self._row_of = self._number_of = torch.empty(0, dtype=torch.int64)
        self._number(rows, 0)

    def _follow(self, table: Table) -> None:
        """Add what is new in the table, and what was changed, or build anew."""
        grown = isinstance(self._recipe, IVF) and len(table) > MAX_GROWTH * self._num_built
        if self._table is not table or grown or self._index.ntotal > 2 * len(table):
            codes, rows_of = table.searched(torch.device("cpu"))
            rows = np.arange(len(codes)) if rows_of is None else rows_of
            self._hold(self._recipe.build(codes.numpy()), table, rows)
        else:
            changed = [row for row in table.replaced[self._num_replaced :] if row < self._num_rows]
            changed = np.unique(np.array(changed, dtype=np.int64))
            self._row_of[self._number_of[torch.from_numpy(changed)]] = -1
            rows = np.append(changed, np.arange(self._num_rows, table.num_rows))
            if len(rows):
                self._number(rows, self._index.ntotal)
                self._index.add(table.tensors["packed_codes"].numpy()[rows])
        self._num_rows, self._num_replaced = table.num_rows, len(table.replaced)

    def _number(self, rows: np.ndarray, first: int) -> None:
        """Note that the index numbers these rows from `first`."""
        places, stop = torch.from_numpy(rows), first + len(rows)
        self._row_of = with_room(self._row_of, stop)
        self._row_of[first:stop] = places
        self._number_of = with_room(self._number_of, 1 + int(rows.max()))
        self._number_of[places] = torch.arange(first, stop)
