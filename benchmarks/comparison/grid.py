"""The grid of all cells: which are missing, what would fail in each of them, and running them."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from comparison.cells import Cell, run_cell
from comparison.methods import METHODS, find_method
from comparison.networks import Recipe, make_loss
from comparison.protocols import PROTOCOLS
from comparison.results import Record, append_record, drop_torn_line, read_records
from comparison.sources import Source
from comparison.task import Task

ROOMS = [f"pml_hashing.{room}" for room in ("baselines", "evaluation", "models", "trainers")]


def missing_cells(cells: list[Cell], output: Path) -> list[Cell]:
    """Return the cells that a file of results does not have.

    Raises:
        OSError: If the file cannot be read or written.
        ValueError: If it is a file of something else.
    """
    drop_torn_line(output)
    finished = {Cell.of(record) for record in read_records(output)}
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab"):  # else the first result would be lost
        pass
    return [cell for cell in cells if cell not in finished]


def check(cells: list[Cell], source: Source) -> None:
    """Raise an error that every cell would raise, before any is run.

    Features are extracted where there are none yet.

    Raises:
        OSError: If images or features cannot be read, or features cannot be written.
        RuntimeError: If the backbone does not run where it should.
        ValueError: If there is no such data set, it does not suit the protocol, the weights are not
            those of the backbone, or a loss from outside cannot be made.
    """
    data = source.load()
    if source.features is None:
        source.model(code_length=1)
    for cell in {cell.method: cell for cell in reversed(cells)}.values():
        split = PROTOCOLS[cell.protocol].split(data.labels, data.num_test, cell.seed)
        task = Task(data, split, cell.code_length or 0, cell.seed, cell.budget, source.device)
        if cell.method not in METHODS:
            _check_outside(cell.method, task)


def _check_outside(name: str, task: Task) -> None:
    method = find_method(name)
    if isinstance(method, Recipe):
        try:
            make_loss(method, task)
        except Exception as error:  # whatever stands in the loss
            raise ValueError(f"{name}: {type(error).__name__}: {error}") from error


def run_apart(cell: Cell, source: Source) -> Record:
    """Run a cell in its own process, whose peak memory is that of the cell."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faiss", *ROOMS])  # imported only once
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(run_cell, cell, source).result()


def run_all(cells: list[Cell], source: Source, output: Path) -> int:
    """Run cells, append each result to a file as it comes, and return how many failed."""
    failed = 0
    for cell in cells:
        name = f"{cell.method:15}{cell.code_length or 'no':>3} bits, seed {cell.seed}: "
        try:
            record = run_apart(cell, source)
        except Exception as error:  # of the method, or of its process: the others go on
            failed += 1
            print(f"{name}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        append_record(output, record)
        score, seconds = record["mean_average_precision"], record["train_seconds"]
        print(f"{name}mAP {score:.4f}, trained in {seconds:.0f} s", flush=True)
    return failed
