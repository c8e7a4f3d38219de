"""Shallow hashing as scikit-learn transformers of features: what a deep method has to beat."""

from pml_hashing.baselines.fasthash import FastHash
from pml_hashing.baselines.itq import ITQ
from pml_hashing.baselines.ksh import KSH
from pml_hashing.baselines.sdh import SDH

__all__ = ["ITQ", "KSH", "SDH", "FastHash"]
