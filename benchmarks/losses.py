"""Time and memory of a step of every loss, and of the discrete steps, beside plain formulas.

    OMP_NUM_THREADS=1 python benchmarks/losses.py > benchmarks/results/losses_cpu.txt
    OMP_NUM_THREADS=1 python benchmarks/losses.py blocks > benchmarks/results/losses_blocks_cpu.txt

A step is forward and backward of the loss alone, for a batch of 128 codes of 64 bits. Times are CPU
time on one thread, the median of several runs. Memory is the peak of what a run allocates, besides
codes, labels and code bank. Plain versions are the formulas as published scripts write them, with a
row of similarities for every sample of the batch; they are timed in the same run. `blocks` is the
table of all pairs and triplets of larger batches: in blocks, and as the lists that miners give.
"""

import inspect
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from search import processor
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import pml_hashing
from pml_hashing import CodeBank, losses
from pml_hashing.codes import binarize
from pml_hashing.pairs import to_pairs

BATCH_SIZE, CODE_LENGTH, FEATURES = 128, 64, 1280
SAMPLES, MANY_SAMPLES, FEW_SAMPLES = 59_000, 1_000_000, 10_000
DRAWN = 2000
LABELS = {"10 classes": (10, False), "21 labels": (21, True), "1000 classes": (1000, False)}
BASES = (losses.BaseHashingLoss, losses.DiscreteLoss)
CLASSES = {
    name: loss_class
    for name, loss_class in ((name, getattr(losses, name)) for name in losses.__all__)
    if issubclass(loss_class, BASES) and loss_class not in BASES
}
DISCRETE = [name for name, c in CLASSES.items() if issubclass(c, losses.DiscreteLoss)]
BANK_PAIRS = [
    name for name, c in CLASSES.items() if "bank_samples" in inspect.signature(c).parameters
]

Work = Callable[[], Any]


def make_labels(kind: str, count: int) -> Tensor:
    """Return class ids, or rows with two labels on average."""
    num_classes, multi_hot = LABELS[kind]
    if multi_hot:
        return (torch.rand(count, num_classes) < 2 / num_classes).to(torch.uint8)
    return torch.randint(num_classes, (count,))


def make_loss(name: str, kind: str, **options: Any) -> Any:
    num_classes = LABELS[kind][0]
    sizes = {"num_classes": num_classes, "code_length": CODE_LENGTH}
    sizes["features"] = torch.randn(num_classes, FEATURES)
    asked = inspect.signature(CLASSES[name]).parameters
    return CLASSES[name](**{key: sizes[key] for key in sizes if key in asked}, **options)


def make_codes(count: int) -> Tensor:
    return torch.tanh(torch.randn(count, CODE_LENGTH))


def make_bank(kind: str, count: int, num_networks: int = 1) -> CodeBank:
    options = {"num_classes": LABELS[kind][0], "num_networks": num_networks}
    bank = CodeBank(make_labels(kind, count), CODE_LENGTH, **options)
    for codes in bank.networks:
        codes.copy_(make_codes(count))
    return bank


def step(loss_func: Callable[..., Tensor], codes: Tensor, *arguments: Any, **options: Any) -> None:
    codes.grad = None
    loss_func(codes, *arguments, **options).backward()


def batch_step(name: str, kind: str) -> Work:
    codes = make_codes(BATCH_SIZE).requires_grad_()
    return partial(step, make_loss(name, kind), codes, make_labels(kind, BATCH_SIZE))


def bank_step(name: str, bank: CodeBank, kind: str, **options: Any) -> Work:
    """Return a step against a bank, with as many networks as it has."""
    loss_func = make_loss(name, kind, code_bank=bank, **options)
    codes, ref_codes = (make_codes(BATCH_SIZE).requires_grad_() for _ in range(2))
    ref = {"ref_emb": ref_codes} if len(bank.networks) == 2 else {}
    rows = torch.randint(len(bank), (BATCH_SIZE,))
    return partial(step, loss_func, codes, sample_indices=rows, **ref)


def discrete_step(name: str, kind: str, count: int) -> Work:
    return make_loss(name, kind, code_bank=make_bank(kind, count)).update_codes


def median_ms(work: Work, repeats: int = 31) -> float:
    """Return the median CPU time of a run, after a warm-up run."""
    times = []
    for _ in range(1 + repeats):
        start = time.process_time()
        work()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times[1:])


