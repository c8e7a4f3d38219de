"""How time and memory grow with samples, distinct labels, classes and batch, beside a plain way.

    OMP_NUM_THREADS=1 python benchmarks/growth.py > benchmarks/results/growth_cpu.txt

One thread. Times are CPU seconds, the least of several runs. Memory is the most that a call takes
beyond what was there before it, of the process, in MB; each line has a process of its own. Plain
ways are formulas as one would write them first: all pairs of rows, labels as a dense matrix, an
index that is built again.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from evaluation import peak_megabytes
from search import processor
from torch import Tensor

import pml_hashing
from pml_hashing import CodeBank, DSAHLoss
from pml_hashing.evaluation import HammingRanking
from pml_hashing.losses import HashNetLoss
from pml_hashing.pairs import LabelGroups, similar_sums
from pml_hashing.search import HNSW, HammingKNN

CODE_LENGTH, LABELS_OF_A_SAMPLE = 64, 3
Work = Callable[[], Any]


def make_labels(count: int, num_classes: int) -> Tensor:
    """Return multi-hot rows, uint8, made block by block."""
    labels = torch.empty(count, num_classes, dtype=torch.uint8)
    for rows in labels.split(10_000):
        rows.copy_(torch.rand(rows.shape) < LABELS_OF_A_SAMPLE / num_classes)
    return labels


def sums_of_all_pairs(values: Tensor, labels: Tensor) -> Tensor:
    rows = labels.to(values.dtype)
    blocks = rows.split(max(1, 2**20 // len(rows)))
    return torch.cat([(block @ rows.T).clamp_(max=1) @ values for block in blocks])


def over_similar_rows(count: int, num_classes: int, plain: bool) -> Work:
    labels = LabelGroups.unique(make_labels(count, num_classes), num_classes).labels
    values = torch.randint(-9, 9, (len(labels), CODE_LENGTH)).float()
    if plain:
        dense = labels.dense()  # pyright: ignore[reportAttributeAccessIssue]
        return lambda: sums_of_all_pairs(values, dense)
    return lambda: similar_sums(values, labels)


def distinct_rows(count: int, num_classes: int, plain: bool) -> Work:
    labels = make_labels(count, num_classes)
    if plain:
        return lambda: torch.unique(labels, dim=0, return_inverse=True)
    return lambda: LabelGroups.unique(labels, num_classes)


def discrete_step(count: int, num_classes: int, plain: bool) -> Work:
    bank = CodeBank(make_labels(count, num_classes), CODE_LENGTH)
    loss_func = DSAHLoss(num_classes, CODE_LENGTH, code_bank=bank, warm_start=1)
    bank.query_codes.normal_().tanh_()
    loss_func.update_codes()
    return loss_func.update_codes


def evaluation(count: int, num_classes: int, plain: bool) -> Work:
    labels = make_labels(count, num_classes)
    codes = torch.randint(256, (count, CODE_LENGTH // 8), dtype=torch.uint8)
    data = codes[:100].clone(), labels[:100].clone(), codes, labels
    return lambda: HammingRanking(*data).average_precision()


def step(count: int, num_classes: int, plain: bool) -> Work:
    codes = torch.randn(count, CODE_LENGTH).tanh().requires_grad_()
    labels, loss_func = make_labels(count, num_classes), HashNetLoss()

    def listed() -> None:
        similar = labels.float() @ labels.float().T > 0
        apart = ~similar
        similar.fill_diagonal_(False)
        apart.fill_diagonal_(False)
        pairs = (*torch.where(similar), *torch.where(apart))
        loss_func(codes, labels, pairs).backward()

    return listed if plain else lambda: loss_func(codes, labels).backward()


def index_after_load(count: int, num_classes: int, plain: bool) -> Work:
    knn = HammingKNN(index=HNSW())
    knn.train(torch.randint(256, (count, CODE_LENGTH // 8), dtype=torch.uint8))
    query = torch.randint(256, (1, CODE_LENGTH // 8), dtype=torch.uint8)
    path = Path(tempfile.mkdtemp()) / "index.safetensors"
    if not plain:  # then there is a graph to save
        knn(query, 1)
    knn.save(path)

    def load() -> None:
        loaded = HammingKNN(index=HNSW())
        loaded.load(path)
        loaded(query, 1)

    return load


# What is called, sizes as (count, number of classes), and whether there is a plain way.
ROWS: dict[str, tuple[Callable[..., Work], list[tuple[int, int]], bool]] = {
    "sums over similar rows": (
        over_similar_rows,
        [(5_000, 80), (10_000, 80), (30_000, 80), (100_000, 80), (30_000, 1000)],
        True,
    ),
    "distinct rows of labels": (distinct_rows, [(30_000, 80), (30_000, 1000)], True),
    "discrete step of DSAH": (
        discrete_step,
        [(20_000, 21), (20_000, 80), (20_000, 1000), (100_000, 80)],
        False,
    ),
    "mAP of 100 queries": (evaluation, [(100_000, 80), (1_000_000, 80)], False),
    "step of HashNet": (step, [(128, 80), (512, 80), (2048, 80)], True),
    "load an HNSW index": (index_after_load, [(10_000, 2), (50_000, 2)], True),
}
LARGEST_PLAIN = 30_000 * 1000  # in entries of labels
REPEATS = 3


def measure(name: str, count: int, num_classes: int, plain: bool) -> list[float]:
    """Return CPU seconds and MB of one row, in this process."""
    work = ROWS[name][0](count, num_classes, plain)
    before = peak_megabytes(reset=True)
    work()
    peak, seconds = peak_megabytes() - before, []
    for _ in range(1 if plain else REPEATS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return [min(seconds), peak]


def run(name: str, count: int, num_classes: int, plain: bool) -> str:
    """Measure one row in a process of its own, and return its two cells."""
    command = [sys.executable, __file__, name, str(count), str(num_classes), str(int(plain))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, megabytes = json.loads(output.splitlines()[-1])
    return f"{seconds:10.3f}{megabytes:11.0f}"


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if sys.argv[1:]:
        name, *numbers = sys.argv[1:]
        count, num_classes, plain = map(int, numbers)
        print(json.dumps(measure(name, count, num_classes, bool(plain))))
        return
    print("OMP_NUM_THREADS=1 python benchmarks/growth.py")
    print(
        f"{processor()}, one thread; pml_hashing {pml_hashing.__version__}, torch "
        f"{torch.__version__}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, shared"
    )
    print(f"{LABELS_OF_A_SAMPLE} labels per sample on average, {CODE_LENGTH} bits\n")
    print(
        f"{'':26}{'samples':>10}{'classes':>9}{'CPU s':>10}{'MB':>11}"
        f"{'plain, s':>10}{'plain, MB':>11}"
    )
    for name, (_, sizes, has_plain) in ROWS.items():
        for count, num_classes in sizes:
            cells = run(name, count, num_classes, False)
            if has_plain and count * num_classes <= LARGEST_PLAIN and count <= 50_000:
                cells += run(name, count, num_classes, True)
            print(f"{name:26}{count:10,}{num_classes:9,}{cells}", flush=True)


if __name__ == "__main__":
    main()
