"""The graph of an HNSW index as plain tensors, checked before faiss walks along it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check
from pml_hashing.codes import BITS_OF_A_BYTE


@dataclass(frozen=True)
class Graph:
    """The links of an HNSW index over codes, each on the levels from the ground up to its own.

    faiss reads wherever a link leads: what comes from a file must be checked (`check`).

    Attributes:
        levels: The number of levels of every code, int32 `(n,)`.
        neighbors: Links, -1 for none: code by code, and level by level of a code, int32.
        num_links: Room for links of a code on a level; twice as much on the ground.
        ef_construction: Candidates that were kept in view when a code was linked.
        entry: The code that every walk starts from, one of the highest level.
    """

    levels: Tensor
    neighbors: Tensor
    num_links: int
    ef_construction: int
    entry: int

    @classmethod
    def of(cls, index: Any, num_links: int) -> "Graph":
        """Return a copy of the graph of a `faiss.IndexBinaryHNSW`."""
        levels, neighbors = (
            torch.from_numpy(faiss.vector_to_array(vector).astype(np.int32))
            for vector in (index.hnsw.levels, index.hnsw.neighbors)
        )
        return cls(levels, neighbors, num_links, index.hnsw.efConstruction, index.hnsw.entry_point)

    @classmethod
    def of_file(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> "Graph | None":
        """Return what `to_file` wrote, after checking it; `None` where no graph was written.

        Raises:
            KeyError: If a part is missing.
            ValueError: If a part is out of range.
        """
        if not any(name.startswith("graph_") for name in [*tensors, *metadata]):
            return None
        names = ("graph_links", "graph_ef_construction", "graph_entry")
        numbers = (int(metadata[name]) for name in names)
        graph = cls(tensors["graph_levels"], tensors["graph_neighbors"], *numbers)
        graph.check()
        return graph

    def to_file(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the graph as tensors and metadata of a file."""
        return {"graph_levels": self.levels, "graph_neighbors": self.neighbors}, {
            "graph_links": str(self.num_links),
            "graph_ef_construction": str(self.ef_construction),
            "graph_entry": str(self.entry),
        }

    def check(self) -> None:
        """Raise unless every link leads to a code that has the link's level.

        Raises:
            ValueError: If one does not, or another number is out of range.
        """
        levels, neighbors, size = self.levels.numpy(), self.neighbors.numpy(), len(self.levels)
        # faiss counts links in int32; 2**16 of a code would be 512 KB.
        check(2 <= self.num_links <= 2**16, "`graph_links` from 2 to 65536", self.num_links)
        room = rooms(self.num_links)
        check(self.ef_construction >= 1, "`graph_ef_construction` of 1", self.ef_construction)
        check(
            size > 0 and 1 <= levels.min() <= levels.max() < len(room),
            f"`graph_levels` from 1 to {len(room) - 1}",
            f"{levels.min()} to {levels.max()}" if size else "none",
        )
        starts = offsets(levels, room)
        check(len(neighbors) == starts[-1], f"{starts[-1]} `graph_neighbors`", len(neighbors))
        check(
            -1 <= neighbors.min() <= neighbors.max() < size,
            f"`graph_neighbors` from -1 to {size - 1}",
            f"{neighbors.min()} to {neighbors.max()}",
        )
        for level in range(1, levels.max()):
            places = starts[:-1][levels > level, None] + np.arange(room[level], room[level + 1])
            found = neighbors[places]
            is_there = (found < 0) | (levels[found] > level)
            check(is_there.all(), f"`graph_neighbors` of level {level} on it", "others")
        highest = 0 <= self.entry < size and levels[self.entry] == levels.max()
        check(highest, "`graph_entry` of the highest level", self.entry)

    def restored(self, packed_codes: np.ndarray) -> Any:
        """Return the `faiss.IndexBinaryHNSW` that this is the graph of.

        Args:
            packed_codes: The codes, as many as the graph has.
        """
        num_codes, width = packed_codes.shape
        index = faiss.IndexBinaryHNSW(width * BITS_OF_A_BYTE, self.num_links)
        index.storage.add(packed_codes)
        index.ntotal, graph, levels = num_codes, index.hnsw, self.levels.numpy()
        starts = offsets(levels, rooms(self.num_links)).astype(np.uint64)
        faiss.copy_array_to_vector(levels, graph.levels)
        faiss.copy_array_to_vector(starts, graph.offsets)
        faiss.copy_array_to_vector(self.neighbors.numpy(), graph.neighbors)
        graph.entry_point, graph.max_level = self.entry, int(levels.max()) - 1
        return index


def rooms(num_links: int) -> np.ndarray:
    """Return where the links of every level begin among those of a code, as faiss lays them."""
    index = faiss.IndexBinaryHNSW(BITS_OF_A_BYTE, num_links)  # which must outlive its table
    return faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level).astype(np.int64)


def offsets(levels: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Return where the links of every code begin, and at last their number, `(n + 1,)`."""
    return np.append(0, np.cumsum(room[levels]))
