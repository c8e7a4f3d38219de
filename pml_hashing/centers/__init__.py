"""Codes of classes: codes that lie far apart, and which class gets which."""

from pml_hashing.centers.assigned import assigned_codes
from pml_hashing.centers.assignment import assign_codes
from pml_hashing.centers.constrained import minimal_distance, semantic_centers, separated_centers
from pml_hashing.centers.hadamard_codes import hadamard, hash_centers
from pml_hashing.centers.linear_codes import linear_codes
from pml_hashing.centers.similarity import class_similarity, gather_features
from pml_hashing.centers.spread import smallest_distance, spread_codes

__all__ = [
    "assign_codes",
    "assigned_codes",
    "class_similarity",
    "gather_features",
    "hadamard",
    "hash_centers",
    "linear_codes",
    "minimal_distance",
    "semantic_centers",
    "separated_centers",
    "smallest_distance",
    "spread_codes",
]
