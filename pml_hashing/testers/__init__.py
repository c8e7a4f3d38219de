"""PML testers that score Hamming rankings."""

from pml_hashing.testers.hamming_tester import HammingTester

__all__ = ["HammingTester"]
