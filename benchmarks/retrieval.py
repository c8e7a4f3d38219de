"""The comparison of docs/results.md: every method, at 12, 24, 32 and 48 bits, with three seeds.

    export PML_HASHING_DATA=DATA
    python benchmarks/cifar10_features.py outputs/cifar10_features.npz
    python benchmarks/retrieval.py
    python benchmarks/tables.py

It is `examples/compare_methods.py` with the arguments below; further ones override them. Stop it
and run it again as you like: what is in the file of the results is not computed anew. It is not
after a change of the code either: delete the lines of a method that has changed.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
WEIGHTS = Path("weights", "tf_efficientnet_lite0.in1k.fp16.safetensors")
GRID = ["--dataset", "cifar10", "--protocol", "1k/59k"]
GRID += ["--code-lengths", "12", "24", "32", "48", "--seeds", "3", "--epochs", "12"]
GRID += ["--backbone", "tf_efficientnet_lite0", "--img-size", "160"]
GRID += ["--checkpoint", str(Path(os.environ.get("PML_HASHING_DATA", "data")) / WEIGHTS)]
GRID += ["--features", str(ROOT / "outputs" / "cifar10_features.npz")]
GRID += ["--output", str(ROOT / "benchmarks" / "results" / "retrieval.jsonl")]


def main() -> None:
    script = ROOT / "examples" / "compare_methods.py"
    os.execv(sys.executable, [sys.executable, str(script), *GRID, *sys.argv[1:]])


if __name__ == "__main__":
    main()
