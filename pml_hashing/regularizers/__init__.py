"""Regularizers that turn any PML loss into a hashing loss."""

from pml_hashing.regularizers.bit_balance import BitBalanceRegularizer
from pml_hashing.regularizers.bit_decorrelation import BitDecorrelationRegularizer
from pml_hashing.regularizers.quantization import QuantizationRegularizer

__all__ = ["BitBalanceRegularizer", "BitDecorrelationRegularizer", "QuantizationRegularizer"]
