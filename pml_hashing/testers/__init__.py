"""Testers of pytorch-metric-learning for hashing."""

from pml_hashing.testers.hamming_tester import HammingTester
from pml_hashing.testers.two_network_hamming_tester import TwoNetworkHammingTester

__all__ = ["HammingTester", "TwoNetworkHammingTester"]
