"""Data sets: images in files, splits for retrieval, and samples that know their place."""

from pml_hashing.datasets.image_files import ImageFiles
from pml_hashing.datasets.indexed import EvenBatches, IndexedCollate, IndexedDataset
from pml_hashing.datasets.splits import RetrievalSplit, retrieval_split
from pml_hashing.datasets.unreadable import ReadableItems, UnreadableImageError

__all__ = [
    "EvenBatches",
    "ImageFiles",
    "IndexedCollate",
    "IndexedDataset",
    "ReadableItems",
    "RetrievalSplit",
    "UnreadableImageError",
    "retrieval_split",
]
