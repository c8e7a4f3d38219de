"""Distances between codes, for PML's losses, miners, `MatchFinder` and `CustomKNN`."""

from pml_hashing.distances.hamming_distance import HammingDistance

__all__ = ["HammingDistance"]