def peak_mb(work: Work) -> float:
    """Return the most memory that a run holds at a time, beyond what was held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    events = sorted((e for e in events if e["name"] == "[memory]"), key=lambda event: event["ts"])
    return max(accumulate(event["args"]["Bytes"] for event in events)) / 1e6


def print_row(label: str, *cells: float | None, width: int = 13) -> None:
    numbers = ("" if cell is None else f"{cell:,.2f}" for cell in cells)
    print(f"{label:<31}" + "".join(f"{number:>{width}}" for number in numbers), flush=True)


def print_head(title: str, *columns: str, width: int = 13) -> None:
    print(f"\n{title}\n{'':<31}" + "".join(f"{column:>{width}}" for column in columns))


def batch_table() -> None:
    print_head("A step on the batch alone, ms, and its peak, MB", *LABELS, "MB of 10", "MB of 1000")
    for name in CLASSES:
        works = [batch_step(name, kind) for kind in LABELS]
        peaks = (peak_mb(works[0]), peak_mb(works[2]))
        print_row(name, *(median_ms(work) for work in works), *peaks)


def bank_table() -> None:
    kinds = ("10 classes", "10 classes", "21 labels", "10 classes")
    cases = list(zip(kinds, (SAMPLES, MANY_SAMPLES, SAMPLES, SAMPLES), (1, 1, 1, 2), strict=True))
    print_head(
        "A step with a code bank, ms, and its peak, MB",
        *("n = 59,000", "n = 1,000,000", "21 labels", "two networks", "MB of 59,000"),
        width=15,
    )
    for name in DISCRETE:
        banks = [make_bank(*case) for case in cases]
        works = [bank_step(name, bank, kind) for bank, kind in zip(banks, kinds, strict=True)]
        print_row(name, *(median_ms(work) for work in works), peak_mb(works[0]), width=15)


def likelihood_table() -> None:
    print_head(
        f"The likelihood of pairs with all of a bank, or with {DRAWN:,} of it (bank_samples), ms",
        *("n = 59,000", "21 labels", "two networks", f"{DRAWN:,} drawn", "MB of 59,000"),
        width=15,
    )
    banks = [make_bank(*sizes) for sizes in (("10 classes", SAMPLES), ("21 labels", SAMPLES))]
    banks.append(make_bank("10 classes", SAMPLES, 2))
    for name in BANK_PAIRS:
        works = [
            bank_step(name, bank, kind, bank_samples=samples)
            for bank, kind, samples in (
                (banks[0], "10 classes", SAMPLES),
                (banks[1], "21 labels", SAMPLES),
                (banks[2], "10 classes", SAMPLES),
                (banks[0], "10 classes", DRAWN),
            )
        ]
        times = (median_ms(work, repeats=7) for work in works)
        print_row(name, *times, peak_mb(works[0]), width=15)


def update_table() -> None:
    print_head(
        "A discrete step (update_codes), s, and its peak, MB",
        *("n = 10,000", "n = 59,000", "n = 1,000,000", "59,000, 21 l.", "MB of 59,000"),
        width=15,
    )
    for name in DISCRETE:
        cells = []
        for count, kind in (
            *((count, "10 classes") for count in (FEW_SAMPLES, SAMPLES, MANY_SAMPLES)),
            (SAMPLES, "21 labels"),
        ):
            work = discrete_step(name, kind, count)
            cells.append(median_ms(work, repeats=3) / 1000)
        print_row(name, *cells, peak_mb(discrete_step(name, "10 classes", SAMPLES)), width=15)


def plain_inner_products(codes: Tensor, rows: Tensor, database: Tensor, one_hot: Tensor) -> Tensor:
    """ADSH: the codes of a batch against all of a data set, with a similarity for every pair."""
    similar = 2 * (one_hot[rows] @ one_hot.T > 0).float() - 1
    products = (codes @ database.T - CODE_LENGTH * similar).square().sum()
    return (products + 200 * (database[rows] - codes).square().sum()) / (len(rows) * len(database))


def plain_likelihood(codes: Tensor, rows: Tensor, bank: Tensor, one_hot: Tensor) -> Tensor:
    """DPSH: the likelihood of a batch with the latest codes of all of a data set."""
    similar = (one_hot[rows] @ one_hot.T > 0).float()
    theta = codes @ bank.T / 2
    losses_of_pairs = theta.clamp(min=0) + torch.log(1 + torch.exp(-theta.abs())) - similar * theta
    return losses_of_pairs.mean() + 0.1 * (codes - codes.sign()).square().mean()


def plain_triplets(codes: Tensor, labels: Tensor) -> Tensor:
    """DTSH: all triplets, anchor by anchor."""
    products, total, count = codes @ codes.T / 2, codes.new_zeros(()), 0
    for anchor, label in enumerate(labels):
        similar = products[anchor, labels == label]
        dissimilar = products[anchor, labels != label]
        differences = similar[:, None] - dissimilar - CODE_LENGTH / 2
        total, count = total + F.softplus(-differences).sum(), count + differences.numel()
    return total / count + 0.1 * (codes - codes.sign()).square().mean()


@torch.no_grad()
def plain_update(database: Tensor, drawn: Tensor, codes: Tensor, one_hot: Tensor) -> None:
    """ADSH: one pass over the bits of all samples, for 2,000 that were drawn."""
    similar = 2 * (one_hot[drawn] @ one_hot.T > 0).float() - 1
    kept = torch.zeros_like(database)
    kept[drawn] = codes
    target = -2 * CODE_LENGTH * similar.T @ codes - 2 * 200 * kept
    for bit in range(CODE_LENGTH):
        others = [other for other in range(CODE_LENGTH) if other != bit]
        gram = codes[:, others].T @ codes[:, bit]
        database[:, bit] = binarize(-(2 * database[:, others] @ gram + target[:, bit]))


def plain_table() -> None:
    width = 15
    columns = ("plain, ms", "ours, ms", "ratio", "plain, MB", "ours, MB")
    print_head("The same by a plain way, n = 59,000, in the same run", *columns, width=width)
    bank, kind = make_bank("10 classes", SAMPLES), "10 classes"
    one_hot = F.one_hot(bank.labels_of(slice(None)), 10).float()
    database, batch_labels = binarize(make_codes(SAMPLES)), make_labels(kind, BATCH_SIZE)
    codes, rows = make_codes(BATCH_SIZE).requires_grad_(), torch.randint(SAMPLES, (BATCH_SIZE,))
    drawn = torch.randperm(SAMPLES)[:DRAWN]
    given = (codes, rows)
    pairs = {
        "ADSHLoss, a step": (
            partial(step, plain_inner_products, *given, database, one_hot),
            bank_step("ADSHLoss", bank, kind),
        ),
        "ADSHLoss, update_codes": (
            partial(plain_update, database, drawn, make_codes(DRAWN), one_hot),
            discrete_step("ADSHLoss", kind, SAMPLES),
        ),
        "DSDHLoss, all of the bank": (
            partial(step, plain_likelihood, *given, bank.query_codes, one_hot),
            bank_step("DSDHLoss", bank, kind, bank_samples=SAMPLES),
        ),
        "DTSHLoss, on the batch": (
            partial(step, plain_triplets, codes, batch_labels),
            partial(step, make_loss("DTSHLoss", kind), codes, batch_labels),
        ),
    }
    for label, (plain, ours) in pairs.items():
        plain_ms, ours_ms = (median_ms(work, repeats=11) for work in (plain, ours))
        peaks = (peak_mb(plain), peak_mb(ours))
        print_row(label, plain_ms, ours_ms, plain_ms / ours_ms, *peaks, width=width)


def listed_step(loss_func: Any, codes: Tensor, labels: Tensor) -> None:
    """A step on the same pairs as a list of places, which is how a miner gives its own."""
    step(loss_func, codes, labels, to_pairs(None, labels, labels))


def blocks_table() -> None:
    width = 13
    columns = ("list, ms", "blocks, ms", "ratio", "list, MB", "blocks, MB")
    print_head("All pairs or triplets of a batch, in the same run", *columns, width=width)
    pairs, triplets = ("DPSHLoss", "HashNetLoss"), ("DNNHLoss", "DTSHLoss")
    cases = [
        (name, kind, 128) for name in (*pairs, *triplets) for kind in ("10 classes", "21 labels")
    ]
    cases += [(name, kind, 4096) for name in pairs for kind in ("10 classes", "21 labels")]
    cases += [(name, "21 labels", 1024) for name in triplets]
    for name, kind, count in cases:
        codes, labels = make_codes(count).requires_grad_(), make_labels(kind, count)
        loss_func = make_loss(name, kind)
        listed = partial(listed_step, loss_func, codes, labels)
        blocks = partial(step, loss_func, codes, labels)
        times = [median_ms(work, repeats=31 if count == 128 else 3) for work in (listed, blocks)]
        peaks = (peak_mb(listed), peak_mb(blocks))
        label = f"{name}, {count:,}, {kind}"
        print_row(label, *times, times[0] / times[1], *peaks, width=width)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    of_blocks = sys.argv[1:] == ["blocks"]
    print(f"command: OMP_NUM_THREADS=1 python benchmarks/losses.py{' blocks' * of_blocks}")
    print(f"processor: {processor()}, one thread")
    print(
        f"versions: pml_hashing {pml_hashing.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
    tables = (batch_table, bank_table, likelihood_table, update_table, plain_table)
    for table in (blocks_table,) if of_blocks else tables:
        table()


if __name__ == "__main__":
    main()
