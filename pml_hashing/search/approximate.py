"""Approximate indexes of faiss: what to build, and how hard to search."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.codes import BITS_OF_A_BYTE
from pml_hashing.search._table import Table
from pml_hashing.search._table_index import TableIndex
from pml_hashing.search.exact import check_width
from pml_hashing.search.graph import Graph

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

    max_growth: ClassVar[float] = 4  # centroids learned from a quarter of the codes still serve

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

    max_growth: ClassVar[float] = math.inf

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
    """Finds near codes of a table by a faiss index, which follows its changes.

    Args:
        recipe: What to build. The first search does.
    """

    def __init__(self, recipe: IVF | HNSW) -> None:
        self.recipe = recipe
        self._followed = TableIndex(recipe)

    def nearest(self, query: Tensor, k: int, table: Table) -> tuple[Tensor, Tensor]:
        """Return distances and rows of `k` near codes; ties among those found in database order.

        A query for which the index finds fewer than `k` codes is searched exactly. Threads may
        search at once, as long as the table does not change meanwhile.

        Args:
            query: Packed codes.
            k: Number of neighbors.
            table: What to search, at least `k` codes.
        """
        index, row_of = self._followed.current(table)
        check_width(query, index.code_size)
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
        if not isinstance(self.recipe, HNSW) or not self._followed.is_of(table):
            return None
        index, row_of = self._followed.current(table)
        size = index.ntotal
        if not size == len(table) == table.num_rows or (row_of[:size] != np.arange(size)).any():
            return None
        return Graph.of(index, self.recipe.num_links)

    def restore(self, graph: Graph, table: Table) -> None:
        """Take a checked graph over all codes of a table, if it is of this recipe."""
        made_by = self.recipe
        if not isinstance(made_by, HNSW) or len(graph.levels) != len(table):
            return
        wanted = (made_by.num_links, made_by.ef_construction)
        if wanted == (graph.num_links, graph.ef_construction):
            index = graph.restored(table.tensors["packed_codes"].numpy())
            index.hnsw.efConstruction = made_by.ef_construction
            index.hnsw.efSearch = made_by.ef_search
            self._followed.adopt(index, table)
