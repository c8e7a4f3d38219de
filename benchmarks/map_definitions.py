"""Compute mAP on the same codes by the rules of other repositories and libraries.

    python benchmarks/map_definitions.py

writes docs/generated/map_definitions.md. The rules of the repositories are written anew here, each
in a line or two: how they sort, what they divide by, and which queries they leave out. PML and
torchmetrics are called.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor
from torchmetrics.retrieval import RetrievalMAP

from pml_hashing.codes import binarize, hamming_distance
from pml_hashing.evaluation import HammingRanking
from pml_hashing.evaluation.ranking import TIES

OUTPUT = Path(__file__).parents[1] / "docs" / "generated" / "map_definitions.md"
NUM_QUERIES, NUM_ITEMS, CODE_LENGTH, NUM_CLASSES, TOP_K = 500, 5000, 32, 10, 1000
NUM_WITHOUT_RELEVANT = 25
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def make_data(*, sorted_by_class: bool) -> Data:
    """Return codes around one centre per class. The last class has queries, but no items."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(NUM_CLASSES, (NUM_QUERIES + NUM_ITEMS,), generator=generator)
    labels[:NUM_WITHOUT_RELEVANT] = NUM_CLASSES
    centres = torch.randn(NUM_CLASSES + 1, CODE_LENGTH, generator=generator)
    noise = torch.randn(len(labels), CODE_LENGTH, generator=generator)
    codes = binarize(centres[labels] + 2 * noise)
    items, item_labels = codes[NUM_QUERIES:], labels[NUM_QUERIES:]
    if sorted_by_class:
        order = item_labels.argsort(stable=True)
        items, item_labels = items[order], item_labels[order]
    return codes[:NUM_QUERIES], labels[:NUM_QUERIES], items, item_labels


def ap(match: np.ndarray) -> float | None:
    """Average precision over the relevant items found, or `None` if there are none."""
    places = np.flatnonzero(match)
    return None if not len(places) else float(np.mean(np.arange(1, len(places) + 1) / (places + 1)))


def deephash_pytorch(data: Data, top_k: int) -> float:
    """Unstable argsort of the distances; queries with nothing found count 0."""
    queries, query_labels, items, labels = (x.numpy() for x in data)
    scores = []
    for query, label in zip(queries, query_labels, strict=True):
        order = np.argsort(0.5 * (CODE_LENGTH - query @ items.T))
        scores.append(ap((labels == label)[order][:top_k]) or 0.0)
    return float(np.mean(scores))


def hashnet(data: Data, top_k: int) -> float:
    """Unstable argsort of all inner products at once; queries with nothing found do not count."""
    queries, query_labels, items, labels = (x.numpy() for x in data)
    order = np.argsort(-(items @ queries.T), axis=0)[:top_k]
    scores = [ap((labels == y)[column]) for column, y in zip(order.T, query_labels, strict=True)]
    return float(np.mean([score for score in scores if score is not None]))


def orthohash(data: Data, top_k: int) -> float:
    """`torch.topk` of the distances; queries with nothing found count 0."""
    queries, query_labels, items, labels = data
    distances = 0.5 * (CODE_LENGTH - queries @ items.T)
    order = torch.topk(distances, top_k, dim=1, largest=False).indices
    matches = (labels[order] == query_labels[:, None]).numpy()
    return float(np.mean([ap(match) or 0.0 for match in matches]))


def pml(data: Data, top_k: int) -> float:
    calculator = AccuracyCalculator(
        include=("mean_average_precision",), k=top_k, device=torch.device("cpu")
    )
    return calculator.get_accuracy(*data)["mean_average_precision"]


def torchmetrics(data: Data, top_k: int) -> float:
    queries, query_labels, items, labels = data
    closeness = (CODE_LENGTH + 1 - hamming_distance(queries, items)).float()
    relevant = query_labels[:, None] == labels
    indexes = torch.arange(len(queries))[:, None].expand_as(relevant)
    metric = RetrievalMAP(top_k=top_k, empty_target_action="neg")
    return metric(closeness.flatten(), relevant.flatten(), indexes.flatten()).item()


def ours(ties: str) -> Callable[[Data, int], float]:
    def score(data: Data, top_k: int) -> float:
        ranking = HammingRanking(*data, ties=ties)  # pyright: ignore[reportArgumentType]
        return ranking.average_precision(top_k).mean().item()

    return score


def ours_as_pml(data: Data, top_k: int) -> float:
    ranking = HammingRanking(*data)
    scores = ranking.average_precision(top_k, divisor="relevant")
    return scores[ranking.num_relevant > 0].mean().item()


ROWS: dict[str, tuple[str, str, str, Callable[[Data, int], float]]] = {
    "DeepHash-pytorch, `CalcTopMap`": ("found", "unstable", "count 0", deephash_pytorch),
    "HashNet, `mean_average_precision`": ("found", "unstable", "left out", hashnet),
    "OrthoHash, `calculate_mAP`": ("found", "unstable", "count 0", orthohash),
    'torchmetrics, `RetrievalMAP(empty_target_action="neg")`': (
        "found",
        "unstable",
        "count 0",
        torchmetrics,
    ),
    "PML, `mean_average_precision` with `k`": ("all", "order of the search", "left out", pml),
    **{f'here, `ties="{ties}"`': ("found", ties, "count 0", ours(ties)) for ties in TIES},
    'here, `divisor="relevant"`, queries without relevant items left out': (
        "all",
        "expected",
        "left out",
        ours_as_pml,
    ),
}


def main() -> None:
    shuffled, by_class = (make_data(sorted_by_class=flag) for flag in (False, True))
    lines = [
        f"{NUM_QUERIES} queries, {NUM_WITHOUT_RELEVANT} of them of a class that the database does "
        f"not have; {NUM_ITEMS:,} items of {NUM_CLASSES} classes, {CODE_LENGTH} bits.",
        "",
        "| Computed by | Relevant items in the divisor | Ties | Queries without relevant items | "
        f"mAP@all | mAP@{TOP_K} | mAP@{TOP_K}, database sorted by class |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (divisor, ties, lone, score) in ROWS.items():
        values = (
            score(shuffled, NUM_ITEMS),
            score(shuffled, TOP_K),
            score(by_class, TOP_K),
        )
        cells = [name, divisor, ties, lone, *(f"{value:.4f}" for value in values)]
        lines.append(f"| {' | '.join(cells)} |")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text("\n".join(lines) + "\n")
    print(OUTPUT.read_text())


if __name__ == "__main__":
    main()
