"""Data sets: images in files or arrays, splits for retrieval, samples that know their place."""

from pml_hashing.datasets._base import LabelledImages
from pml_hashing.datasets.image_arrays import ImageArrays
from pml_hashing.datasets.image_files import ImageFiles
from pml_hashing.datasets.indexed import IndexedDataset
from pml_hashing.datasets.listing import Listing, list_images
from pml_hashing.datasets.loading import ImageLike, load_image
from pml_hashing.datasets.splits import RetrievalSplit, retrieval_split
from pml_hashing.datasets.unreadable import UnreadableImageError

__all__ = [
    "ImageArrays",
    "ImageFiles",
    "ImageLike",
    "IndexedDataset",
    "LabelledImages",
    "Listing",
    "RetrievalSplit",
    "UnreadableImageError",
    "list_images",
    "load_image",
    "retrieval_split",
]
