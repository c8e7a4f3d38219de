"""The comparison of docs/results.md: every method, at 12, 24, 32 and 48 bits, with three seeds.

    python benchmarks/retrieval.py --features FEATURES.npz  # of benchmarks/cifar10_features.py
    python benchmarks/tables.py

It is `examples/compare_methods.py` with the arguments below; further ones override them.
Stop it and run it again as you like: what is in the file of the results is not computed anew.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
GRID = ["--dataset", "cifar10", "--protocol", "1k/59k"]
GRID += ["--code-lengths", "12", "24", "32", "48", "--seeds", "3", "--epochs", "12"]
GRID += ["--backbone", "tf_efficientnet_lite0", "--img-size", "160"]
GRID += ["--output", str(ROOT / "benchmarks" / "results" / "retrieval.jsonl")]


def main() -> None:
    script = ROOT / "examples" / "compare_methods.py"
    os.execv(sys.executable, [sys.executable, str(script), *GRID, *sys.argv[1:]])


if __name__ == "__main__":
    main()
