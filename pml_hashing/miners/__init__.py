"""Miners that choose pairs for hashing, by labels of both kinds."""

from pml_hashing.miners._base import BaseHashingMiner
from pml_hashing.miners.affinity_graph import AffinityGraphMiner

__all__ = ["AffinityGraphMiner", "BaseHashingMiner"]
