"""Search by Hamming distance."""

from pml_hashing.search.approximate import HNSW, IVF
from pml_hashing.search.hamming_knn import HammingKNN
from pml_hashing.search.memory_store import MemoryStore
from pml_hashing.search.store import CodeStore, Neighbors, Records

__all__ = ["HNSW", "IVF", "CodeStore", "HammingKNN", "MemoryStore", "Neighbors", "Records"]
