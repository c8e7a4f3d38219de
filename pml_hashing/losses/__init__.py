"""Losses of the deep supervised hashing literature, one file per paper."""

from pml_hashing.losses._base import BaseHashingLoss
from pml_hashing.losses._discrete import CodeUpdate, DiscreteLoss
from pml_hashing.losses.adsh import ADSHLoss
from pml_hashing.losses.adsq import ADSQLoss
from pml_hashing.losses.bihalf import BiHalfLoss
from pml_hashing.losses.cibhash import CIBHashLoss
from pml_hashing.losses.crh import CRHLoss, CRHSchedule
from pml_hashing.losses.cross_batch_memory import CrossBatchMemory
from pml_hashing.losses.csq import CSQLoss
from pml_hashing.losses.dadh import DADHLoss
from pml_hashing.losses.daph import DAPHLoss
from pml_hashing.losses.dcwh import DCWHLoss, DCWHSchedule
from pml_hashing.losses.dfh import DFHLoss
from pml_hashing.losses.dhn import DHNLoss
from pml_hashing.losses.dnnh import DNNHLoss
from pml_hashing.losses.dpsh import DPSHLoss
from pml_hashing.losses.dsah import DSAHLoss
from pml_hashing.losses.dsah_terms import (
    AffinityGraphLoss,
    ClassStructureQuantizationLoss,
    DualSemanticRegressionLoss,
)
from pml_hashing.losses.dsaha import DSAHALoss
from pml_hashing.losses.dsdh import DSDHLoss
from pml_hashing.losses.dtsh import DTSHLoss
from pml_hashing.losses.greedyhash import GreedyHashLoss
from pml_hashing.losses.hashnet import HashNetLoss
from pml_hashing.losses.hyp2 import HyP2Loss
from pml_hashing.losses.orthohash import OrthoHashLoss
from pml_hashing.losses.self_supervised_loss import SelfSupervisedLoss

__all__ = [
    "ADSHLoss",
    "ADSQLoss",
    "AffinityGraphLoss",
    "BaseHashingLoss",
    "BiHalfLoss",
    "CIBHashLoss",
    "CRHLoss",
    "CRHSchedule",
    "CSQLoss",
    "ClassStructureQuantizationLoss",
    "CodeUpdate",
    "CrossBatchMemory",
    "DADHLoss",
    "DAPHLoss",
    "DCWHLoss",
    "DCWHSchedule",
    "DFHLoss",
    "DHNLoss",
    "DNNHLoss",
    "DPSHLoss",
    "DSAHALoss",
    "DSAHLoss",
    "DSDHLoss",
    "DTSHLoss",
    "DiscreteLoss",
    "DualSemanticRegressionLoss",
    "GreedyHashLoss",
    "HashNetLoss",
    "HyP2Loss",
    "OrthoHashLoss",
    "SelfSupervisedLoss",
]
