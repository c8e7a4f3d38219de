"""Approximate indexes of faiss: what to build, and how hard to search."""

import math
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from pml_hashing._checks import check_at_least
from pml_hashing.codes import BITS_OF_A_BYTE


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
