"""Data sets: images in files or arrays, splits for retrieval, samples that know their place."""

from pml_hashing.datasets._base import LabelledImages
from pml_hashing.datasets.image_arrays import ImageArrays
from pml_hashing.datasets.image_files import ImageFiles
from pml_hashing.datasets.indexed import EvenBatches, IndexedCollate, IndexedDataset
from pml_hashing.datasets.splits import RetrievalSplit, retrieval_split
from pml_hashing.datasets.unreadable import ReadableItems, UnreadableImageError

__all__ = [
    "EvenBatches",
    "ImageArrays",
    "ImageFiles",
    "IndexedCollate",
    "IndexedDataset",
    "LabelledImages",
    "ReadableItems",
    "RetrievalSplit",
    "UnreadableImageError",
    "retrieval_split",
]
