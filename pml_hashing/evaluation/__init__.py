"""Exact scores of a Hamming ranking, as functions of tensors and as PML's accuracy calculator."""

from pml_hashing.evaluation.accuracy_calculator import HammingAccuracyCalculator
from pml_hashing.evaluation.bits import bit_balance, bit_correlation, mean_absolute_correlation
from pml_hashing.evaluation.functions import (
    average_precision,
    mean_average_precision,
    precision_at_k,
    precision_by_rank,
    precision_recall_by_radius,
    precision_within_radius,
)
from pml_hashing.evaluation.ranking import HammingRanking
from pml_hashing.evaluation.statistics import bootstrap_interval, mean_by_class

__all__ = [
    "HammingAccuracyCalculator",
    "HammingRanking",
    "average_precision",
    "bit_balance",
    "bit_correlation",
    "bootstrap_interval",
    "mean_absolute_correlation",
    "mean_average_precision",
    "mean_by_class",
    "precision_at_k",
    "precision_by_rank",
    "precision_recall_by_radius",
    "precision_within_radius",
]
