"""How long a search takes by as many threads as there are cores, while another process has one.

    python benchmarks/busy_cores.py > benchmarks/results/busy_cores_cpu.txt

Threads of OpenMP that are done spin while they wait for the slowest, which gets no core: where it
waits too, all wait long. Prints milliseconds of one batch of queries, wall time, the median of
interpreters of their own, alone and beside a process that computes. Run it on an idle machine.
"""

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

QUERIES, DATABASE, REPEATS, INTERPRETERS = 64, 100_000, 100, 5
SEARCH = f"""
import statistics, time
import faiss, numpy as np, torch
from pml_hashing.search import HammingKNN
rng = np.random.default_rng(0)
query, database = (rng.integers(256, size=(n, 8), dtype=np.uint8) for n in ({QUERIES}, {DATABASE}))
index, knn = faiss.IndexBinaryFlat(64), HammingKNN()
index.add(database)
knn.train(torch.from_numpy(database))
queries = torch.from_numpy(query)
for search in (lambda: index.search(query, 10), lambda: knn(queries, 10)):
    search()
    times = []
    for _ in range({REPEATS}):
        start = time.perf_counter()
        search()
        times.append(1000 * (time.perf_counter() - start))
    print(statistics.mean(times))
"""
WAYS = {
    "as it comes": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}


@contextmanager
def neighbor(there: bool) -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if there else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def milliseconds(settings: dict[str, str]) -> tuple[float, ...]:
    """Return the times of a batch, by faiss and by this library."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    runs = [
        subprocess.run(
            [sys.executable, "-c", SEARCH],
            check=True,
            capture_output=True,
            text=True,
            env=others | settings,
        ).stdout.split()
        for _ in range(INTERPRETERS)
    ]
    return tuple(statistics.median(map(float, column)) for column in zip(*runs, strict=True))


def main() -> None:
    print("command: python benchmarks/busy_cores.py")
    print(f"on: {platform.machine()}, {os.cpu_count()} cores, {os.getloadavg()[0]:.1f} busy before")
    print(f"{QUERIES} queries, {DATABASE:,} codes of 64 bits, k = 10: milliseconds a batch\n")
    print(f"{'':<26}{'faiss':>8}{'busy':>8}{'times':>7}{'ours':>9}{'busy':>8}{'times':>7}")
    for name, settings in WAYS.items():
        with neighbor(there=False):
            alone = milliseconds(settings)
        with neighbor(there=True):
            busy = milliseconds(settings)
        cells = "".join(
            f"{a:>{width}.2f}{b:>8.2f}{b / a:>7.1f}"
            for a, b, width in zip(alone, busy, (8, 9), strict=True)
        )
        print(f"{name:<26}{cells}", flush=True)


if __name__ == "__main__":
    main()
