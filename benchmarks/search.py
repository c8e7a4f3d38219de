"""Time HammingKNN against faiss called directly, and its approximate indexes against exact search.

    python benchmarks/search.py > benchmarks/results/search_cpu.txt
    python benchmarks/search.py one_query layers  # some parts alone

One thread. Times are CPU time, the least of several runs in turn, so that both sides meet the same
machine; of a single query the median of CPU and wall time. Ratios are of CPU times, to the faster
of the two ways that faiss' flat index has, heap and counting. Memory is what malloc has given out
(glibc).
"""

import ctypes
import itertools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

import pml_hashing
from pml_hashing.codes import unpack
from pml_hashing.search import HNSW, IVF, HammingKNN, MemoryStore, MultiHash, exact
from pml_hashing.search.multi_hash import cheapest

CODE_LENGTH = 64
REPEATS = 15
SIZES = {59_000: 1000, 1_000_000: 100}  # database: queries
NUM_CENTERS, FLIPPED, TIGHT = 100, 0.1, 0.02
ONE_QUERY = {1000: 100, 100_000: 10, 1_000_000: 2}  # database: calls in a round
ROUNDS = 60
INDEXES = {
    "exact": None,
    "IVF()": IVF(),
    "IVF(num_probes=64)": IVF(num_probes=64),
    "HNSW()": HNSW(),
    "HNSW(ef_search=256)": HNSW(ef_search=256),
}


