"""Time codes in ClickHouse, in process, beside codes in memory.

    python benchmarks/stores.py [FOLDER] > benchmarks/results/stores_cpu.txt

One thread each. Times are CPU time, the least of several runs; for a batch, of one of its queries.
What a client waits for is longer where other processes share the machine. Inserted are 64-bit codes
with ids as of files and one column of labels, in calls of 100,000.
"""

import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pml_hashing
from pml_hashing.search import ClickHouseStore, HammingKNN, MemoryStore

CODE_LENGTH, PART = 64, 100_000
SIZES = (100_000, 1_000_000)
REPEATS = 3
ONE_THREAD = {"settings": {"max_threads": 1}}


def codes_of(count: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(256, size=(count, CODE_LENGTH // 8), dtype=np.uint8))


def least_ms(function: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def fill(knn: HammingKNN, count: int) -> float:
    """Add codes, and return the CPU time in seconds."""
    codes, start = codes_of(count, 0), time.process_time()
    for first in range(0, count, PART):
        numbers = range(first, first + PART)
        ids = [f"photos/{number:08d}.jpg" for number in numbers]
        knn.add(codes[first : first + PART], ids, label=[number % 100 for number in numbers])
    return time.process_time() - start


def times_of(knn: HammingKNN) -> list[float]:
    queries = codes_of(100, 1)
    some = [f"photos/{number:08d}.jpg" for number in range(0, 100_000, 1000)]
    return [
        least_ms(lambda: knn.search(queries[:1], 10)),
        least_ms(lambda: knn.search(queries, 10)) / len(queries),
        least_ms(lambda: knn.search(queries[:1], 10, where={"label": 7})),
        least_ms(lambda: knn.range_search(queries[:1], 12)),
        least_ms(lambda: knn.get(some[:1])),
        least_ms(lambda: knn.update(some, codes_of(100, 2))) / len(some),
    ]


def size_of(folder: Path) -> float:
    """Return the size of a folder in megabytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def report(name: str, count: int, inserted: float, times: list[float], size: float) -> None:
    figures = "".join(f"{value:9.2f}" for value in (inserted, *times, size))
    print(f"{name:12s}{count:>10,}{figures}", flush=True)


def main(folder: Path) -> None:
    print(f"pml-hashing {pml_hashing.__version__}, Python {platform.python_version()}, one thread")
    heads = ("insert s", "one ms", "of 100", "where", "radius", "get", "update", "MB")
    print(f"{'store':12s}{'codes':>10s}" + "".join(f"{head:>9s}" for head in heads))
    store = ClickHouseStore(f"chdb://{folder / 'kept'}", "kept", **ONE_THREAD)
    for count in SIZES:
        memory = HammingKNN(store=MemoryStore())
        inserted = fill(memory, count)
        memory.save(folder / "codes")
        size = (folder / "codes").stat().st_size / 1e6
        report("memory", count, inserted, times_of(memory), size)
        store = ClickHouseStore(f"chdb://{folder / 'kept'}", f"codes_{count}", **ONE_THREAD)
        knn = HammingKNN(store=store)
        inserted = fill(knn, count)
        size = size_of(folder / "kept" / "store")
        report("ClickHouse", count, inserted, times_of(knn), size)
        store.optimize()
        report("optimized", count, inserted, times_of(knn), size_of(folder / "kept" / "store"))
        store.clear()


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    try:
        main(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)
