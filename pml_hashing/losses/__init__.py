"""Losses of the deep supervised hashing literature, one file per paper."""

from pml_hashing.losses._base import BaseDiscreteLoss, BaseHashingLoss, CodeUpdate
from pml_hashing.losses.adsh import ADSHLoss
from pml_hashing.losses.csq import CSQLoss
from pml_hashing.losses.dsah import DSAHLoss
from pml_hashing.losses.dsah_terms import (
    AffinityGraphLoss,
    ClassStructureQuantizationLoss,
    DualSemanticRegressionLoss,
)
from pml_hashing.losses.greedyhash import GreedyHashLoss
from pml_hashing.losses.orthohash import OrthoHashLoss

__all__ = [
    "ADSHLoss",
    "AffinityGraphLoss",
    "BaseDiscreteLoss",
    "BaseHashingLoss",
    "CSQLoss",
    "ClassStructureQuantizationLoss",
    "CodeUpdate",
    "DSAHLoss",
    "DualSemanticRegressionLoss",
    "GreedyHashLoss",
    "OrthoHashLoss",
]
