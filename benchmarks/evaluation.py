"""Time and memory of mAP over a Hamming ranking: ours, other libraries', scripts' and C loops.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py > benchmarks/results/evaluation_cpu.txt
    OMP_NUM_THREADS=1 python benchmarks/evaluation.py scripts  # one of the tables

Every line is measured in a process of its own, on one thread, on the same codes: random codes of 10
classes, packed, each with a quarter of the bits of its class flipped. CPU seconds are the least of
several repetitions; peak memory is what is used beyond the codes, in MB. PML's calculator is given
the same codes as floats, torchmetrics the distances, computed beforehand and not counted. Both hold
all pairs: where these are too many, a share of the queries is measured and the time is scaled up.
The scripts are the functions of published repositories, written anew from what they compute
(`map_definitions.py`), and numpy as one would write it today. They get codes of -1 and 1, or whole
words, made beforehand, and class ids to compare, which is faster than their one-hot rows.
"""

import argparse
import ctypes
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pml_hashing.codes import hamming_distance, unpack
from pml_hashing.evaluation import HammingRanking

NUM_CLASSES = 10
SIZES = [(1000, 59_000, 64), (5000, 100_000, 64), (1000, 1_000_000, 128)]
GROWTH = [(100, 10**exponent, 64) for exponent in (4, 5, 6, 7)]
PAIRS_THAT_FIT = 60_000_000
SCALED_PAIRS = 20_000_000
ROWS_AT_A_TIME = 100_000