def least_seconds(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the least CPU time of each function, run in turn."""
    times = {name: float("inf") for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name] = min(times[name], time.process_time() - start)
    return times


def uniform_codes(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(256, size=(count, CODE_LENGTH // 8), dtype=np.uint8)


def clustered_codes(count: int, rng: np.random.Generator, flipped: float = FLIPPED) -> np.ndarray:
    """Return codes as a supervised loss leaves them: bits of the class's center, some flipped."""
    centers = uniform_codes(NUM_CENTERS, np.random.default_rng(1))
    flips = np.packbits(rng.random((count, CODE_LENGTH), dtype=np.float32) < flipped, axis=1)
    return centers[rng.integers(NUM_CENTERS, size=count)] ^ flips


def search_flat(index: Any, query: np.ndarray, k: int, *, use_heap: bool) -> Any:
    index.use_heap = use_heap
    return index.search(query, k)


def time_exact() -> None:
    print("k-NN, exact: milliseconds a query, uniform codes")
    print(f"{'database':>10} {'k':>6} {'faiss heap':>11} {'faiss count':>12} {'ours':>9}  ratio")
    for num_database, num_queries in SIZES.items():
        rng = np.random.default_rng(0)
        database, query = uniform_codes(num_database, rng), uniform_codes(num_queries, rng)
        index, knn = faiss.IndexBinaryFlat(CODE_LENGTH), HammingKNN()
        index.add(database)
        knn.train(torch.from_numpy(database))
        packed_query = torch.from_numpy(query)
        for k in (10, 100, 5000):
            ways = {
                "heap": partial(search_flat, index, query, k, use_heap=True),
                "count": partial(search_flat, index, query, k, use_heap=False),
                "ours": partial(knn, packed_query, k),
            }
            check_equal(ways["count"](), ways["ours"]())
            ms = {
                name: 1000 * seconds / num_queries
                for name, seconds in least_seconds(ways, REPEATS).items()
            }
            ratio = ms["ours"] / min(ms["heap"], ms["count"])
            print(
                f"{num_database:>10,} {k:>6,} {ms['heap']:>11.4f} {ms['count']:>12.4f} "
                f"{ms['ours']:>9.4f}  {ratio:.3f}",
                flush=True,
            )


def check_equal(expected: tuple[np.ndarray, ...], found: tuple[Tensor, ...]) -> None:
    for array, tensor in zip(expected, found, strict=True):
        if not np.array_equal(array, tensor.numpy()):
            raise RuntimeError("Expected the neighbours that faiss finds, got others.")


def time_one_query() -> None:
    print("\nOne query, k = 10: microseconds, medians; ratio to faiss' index of the same codes")
    print(f"{'database':>10} {'way':<30} {'CPU':>8} {'wall':>8}  ratio")
    for count, calls in ONE_QUERY.items():
        database = uniform_codes(count, np.random.default_rng(0))
        query = uniform_codes(1, np.random.default_rng(1))
        index, knn, named = faiss.IndexBinaryFlat(CODE_LENGTH), HammingKNN(), HammingKNN()
        index.add(database)
        knn.train(torch.from_numpy(database))
        named.train(torch.from_numpy(database), [f"image {place}" for place in range(count)])
        packed, real = torch.from_numpy(query), real_codes(query)
        ways = {
            "faiss": partial(index.search, query, 10),
            "packed codes": partial(knn, packed, 10),
            "real codes": partial(knn, real, 10),
            "real codes, `search`": partial(knn.search, real, 10),
            "real codes, `search`, strings": partial(named.search, real, 10),
        }
        times = median_microseconds(ways, calls)
        for name, (cpu, wall) in times.items():
            ratio = cpu / times["faiss"][0]
            print(f"{count:>10,} {name:<30} {cpu:>8.1f} {wall:>8.1f}  {ratio:.2f}", flush=True)


def time_layers() -> None:
    """Tell where the time of one query goes: each line does what the one above does, and more."""
    count = min(ONE_QUERY)
    database = torch.from_numpy(uniform_codes(count, np.random.default_rng(0)))
    query = uniform_codes(1, np.random.default_rng(1))
    packed, real, store = torch.from_numpy(query), real_codes(query), MemoryStore()
    knn = HammingKNN(store=store)
    knn.train(database)
    found = np.empty((1, 10), np.int32), np.empty((1, 10), np.int64)
    arrays = [faiss.swig_ptr(array) for array in (query, database.numpy(), *found)]
    sizes = (1, count, 10, CODE_LENGTH // 8)
    ways = {
        "faiss' function, arrays at hand": partial(
            faiss.hammings_knn_mc,  # pyright: ignore[reportAttributeAccessIssue]
            *arrays[:2],
            *sizes,
            *arrays[2:],
        ),
        "arrays and tensors of the result": partial(exact.nearest, packed, database, 10),
        "lock, rows, columns": partial(store.nearest, packed, 10, {}, with_ids=False),
        "checks: a call with packed codes": partial(knn, packed, 10),
        "checks, packing: with real codes": partial(knn, real, 10),
        "ids: `search` with real codes": partial(knn.search, real, 10),
    }
    print(f"\nWhere the time of one query among {count:,} codes goes: microseconds, CPU time")
    before = 0.0
    for name, (cpu, _) in median_microseconds(ways, ONE_QUERY[count]).items():
        print(f"{name:<36} {cpu:>6.1f} {cpu - before:>+6.1f}", flush=True)
        before = cpu


def real_codes(packed_codes: np.ndarray) -> Tensor:
    """Return real codes with these bits."""
    signs = unpack(torch.from_numpy(packed_codes))
    return signs * (0.5 + torch.rand(signs.shape, generator=torch.Generator().manual_seed(0)))


def median_microseconds(
    functions: Mapping[str, Callable[[], Any]], calls: int
) -> dict[str, tuple[float, float]]:
    """Return CPU and wall time of one call of each function, medians of rounds in turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                function()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            times[name].append((1e6 * cpu / calls, 1e6 * wall / calls))
    columns = {name: tuple(zip(*rounds, strict=True)) for name, rounds in times.items()}
    median = statistics.median
    return {name: (median(cpu), median(wall)) for name, (cpu, wall) in columns.items()}


def time_multi_hash() -> None:
    print("\nAll codes within a small radius, by a scan and by MultiHash: milliseconds a query")
    print(
        f"{'codes':>9} {'database':>10} {'radius':>6} {'found':>7} {'scan':>8} {'MultiHash':>9} "
        f"{'times faster':>12} {'tables':<28} {'build s':>7} {'bytes a code':>12}"
    )
    kinds = {
        "uniform": uniform_codes,
        "clustered": clustered_codes,
        "tight": partial(clustered_codes, flipped=TIGHT),
    }
    for kind, make in kinds.items():
        for count in (100_000, 1_000_000):
            rng = np.random.default_rng(0)
            database, query = (torch.from_numpy(make(n, rng)) for n in (count, 100))
            for radius in (1, 2, 3, 5, 8):
                label = f"{kind:>9} {count:>10,} {radius:>6}"
                describe_multi_hash(label, radius, database, query)


def describe_multi_hash(label: str, radius: int, database: Tensor, query: Tensor) -> None:
    knn, scan = HammingKNN(index=MultiHash(max_radius=radius)), HammingKNN()
    knn.train(database)
    scan.train(database)
    plan, before, start = cheapest(database.numpy(), radius), allocated(), time.process_time()
    knn.range_search(query[:1], radius)  # the first search builds the tables
    build, size = time.process_time() - start, allocated() - before
    ways = {
        name: partial(each.range_search, query, radius)
        for name, each in {"scan": scan, "tables": knn}.items()
    }
    found, expected = (way()[1] for way in (ways["tables"], ways["scan"]))
    if found != expected:
        raise RuntimeError("Expected what a scan finds, got others.")
    ms = {name: 1000 * s / len(query) for name, s in least_seconds(ways, 5).items()}
    tables = "none: a scan" if plan is None else "{} of {} bits, {} flipped".format(*plan)
    print(
        f"{label} {sum(map(len, found)) / len(query):>7.1f} {ms['scan']:>8.4f} "
        f"{ms['tables']:>9.4f} {ms['scan'] / ms['tables']:>12.1f} {tables:<28} {build:>7.1f} "
        f"{size / len(database):>12.0f}",
        flush=True,
    )


class MallInfo(ctypes.Structure):
    """The ten numbers that `mallinfo2` of glibc returns: places 4 and 7 are bytes in use."""

    _fields_ = (("numbers", ctypes.c_size_t * 10),)


def allocated() -> int:
    """Return the bytes that malloc has given out."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    numbers = mallinfo().numbers
    return numbers[4] + numbers[7]


def time_range_search() -> None:
    radius = 12
    print(f"\nAll codes within {radius} bits: milliseconds a query, clustered codes")
    print(
        f"{'database':>10} {'found':>7} {'faiss':>9} {'ours':>9}  ratio (ours sorts and gives ids)"
    )
    for num_database, num_queries in SIZES.items():
        rng = np.random.default_rng(0)
        database, query = clustered_codes(num_database, rng), clustered_codes(num_queries, rng)
        index, knn = faiss.IndexBinaryFlat(CODE_LENGTH), HammingKNN()
        index.add(database)
        knn.train(torch.from_numpy(database))
        packed_query = torch.from_numpy(query)
        ways = {
            "faiss": partial(index.range_search, query, radius + 1),  # faiss' radius is strict
            "ours": partial(knn.range_search, packed_query, radius),
        }
        ms = {name: 1000 * s / num_queries for name, s in least_seconds(ways, REPEATS).items()}
        found = int(ways["faiss"]()[0][-1]) / num_queries
        print(
            f"{num_database:>10,} {found:>7.0f} {ms['faiss']:>9.4f} {ms['ours']:>9.4f}  "
            f"{ms['ours'] / ms['faiss']:.3f}",
            flush=True,
        )


def time_approximate() -> None:
    print("\nApproximate: recall counts what is no farther than the exact 10th (100th) neighbour")
    print(
        f"{'codes':>9} {'database':>10} {'index':<20} {'build s':>8} {'ms a query':>11} "
        f"{'recall@10':>10} {'recall@100':>11}"
    )
    for kind, make in {"clustered": clustered_codes, "uniform": uniform_codes}.items():
        for num_database in SIZES:
            rng = np.random.default_rng(0)
            database, query = (torch.from_numpy(make(n, rng)) for n in (num_database, 100))
            for name, index in INDEXES.items():
                describe_index(f"{kind:>9} {num_database:>10,} {name:<20}", index, database, query)


def describe_index(label: str, index: IVF | HNSW | None, database: Tensor, query: Tensor) -> None:
    knn, exact = HammingKNN(index=index), HammingKNN()
    knn.train(database)
    exact.train(database)
    start = time.process_time()
    knn(query[:1], 1)  # the first search builds the index
    build = time.process_time() - start
    seconds = least_seconds({"search": partial(knn, query, 10)}, 5)["search"]
    recalls = [(knn(query, k)[0] <= exact(query, k)[0][:, -1:]).float().mean() for k in (10, 100)]
    print(
        f"{label} {build:>8.1f} "
        f"{1000 * seconds / len(query):>11.4f} {recalls[0]:>10.3f} {recalls[1]:>11.3f}",
        flush=True,
    )


def changes(knn: HammingKNN, one: Tensor) -> dict[str, Callable[[], Any]]:
    """Return what is done to one code at a time, and searches under conditions."""
    old, new = itertools.count(), itertools.count()

    def add() -> None:
        knn.add(one, [f"new {next(new)}"])

    def remove() -> None:
        knn.remove([f"image {next(old)}"])

    def remove_and_search() -> None:
        remove()
        knn.search(one, 10)

    return {
        "add": add,
        "in": lambda: "image 999" in knn,
        "update": lambda: knn.update(["image 999"], one),
        "remove": remove,
        "remove, search": remove_and_search,
        "search": partial(knn.search, one, 10),
        "of 1/10": partial(knn.search, one, 10, where={"tenth": 3}),
        "of 1/1000": partial(knn.search, one, 1, where={"rare": 998}),
    }


def time_changes() -> None:
    print("\nOne code with a string as id, and one query among a share of the codes: milliseconds")
    for count in (1000, 100_000, 1_000_000):
        codes = torch.from_numpy(uniform_codes(count, np.random.default_rng(0)))
        knn, places = HammingKNN(), torch.arange(count)
        ids = [f"image {place}" for place in range(count)]
        knn.train(codes, ids, tenth=places % 10, rare=places % 1000)
        ways = changes(knn, codes[:1])
        if count == 1000:
            print(f"{'codes':>10}" + "".join(f"{name:>15}" for name in ways))
        ms = [1000 * mean_seconds(way, 30) for way in ways.values()]
        print(f"{count:>10,}" + "".join(f"{value:>15.4f}" for value in ms), flush=True)


def mean_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the mean CPU time of one call: rare work counts among changes, too."""
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats


def processor() -> str:
    """Return the name of the processor, where Linux tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def time_imports() -> None:
    """Tell what a service pays before its first search: each line is an interpreter of its own."""
    print("\nImports: CPU seconds (least of 5) and the most memory, MB")
    for modules in ("torch", "pml_hashing", "pml_hashing.search", "pml_hashing.models"):
        code = (
            f"import resource, {modules}; of = resource.getrusage(resource.RUSAGE_SELF); "
            "print(of.ru_utime + of.ru_stime, of.ru_maxrss / 1000)"
        )
        runs = [
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            for _ in range(5)
        ]
        figures = [tuple(map(float, run.stdout.split())) for run in runs]
        seconds, megabytes = (min(column) for column in zip(*figures, strict=True))
        print(f"{modules:<20} {seconds:6.2f} {megabytes:6.0f}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    print(" ".join(["command: python benchmarks/search.py", *sys.argv[1:]]))
    print(f"processor: {processor()}, one thread; {faiss.get_compile_options().strip()}")
    print(
        f"versions: pml_hashing {pml_hashing.__version__}, faiss {faiss.__version__}, "
        f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    )
    print(f"codes: {CODE_LENGTH} bits, packed; least CPU time of {REPEATS} runs in turn\n")
    parts = (
        time_exact,
        time_one_query,
        time_layers,
        time_range_search,
        time_multi_hash,
        time_changes,
        time_approximate,
        time_imports,
    )
    chosen = sys.argv[1:]
    for part in parts:
        if not chosen or part.__name__.removeprefix("time_") in chosen:
            part()


if __name__ == "__main__":
    main()
