"""Figures of codes and of what they retrieve. Each function returns a matplotlib figure."""

from pml_hashing.visualize.codes import plot_bits, plot_distances, plot_embedding
from pml_hashing.visualize.curves import (
    plot_by_code_length,
    plot_precision_by_radius,
    plot_precision_by_rank,
    plot_precision_recall,
)
from pml_hashing.visualize.gallery import choose_queries, plot_neighbors, plot_retrieval

__all__ = [
    "choose_queries",
    "plot_bits",
    "plot_by_code_length",
    "plot_distances",
    "plot_embedding",
    "plot_neighbors",
    "plot_precision_by_radius",
    "plot_precision_by_rank",
    "plot_precision_recall",
    "plot_retrieval",
]
