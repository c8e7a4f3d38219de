"""Search by Hamming distance."""

from pml_hashing.search.hamming_knn import HammingKNN

__all__ = ["HammingKNN"]
