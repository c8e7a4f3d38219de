"""The tests of benchmarks/retrieval.py import what it is made of, and what they share."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1] / "benchmarks")]
