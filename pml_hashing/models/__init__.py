"""Models: a backbone with a hash layer on top."""

from pml_hashing.models.continuation import ScaledTanh, TanhContinuation
from pml_hashing.models.exporting import export
from pml_hashing.models.hash_layer import HashLayer
from pml_hashing.models.hashing_model import HashingModel
from pml_hashing.models.preprocessing import LIGHT_AUGMENTATION
from pml_hashing.models.two_networks import SumOfCodes, TwoNetworkHashingModel

__all__ = [
    "LIGHT_AUGMENTATION",
    "HashLayer",
    "HashingModel",
    "ScaledTanh",
    "SumOfCodes",
    "TanhContinuation",
    "TwoNetworkHashingModel",
    "export",
]
