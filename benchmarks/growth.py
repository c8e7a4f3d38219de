"""How time and memory grow with samples, distinct labels, classes and batch, beside a plain way.

    OMP_NUM_THREADS=1 python benchmarks/growth.py > benchmarks/results/growth_cpu.txt
    OMP_NUM_THREADS=1 python benchmarks/growth.py "step of DPSH"  # some of the rows

One thread. Times are CPU seconds, the least of several runs. Memory is the most that a call takes
beyond what was there before it, of the process, in MB; each line has a process of its own. Plain
ways are formulas as one would write them first: all pairs of rows, a matrix of all queries and
items, of all samples of a batch, or a list of all its triplets; labels as a dense matrix; an index
that is built again.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from evaluation import peak_megabytes
from search import processor
from torch import Tensor

import pml_hashing
from pml_hashing import CodeBank, DSAHLoss, losses
from pml_hashing.centers import spread_codes
from pml_hashing.codes import hamming_distance, unpack
from pml_hashing.evaluation import HammingRanking
from pml_hashing.pairs import LabelGroups, similar_sums, to_pairs
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

    def all_at_once() -> Tensor:
        relevant = data[1].float() @ labels.float().T > 0
        order = hamming_distance(data[0], codes).argsort(dim=1, stable=True)
        ranking = relevant.gather(1, order)
        precisions = ranking.cumsum(dim=1) / torch.arange(1, count + 1)
        return (precisions * ranking).sum(dim=1) / ranking.sum(dim=1).clamp(min=1)

    return all_at_once if plain else lambda: HammingRanking(*data).average_precision()


def asymmetric_evaluation(count: int, num_classes: int, plain: bool) -> Work:
    """Real queries: inner products with all codes, and a whole order for each query."""
    labels = torch.randint(num_classes, (count,))
    codes = torch.randint(256, (count, CODE_LENGTH // 8), dtype=torch.uint8)
    query, relevant = torch.randn(10, CODE_LENGTH), labels[:10, None] == labels

    def one_by_one() -> list[Tensor]:
        found = []
        for row, matches in zip(query, relevant, strict=True):
            order = (unpack(codes).double() @ -row.double()).argsort(stable=True)
            hits = matches[order]
            precisions = hits.cumsum(dim=0) / torch.arange(1, count + 1)
            found.append((precisions * hits).sum() / hits.sum())
        return found

    data = query, labels[:10], codes, labels
    ranking = partial(HammingRanking, *data, asymmetric=True)
    return one_by_one if plain else lambda: ranking().average_precision()


def class_codes(count: int, num_classes: int, plain: bool) -> Work:
    """Codes of classes that lie far apart. Found anew in each call: seeds differ."""
    seeds = iter(range(100))
    return lambda: spread_codes(num_classes, CODE_LENGTH, seed=next(seeds))


def dense_pairs(codes: Tensor, labels: Tensor) -> Tensor:
    """The likelihood of all pairs of a batch, similar and dissimilar ones alike in sum."""
    similar = (labels.float() @ labels.float().T > 0).float()
    theta = codes @ codes.T / 2
    others = 1 - torch.eye(len(codes))
    similar_pairs, dissimilar_pairs = similar * others, (1 - similar) * others
    weights = similar_pairs / similar_pairs.sum() + dissimilar_pairs / dissimilar_pairs.sum()
    losses = theta.clamp(min=0) + torch.log1p(torch.exp(-theta.abs())) - similar * theta
    return (weights * losses).sum() + 0.1 * (codes - codes.sign()).square().mean()


def step(make_loss: Callable[[int], Any], kind: str) -> Callable[[int, int, bool], Work]:
    """Return what makes a step of a loss of pairs or triplets, of all of a batch."""

    def make(count: int, num_classes: int, plain: bool) -> Work:
        codes = torch.randn(count, CODE_LENGTH).tanh().requires_grad_()
        labels, loss_func = make_labels(count, num_classes), make_loss(num_classes)

        def of_a_list() -> None:
            loss_func(codes, labels, to_pairs(None, labels, labels)).backward()

        if plain and kind == "triplets":
            return of_a_list
        if plain:
            return lambda: dense_pairs(codes, labels).backward()
        return lambda: loss_func(codes, labels).backward()

    return make


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
    "mAP of 100 queries": (evaluation, [(100_000, 80), (1_000_000, 80)], True),
    "asymmetric mAP, 10 queries": (
        asymmetric_evaluation,
        [(100_000, 10), (1_000_000, 10)],
        True,
    ),
    "class codes, far apart": (class_codes, [(0, 1024), (0, 1025), (0, 10_000)], False),
    "step of HashNet": (
        step(lambda _: losses.HashNetLoss(), "pairs"),
        [(128, 21), (1024, 21), (4096, 21)],
        True,
    ),
    "step of DPSH": (step(lambda _: losses.DPSHLoss(), "pairs"), [(4096, 21)], True),
    "step of DHN": (step(lambda _: losses.DHNLoss(), "pairs"), [(4096, 21)], True),
    "step of DFH": (
        step(lambda classes: losses.DFHLoss(classes, CODE_LENGTH), "pairs"),
        [(4096, 21)],
        True,
    ),
    "step of DTSH": (step(lambda _: losses.DTSHLoss(), "triplets"), [(128, 21), (1024, 21)], True),
    "step of DNNH": (step(lambda _: losses.DNNHLoss(), "triplets"), [(128, 21), (1024, 21)], True),
    "load an HNSW index": (index_after_load, [(10_000, 2), (50_000, 2)], True),
}
LARGEST_PLAIN = 80 * 10**6  # in entries of labels
MANY_ROWS = 50_000  # of labels or of an index: too many for what is quadratic, or slow, in them
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
    arguments = sys.argv[1:]
    if len(arguments) == 4 and arguments[1].isdigit():
        name, *numbers = arguments
        count, num_classes, plain = map(int, numbers)
        print(json.dumps(measure(name, count, num_classes, bool(plain))))
        return
    quoted = [f'"{name}"' for name in arguments]
    print(" ".join(["OMP_NUM_THREADS=1 python benchmarks/growth.py", *quoted]))
    print(
        f"{processor()}, one thread; pml_hashing {pml_hashing.__version__}, torch "
        f"{torch.__version__}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, shared"
    )
    print(f"{LABELS_OF_A_SAMPLE} labels per sample on average, {CODE_LENGTH} bits\n")
    print(
        f"{'':26}{'samples':>10}{'classes':>9}{'CPU s':>10}{'MB':>11}"
        f"{'plain, s':>10}{'plain, MB':>11}"
    )
    for name in arguments or ROWS:
        _, sizes, has_plain = ROWS[name]
        for count, num_classes in sizes:
            cells = run(name, count, num_classes, False)
            few = count <= MANY_ROWS or "mAP" in name
            if has_plain and few and count * num_classes <= LARGEST_PLAIN:
                cells += run(name, count, num_classes, True)
            print(f"{name:26}{count:10,}{num_classes:9,}{cells}", flush=True)


if __name__ == "__main__":
    main()
