"""Retrieval on CIFAR-10 with shallow codes of a frozen backbone's features.

    python benchmarks/cifar10_features.py FEATURES.npz
    OMP_NUM_THREADS=1 python benchmarks/shallow_baselines.py FEATURES.npz

The protocol and the features are those of `cifar10_codes.py`: 5,000 training images, 1,000 queries,
a database of 59,000; mAP@all, ties `expected`. Seconds are CPU time.
"""

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import sklearn
import torch
from cifar10_codes import Split

from pml_hashing import baselines
from pml_hashing.codes import pack


def faiss_itq(split: Split, code_length: int) -> float:
    """Return mAP@all of faiss' ITQ, whose rotation lacks a transposition."""
    transform = faiss.ITQTransform(split.train.shape[1], code_length, True)
    transform.train(split.train.numpy())
    return split.score(lambda x: pack(torch.from_numpy(transform.apply(x.numpy()))))


def shallow(split: Split, name: str, code_length: int, seed: int) -> tuple[float, float]:
    """Return mAP@all, and the seconds of training."""
    hasher: Any = getattr(baselines, name)(code_length, random_state=seed)
    start = time.process_time()
    hasher.fit(split.train, split.train_labels)
    seconds = time.process_time() - start
    return split.score(lambda x: pack(torch.from_numpy(hasher.transform(x)))), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("features", type=Path)
    parser.add_argument("--code-lengths", type=int, nargs="+", default=[32])
    parser.add_argument("--methods", nargs="+", default=["ITQ", "SDH", "KSH", "FastHash"])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arrays = np.load(arguments.features)
    features, labels = (torch.from_numpy(arrays[name]) for name in ("features", "labels"))
    splits = [Split(features.float(), labels, seed) for seed in range(arguments.seeds)]

    def show(name: str, scores: list[float], note: str = "") -> None:
        print(f"{name:24s} {np.mean(scores):.4f} ± {np.std(scores):.4f}{note}", flush=True)

    machine = platform.processor() or platform.machine()
    print(f"{machine}, scikit-learn {sklearn.__version__}, faiss {faiss.__version__}")
    print(f"mAP@all, {arguments.seeds} seeds")
    for code_length in arguments.code_lengths:
        show(f"{code_length} bits, faiss' ITQ", [faiss_itq(split, code_length) for split in splits])
        for name in arguments.methods:
            results = [shallow(s, name, code_length, seed) for seed, s in enumerate(splits)]
            scores, seconds = zip(*results, strict=True)
            note = f", trained in {np.mean(seconds):.1f} s"
            show(f"{code_length} bits, {name}", list(scores), note)


if __name__ == "__main__":
    main()
