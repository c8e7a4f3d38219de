"""Data sets: images in files, splits for retrieval, and samples that know their place."""

from pml_hashing.datasets.image_files import ImageFiles
from pml_hashing.datasets.indexed import IndexedDataset
from pml_hashing.datasets.splits import RetrievalSplit, retrieval_split
from pml_hashing.datasets.unreadable import UnreadableImageError

__all__ = [
    "ImageFiles",
    "IndexedDataset",
    "RetrievalSplit",
    "UnreadableImageError",
    "retrieval_split",
]
