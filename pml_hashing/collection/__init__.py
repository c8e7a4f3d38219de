"""A collection: a folder of images and their codes, kept in step, searched by name."""

from pml_hashing.collection.collection import Collection
from pml_hashing.collection.duplicates import DuplicateGroup, DuplicateGroups
from pml_hashing.collection.matches import Match
from pml_hashing.collection.sync import SyncReport

__all__ = ["Collection", "DuplicateGroup", "DuplicateGroups", "Match", "SyncReport"]
