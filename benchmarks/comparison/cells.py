"""One cell of a comparison: one method, code length and seed, trained and scored."""

import os
import platform
import resource
import sys
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from comparison.methods import FLOAT_FEATURES, find_method
from comparison.protocols import PROTOCOLS, Split
from comparison.results import Record
from comparison.sources import Source
from comparison.task import Budget, Learned, Task
from pml_hashing import __version__
from pml_hashing.evaluation import HammingRanking, mean_average_precision
from pml_hashing.pairs import similarity

MEBIBYTE, TOP_K = 2**20, 5000
UNSEEN = "mean_average_precision_of_unseen"


@dataclass(frozen=True)
class Cell:
    """What a result depends on. Two results of equal cells are the same result."""

    dataset: str
    protocol: str
    backbone: str
    img_size: int | None
    end_to_end: bool
    method: str
    code_length: int | None
    seed: int
    budget: Budget

    @classmethod
    def of(cls, record: Record) -> "Cell":
        """Return the cell that a record is of.

        Raises:
            ValueError: If it is a record of something else.
        """
        try:
            values: Record = {name: record[name] for name in cls.__dataclass_fields__}
            values["budget"] = Budget(**values["budget"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"Expected a record of a cell, got {str(record)[:80]}.") from error
        return cls(**values)


def run_cell(cell: Cell, source: Source) -> Record:
    """Return the record of a cell: the cell itself, its scores and its costs."""
    data = source.load()
    split = PROTOCOLS[cell.protocol].split(data.labels, data.num_test, cell.seed)
    task = Task(data, split, cell.code_length or 0, cell.seed, cell.budget, source.device)
    before = peak_memory(source.device)
    wall, cpu = time.perf_counter(), time.process_time()
    learned = find_method(cell.method)(task)
    if torch.device(source.device).type == "cuda":
        torch.cuda.synchronize()
    costs = {
        "train_seconds": time.perf_counter() - wall,
        "train_cpu_seconds": time.process_time() - cpu,
        "train_memory_mib": (peak_memory(source.device) - before) / MEBIBYTE,
    }
    score = cosine_scores if cell.method == FLOAT_FEATURES else hamming_scores
    scores = score(learned, data.labels, split)
    return asdict(cell) | scores | costs | versions(source.device)


def hamming_scores(learned: Learned, labels: Tensor, split: Split) -> dict[str, float]:
    """Return the scores of codes, with `expected` ties."""
    query, database = learned.query(split.query), learned.database(split.database)
    ranking = HammingRanking(query, labels[split.query], database, labels[split.database])
    metrics = {
        "mean_average_precision": lambda s: s.average_precision(),
        "mean_average_precision_at_5000": lambda s: s.average_precision(TOP_K),
    }
    scores = {name: x.mean().item() for name, x in ranking.score(metrics).items()}
    within_2 = ranking.precision_by_radius()[:, :3][:, -1]
    scores["precision_within_radius_2"] = within_2.mean().item()
    unseen = unseen_items(split)
    if unseen.any():
        of_unseen = labels[split.database[unseen]]
        scores[UNSEEN] = mean_average_precision(
            query, labels[split.query], database[unseen], of_unseen
        )
    return scores


def unseen_items(split: Split) -> Tensor:
    """Return which items of the database were not trained on, booleans; none if none or all were.

    Where all are unseen, the score over all is that over the unseen.
    """
    unseen = ~torch.isin(split.database, split.training)
    return unseen & ~unseen.all()


def cosine_scores(learned: Learned, labels: Tensor, split: Split) -> dict[str, float]:
    """Return the scores of real vectors by cosine, as far as they are defined without bits."""
    queries, items = (
        nn.functional.normalize(encode(indices))
        for encode, indices in ((learned.query, split.query), (learned.database, split.database))
    )
    item_labels, unseen = labels[split.database], unseen_items(split)
    totals = torch.zeros(3, dtype=torch.float64)
    for query, label in zip(queries, labels[split.query], strict=True):
        order = (items @ query).argsort(descending=True)
        relevant = similarity(label[None], item_labels)[0][order]
        totals += torch.stack(
            [
                average_precision(relevant),
                average_precision(relevant, TOP_K),
                average_precision(relevant[unseen[order]]),
            ]
        )
    all_, at_5000, of_unseen = (totals / len(queries)).tolist()
    scores = {"mean_average_precision": all_, "mean_average_precision_at_5000": at_5000}
    return scores | {UNSEEN: of_unseen} if unseen.any() else scores


def average_precision(relevant: Tensor, top_k: int | None = None) -> Tensor:
    """Return the average precision of one ranking, 0 where nothing is relevant."""
    ranks = relevant[:top_k].nonzero().flatten() + 1
    precisions = torch.arange(1, len(ranks) + 1) / ranks.double()
    return precisions.sum() / max(1, len(ranks))


def peak_memory(device: str) -> int:
    """Return the most bytes held so far: by torch on a GPU, else by this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions(device: str) -> dict[str, str | int]:
    """Return what the costs depend on."""
    is_cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count() or 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pml_hashing": __version__,
    }
