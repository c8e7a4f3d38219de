"""Terms of objectives with discrete variables, one formula in each file: see `DiscreteLoss`."""

from pml_hashing.losses.terms._base import Batch, Quadratic, Term
from pml_hashing.losses.terms.affinity_graph import AffinityGraph
from pml_hashing.losses.terms.bit_statistics import BitBalance, BitDecorrelation
from pml_hashing.losses.terms.class_structure_quantization import ClassStructureQuantization
from pml_hashing.losses.terms.fisher_centers import FisherCenters
from pml_hashing.losses.terms.inner_product import InnerProduct
from pml_hashing.losses.terms.label_network import (
    LabelAgreement,
    LabelCodes,
    LabelDistance,
    LabelGuidance,
    LabelNetwork,
)
from pml_hashing.losses.terms.likelihood import PairLikelihood
from pml_hashing.losses.terms.quantization import Quantization
from pml_hashing.losses.terms.regression import DualRegression

__all__ = [
    "AffinityGraph",
    "Batch",
    "BitBalance",
    "BitDecorrelation",
    "ClassStructureQuantization",
    "DualRegression",
    "FisherCenters",
    "InnerProduct",
    "LabelAgreement",
    "LabelCodes",
    "LabelDistance",
    "LabelGuidance",
    "LabelNetwork",
    "PairLikelihood",
    "Quadratic",
    "Quantization",
    "Term",
]
