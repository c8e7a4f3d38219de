"""Trainers of pytorch-metric-learning for hashing."""

from pml_hashing.trainers._distributed import EveryRank
from pml_hashing.trainers.asymmetric_trainer import AsymmetricTrainer

__all__ = ["AsymmetricTrainer", "EveryRank"]
