"""Training: an engine of its own, and a trainer of pytorch-metric-learning over it."""

from pml_hashing.trainers._hooks import EveryRank
from pml_hashing.trainers.asymmetric_trainer import AsymmetricTrainer
from pml_hashing.trainers.engine import Engine

__all__ = ["AsymmetricTrainer", "Engine", "EveryRank"]
