"""Data sets: images in files or arrays, splits for retrieval, samples that know their place."""

from pml_hashing.datasets._base import LabelledImages
from pml_hashing.datasets.image_arrays import ImageArrays
from pml_hashing.datasets.image_files import ImageFiles
from pml_hashing.datasets.indexed import IndexedDataset
from pml_hashing.datasets.splits import RetrievalSplit, retrieval_split
from pml_hashing.datasets.unreadable import UnreadableImageError

__all__ = [
    "ImageArrays",
    "ImageFiles",
    "IndexedDataset",
    "LabelledImages",
    "RetrievalSplit",
    "UnreadableImageError",
    "retrieval_split",
]