def make_codes(size: int, num_bytes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    classes = np.random.default_rng(0).integers(256, size=(NUM_CLASSES, num_bytes), dtype=np.uint8)
    generator = np.random.default_rng(seed)
    labels = generator.integers(NUM_CLASSES, size=size)
    codes = np.empty((size, num_bytes), dtype=np.uint8)
    for start in range(0, size, ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        shape = (2, *codes[rows].shape)
        flips = np.bitwise_and(*generator.integers(256, size=shape, dtype=np.uint8))
        codes[rows] = classes[labels[rows]] ^ flips
    return torch.from_numpy(codes), torch.from_numpy(labels)


def ours(data: list[torch.Tensor], ties: Any = "expected", top_k: int | None = None) -> float:
    return HammingRanking(*data, ties=ties).average_precision(top_k).mean().item()


def ours_by_blocks_of(pairs: int) -> Callable[[list[torch.Tensor]], float]:
    def score(data: list[torch.Tensor]) -> float:
        return HammingRanking(*data, block_size=pairs).average_precision().mean().item()

    return score


def pml(data: list[torch.Tensor]) -> float:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator  # noqa: PLC0415

    calculator = AccuracyCalculator(
        include=("mean_average_precision",), device=torch.device("cpu"), k=len(data[2])
    )
    return calculator.get_accuracy(*data)["mean_average_precision"]


def torchmetrics(data: list[torch.Tensor]) -> float:
    from torchmetrics.retrieval import RetrievalMAP  # noqa: PLC0415

    scores, relevant, indexes = data
    return RetrievalMAP(empty_target_action="neg")(scores, relevant, indexes).item()


class PlainLoop:
    """The functions of evaluation.c, compiled by a C compiler on this machine."""

    def __init__(self) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise RuntimeError("Expected a C compiler, found none.")
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "evaluation.so"
            source = Path(__file__).with_suffix(".c")
            flags = ["-O3", "-march=native", "-shared", "-fPIC"]
            subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
            self.library = ctypes.CDLL(str(library))

    def arguments(self, data: list[torch.Tensor]) -> list[Any]:
        self.kept = [x if x.dtype == torch.uint8 else x.int() for x in data]
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in self.kept]
        sizes = [ctypes.c_int64(len(x)) for x in (data[0], data[2])]
        return [*pointers[:2], sizes[0], *pointers[2:], sizes[1], data[0].shape[1] // 8]

    def count(self, data: list[torch.Tensor]) -> float:
        shape = len(data[0]), data[0].shape[1] * 8 + 1, 2
        counts = np.zeros(shape, dtype=np.uint32)
        self.library.count(*self.arguments(data), ctypes.c_void_p(counts.ctypes.data))
        return float("nan")  # counts only

    def count_tuned(self, data: list[torch.Tensor]) -> float:
        counts = np.zeros((len(data[0]), 65), dtype=np.uint32)
        pointer, sizes = ctypes.c_void_p(counts.ctypes.data), self.arguments(data)
        self.library.count_tuned(sizes[0], sizes[2], sizes[3], sizes[5], pointer)
        return float("nan")

    def sum_distances(self, data: list[torch.Tensor]) -> float:
        sizes = self.arguments(data)
        self.library.sum_distances(sizes[0], sizes[2], sizes[3], sizes[5])
        return float("nan")

    def rank(self, data: list[torch.Tensor], top_k: int | None = None) -> float:
        scores = np.zeros(len(data[0]))
        pointer = ctypes.c_void_p(scores.ctypes.data)
        cut = ctypes.c_int64(min(top_k or len(data[2]), len(data[2])))
        self.library.rank(*self.arguments(data), cut, pointer)
        return float(scores.mean())


def kernel(name: str) -> Callable[[list[torch.Tensor]], float]:
    """One way to count all items by distance, class by class, without scores."""

    def score(data: list[torch.Tensor]) -> float:
        queries, query_labels, items, labels = data
        labels, order = labels.sort()
        items = items[order]
        groups = items.shape[1] * 8 + 1
        words = np.uint64 if items.shape[1] % 8 == 0 else np.uint8
        first = torch.searchsorted(labels, query_labels).tolist()
        last = torch.searchsorted(labels, query_labels, right=True).tolist()
        distances = DISTANCES[name](queries.numpy().view(words), items.numpy().view(words))
        for row, low, high in zip(distances, first, last, strict=True):
            for part in (row, row[low:high]):
                if name == "numpy":
                    np.bincount(part, minlength=groups)
                else:
                    torch.bincount(torch.as_tensor(part), minlength=groups)
        return float("nan")

    return score


def numpy_distances(queries: np.ndarray, items: np.ndarray) -> Any:
    for query in queries:
        differences = np.bitwise_count(items ^ query)
        yield differences[:, 0] if len(query) == 1 else differences.sum(axis=1, dtype=np.uint16)


def faiss_distances(queries: np.ndarray, items: np.ndarray) -> Any:
    from pml_hashing.evaluation._cpu import hamming_distances  # noqa: PLC0415

    queries, items = queries.view(np.uint8), items.view(np.uint8)
    for start in range(0, len(queries), 4):
        yield from hamming_distances(queries[start : start + 4], items)


def torch_distances(queries: np.ndarray, items: np.ndarray) -> Any:
    signs = unpack(torch.from_numpy(items.view(np.uint8)))
    query_signs = unpack(torch.from_numpy(queries.view(np.uint8)))
    for block in query_signs.split(4):
        yield from (signs.shape[1] - block @ signs.T).mul_(0.5).to(torch.uint8)


def ours_with_numba() -> Callable[..., float]:
    import numba  # noqa: PLC0415, F401  # pyright: ignore[reportMissingImports]

    return ours  # which takes numba where it has been imported


def numpy_today(data: list[torch.Tensor], top_k: int | None = None) -> float:
    """Count bits of words, sort stably, and average the precision at every hit."""
    queries, query_labels, items, labels = (x.numpy() for x in data)
    queries, items = queries.view(np.uint64), items.view(np.uint64)
    scores = []
    for query, label in zip(queries, query_labels, strict=True):
        distances = np.bitwise_count(items ^ query).sum(axis=1, dtype=np.uint8)
        ranking = labels[np.argsort(distances, kind="stable")[:top_k]]
        ranks = np.flatnonzero(ranking == label) + 1
        scores.append(np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0)
    return float(np.mean(scores))


def script(name: str) -> Callable[..., float]:
    """A function of a repository, by its name in `map_definitions.py`."""
    import map_definitions  # noqa: PLC0415

    function = getattr(map_definitions, name)

    def score(data: list[torch.Tensor], top_k: int | None = None) -> float:
        return function(data, min(top_k or len(data[2]), len(data[2])))

    return score


DISTANCES = {"numpy": numpy_distances, "numpy+torch": numpy_distances}
DISTANCES |= {"faiss+torch": faiss_distances, "torch": torch_distances}
METHODS: dict[str, tuple[Callable[[], Any], int]] = {
    "C loop, counts": (lambda: PlainLoop().count, 5),
    "ours, mAP@all, expected": (lambda: ours, 5),
    "ours, mAP@5000, expected": (lambda: partial(ours, top_k=5000), 3),
    "ours, mAP@all, optimistic": (lambda: partial(ours, ties="optimistic"), 1),
    "ours, mAP@all, pessimistic": (lambda: partial(ours, ties="pessimistic"), 1),
    "C loop, counting sort, mAP@all": (lambda: PlainLoop().rank, 3),
    "ours, mAP@all, stable": (lambda: partial(ours, ties="stable"), 3),
    "C loop, counting sort, mAP@5000": (lambda: partial(PlainLoop().rank, top_k=5000), 3),
    "ours, mAP@5000, stable": (lambda: partial(ours, ties="stable", top_k=5000), 3),
    "PML AccuracyCalculator": (lambda: pml, 1),
    "torchmetrics RetrievalMAP": (lambda: torchmetrics, 1),
    "blocks of 2^14 pairs": (lambda: ours_by_blocks_of(2**14), 3),
    "blocks of 2^16 pairs": (lambda: ours_by_blocks_of(2**16), 3),
    "blocks of 2^20 pairs": (lambda: ours_by_blocks_of(2**20), 3),
    **{f"{name} (distances, counters)": (lambda n=name: kernel(n), 3) for name in DISTANCES},
    "C loop, eight tables": (lambda: PlainLoop().count_tuned, 5),
    "C loop, distances alone": (lambda: PlainLoop().sum_distances, 5),
}
RIVALS = ("PML AccuracyCalculator", "torchmetrics RetrievalMAP")
SCRIPTS: dict[str, Callable[[], Any]] = {
    "ours": lambda: ours,
    "ours, with numba": ours_with_numba,
    "ten lines of numpy": lambda: numpy_today,
    "DeepHash-pytorch's function": lambda: script("deephash_pytorch"),
    "HashNet's function": lambda: script("hashnet"),
    "OrthoHash's function": lambda: script("orthohash"),
}
SCRIPTS_OF_SIGNS = [name for name in SCRIPTS if name.endswith("'s function")]
CUT = 5000
METHODS |= {name: (make, 3) for name, make in SCRIPTS.items()}
METHODS |= {
    f"{name}, mAP@{CUT}": (lambda make=make: partial(make(), top_k=CUT), 3)
    for name, make in SCRIPTS.items()
}


def inputs(name: str, data: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the data in the form that a method wants."""
    queries, query_labels, items, labels = data
    if name == RIVALS[0] or name.split(", mAP", maxsplit=1)[0] in SCRIPTS_OF_SIGNS:
        return [unpack(queries), query_labels, unpack(items), labels]
    if name == RIVALS[1]:
        scores = queries.shape[1] * 8 + 1 - hamming_distance(queries, items)
        relevant = query_labels[:, None] == labels
        indexes = torch.arange(len(queries))[:, None].expand_as(relevant)
        return [scores.flatten().float(), relevant.flatten(), indexes.flatten()]
    return data


def peak_megabytes(*, reset: bool = False) -> float:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(name: str, num_queries: int, num_items: int, code_length: int) -> dict[str, float]:
    """Measure one method in this process."""
    queries = make_codes(num_queries, code_length // 8, seed=1)
    data = inputs(name, [*queries, *make_codes(num_items, code_length // 8, seed=2)])
    make, repetitions = METHODS[name]
    method = make()
    if name not in RIVALS:  # libraries start their threads, and numba its compiler
        method([x[:10] for x in data])
    before = peak_megabytes(reset=True)
    seconds, cpu_seconds, score = [], [], 0.0
    for _ in range(repetitions):
        start, cpu_start = time.perf_counter(), time.process_time()
        score = method(data)
        cpu_seconds.append(time.process_time() - cpu_start)
        seconds.append(time.perf_counter() - start)
    peak = peak_megabytes() - before
    return {"wall": min(seconds), "cpu": min(cpu_seconds), "peak": peak, "score": score}


def run(name: str, num_queries: int, num_items: int, code_length: int) -> dict[str, float] | None:
    """Measure one method in a process of its own. Return `None` if it fails there."""
    share = 1.0
    if name in RIVALS and num_queries * num_items > PAIRS_THAT_FIT:
        share = min(1.0, SCALED_PAIRS / (num_queries * num_items))
    arguments = [name, str(max(1, round(num_queries * share))), str(num_items), str(code_length)]
    command = [sys.executable, __file__, "--measure", *arguments]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    if process.returncode:
        return None
    result = json.loads(process.stdout.splitlines()[-1])
    scale = num_queries / int(arguments[1])
    return result | {"wall": result["wall"] * scale, "cpu": result["cpu"] * scale, "scale": scale}


def table(title: str, names: list[str], size: tuple[int, int, int], base: str | None) -> None:
    print(
        f"\n{title}\n{'':34}{'CPU s':>10}{'wall s':>10}{'peak MB':>10}{'of C loop':>10}{'mAP':>8}"
    )
    costs: dict[str, float] = {}
    for name in names:
        if (result := run(name, *size)) is None:
            print(f"{name:34}  cannot run here")
            continue
        costs[name] = result["cpu"]
        plain = (x for x in reversed(costs) if x.startswith("C loop"))
        reference = base or next(plain, "")
        ratio = f"{result['cpu'] / costs[reference]:10.2f}" if reference in costs else " " * 10
        score = "" if np.isnan(result["score"]) else f"{result['score']:8.4f}"
        note = "" if result["scale"] == 1 else f"  1/{result['scale']:.0f} of the queries, scaled"
        figures = f"{result['cpu']:10.3f}{result['wall']:10.3f}{result['peak']:10.0f}"
        print(f"{name:34}{figures}{ratio}{score:>8}{note}", flush=True)


def scripts() -> None:
    size = SIZES[0]
    print("\nBeside scripts, {:,} queries x {:,} items x {} bits".format(*size))
    print(f"{'':34}{'mAP, CPU s':>12}{'of ours':>9}{f'@{CUT}, CPU s':>13}{'of ours':>9}")
    base: list[float] = []
    for name in SCRIPTS:
        results = [run(name + cut, *size) for cut in ("", f", mAP@{CUT}")]
        if None in results:
            print(f"{name:34}  cannot run here")
            continue
        seconds = [result["cpu"] for result in results if result]
        base = base or seconds
        first, second = (
            f"{s:{width}.3f}{s / b:9.2f}"
            for s, b, width in zip(seconds, base, (12, 13), strict=True)
        )
        print(f"{name:34}{first}{second}", flush=True)


def sizes() -> None:
    names = list(METHODS)
    for size in SIZES:
        title = "{:,} queries x {:,} items x {} bits".format(*size)
        table(title, names[: names.index(RIVALS[1]) + 1], size, None)


def kernels() -> None:
    names = list(METHODS)
    ways = names[names.index(RIVALS[1]) + 1 : names.index("ours")]
    ways = [names[0], *ways, "ours", "ours, with numba"]
    title = "Ways to count, 1,000 queries x 59,000 items x 64 bits"
    table(title, ways, SIZES[0], names[0])


def growth() -> None:
    print("\nGrowth with the database: 100 queries, 64 bits, mAP@all, expected ties")
    print(f"{'items':>12}{'CPU s':>10}{'ns a pair':>12}{'peak MB':>10}")
    for size in GROWTH:
        if result := run("ours, mAP@all, expected", *size):
            pair = result["cpu"] / (size[0] * size[1]) * 1e9
            print(
                f"{size[1]:12,}{result['cpu']:10.3f}{pair:12.2f}{result['peak']:10.0f}", flush=True
            )


TABLES = {"sizes": sizes, "scripts": scripts, "kernels": kernels, "growth": growth}


def describe_machine() -> None:
    print(" ".join(["OMP_NUM_THREADS=1 python benchmarks/evaluation.py", *sys.argv[1:]]))
    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = info.read_text().split("model name")[1].split(":")[1].splitlines()[0].strip()
    print(f"{cpu}, one thread; Python {platform.python_version()}", end="")
    names = ("torch", "numpy", "faiss-cpu", "pytorch-metric-learning", "torchmetrics", "numba")
    for name in names:
        try:
            print(f", {name} {version(name)}", end="")
        except PackageNotFoundError:
            print(f", no {name}", end="")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], help="all by default")
    parser.add_argument("--measure", nargs=4, metavar=("METHOD", "QUERIES", "ITEMS", "BITS"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure:
        name, *size = arguments.measure
        print(json.dumps(measure(name, *map(int, size))))
        return
    describe_machine()
    for name in arguments.tables or TABLES:
        TABLES[name]()


if __name__ == "__main__":
    main()
