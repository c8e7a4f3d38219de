"""`pml-hashing evaluate`: mAP and the other scores of a collection, by its labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pml_hashing.command import options
from pml_hashing.command.errors import warn_left_out
from pml_hashing.command.output import print_json, say
from pml_hashing.command.places import open_collection

if TYPE_CHECKING:
    from torch import Tensor

    from pml_hashing import Collection

PREFIX = "hamming_"


@dataclass(frozen=True)
class Labelled:
    """Packed codes of images, and the labels of each."""

    codes: "Tensor"
    labels: Sequence[tuple[str, ...]]

    def with_labels(self) -> "Labelled":
        """Return those that have a label."""
        rows = [row for row, labels in enumerate(self.labels) if labels]
        return Labelled(self.codes[rows], [self.labels[row] for row in rows])

    def drawn_first(self, count: int, seed: int) -> "Labelled":
        """Return all of them, with so many that are drawn at random at the front."""
        import torch

        order = torch.randperm(
            len(self.labels), generator=torch.Generator("cpu").manual_seed(seed), device="cpu"
        )
        rows = [*order[:count].tolist(), *sorted(order[count:].tolist())]
        return Labelled(self.codes[rows], [self.labels[row] for row in rows])


@click.command(short_help="Score a collection by its labels.")
@click.option(
    "--queries",
    type=options.FILE,
    metavar="FOLDER",
    help="A folder of images that are not in the collection. By default each image of the "
    "collection is a query against the others.",
)
@click.option(
    "--query-labels",
    type=options.TEXT,
    default="folders",
    show_default=True,
    metavar="folders|FILE.csv",
    help='Where their labels come from, as of "index --labels".',
)
@click.option("--limit", type=click.IntRange(1), help="So many queries, drawn at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option(
    "--top-k",
    type=click.IntRange(1),
    multiple=True,
    default=[100],
    show_default=True,
    help="Numbers of results to score. Can be given several times.",
)
@click.option(
    "--radius", type=click.IntRange(0), default=2, show_default=True, help="A radius to score."
)
@options.collection_options
@options.device_option
@options.json_option
@options.progress_option
@options.traceback_option
def evaluate(
    *,
    queries: Path | None,
    query_labels: str,
    limit: int | None,
    seed: int,
    top_k: tuple[int, ...],
    radius: int,
    device: str | None,
    as_json: bool,
    progress: bool,
    **place: Any,
) -> None:
    """Score a collection by its labels: mAP, precision, recall.

    An image is relevant to a query if they share a label. Images without labels are left out. A
    model that was trained on these images scores them too well: name others by --queries.

    \b
    Examples:
        pml-hashing index photos/ --labels folders
        pml-hashing evaluate
        pml-hashing evaluate --queries held_out/ --top-k 10 --top-k 100
    """
    from pml_hashing.evaluation import HammingAccuracyCalculator

    photos = open_collection(device=options.to_device(device), **place)
    held = _held(photos)
    database = held.with_labels()
    if not database.labels:
        raise ValueError(
            f"Expected images with labels in {photos.place}, got none: "
            '"pml-hashing index --labels folders", or a table, gives them labels.'
        )
    asked = None if queries is None else _read(photos, queries, query_labels, progress)
    sides = _sides(database, asked, limit, seed)
    calculator = HammingAccuracyCalculator(top_k=top_k, radius=radius)
    scores = calculator.get_accuracy(*_to_tensors(*sides), ref_includes_query=asked is None)
    about = {
        "queries": len(sides[0].labels),
        "database": len(database.labels),
        "without_labels": len(held.labels) - len(database.labels),
        "code_length": photos.code_length,
    }
    scores = {name.removeprefix(PREFIX): value for name, value in scores.items()}
    if as_json:
        print_json(about | {"scores": scores})
        return
    width = max(map(len, scores))
    for name, value in about.items():
        say(f"{name:{width}}  {value:,}")
    for name, value in scores.items():
        say(f"{name:{width}}  {value:.4f}")


def _held(photos: "Collection") -> Labelled:
    from pml_hashing.collection.labels import LABEL, labels_of

    values = photos.values(LABEL) if LABEL in photos.columns else [None] * len(photos)
    return Labelled(photos.codes(), list(map(labels_of, values)))


def _read(photos: "Collection", folder: Path, source: str, progress: bool) -> Labelled:
    """Return the codes and labels of the images of a folder.

    Raises:
        FileNotFoundError: If there is no such folder or table.
        ValueError: If no image of it has a label.
    """
    from pml_hashing.collection.labels import LABEL, labels_of, rows_of
    from pml_hashing.datasets import UnreadableImageError, list_images

    root = folder.resolve()
    names = list_images(folder).names
    rows, _ = rows_of(source, root, names)
    names = [name for name in names if rows.get(name, {}).get(LABEL) is not None]
    if not names:
        raise ValueError(f"Expected images with labels in {folder}, got none: --query-labels.")
    unreadable: list[UnreadableImageError] = []
    paths = [root / name for name in names]
    reading: dict[str, Any] = {"on_unreadable": unreadable.append, "progress": progress}
    codes = photos.model.encode(paths, **reading)
    for error in unreadable:
        warn_left_out(error)
    missing = {error.index for error in unreadable}
    kept = [name for place, name in enumerate(names) if place not in missing]
    return Labelled(codes, [labels_of(rows[name][LABEL]) for name in kept])


def _sides(
    database: Labelled, asked: Labelled | None, limit: int | None, seed: int
) -> tuple[Labelled, Labelled]:
    """Return queries and database. Where these are the same, the queries come first in both."""
    everything = database if asked is None else asked
    count = min(limit or len(everything.labels), len(everything.labels))
    drawn = everything.drawn_first(count, seed) if limit else everything
    queries = Labelled(drawn.codes[:count], drawn.labels[:count])
    return queries, drawn if asked is None else database


def _to_tensors(*sides: Labelled) -> "list[Tensor]":
    """Return codes and labels of both sides: class ids if every image has one label, else rows."""
    import torch

    classes = sorted({label for side in sides for labels in side.labels for label in labels})
    id_of = {label: number for number, label in enumerate(classes)}
    of_one = all(len(labels) == 1 for side in sides for labels in side.labels)
    tensors = []
    for side in sides:
        ids = [[id_of[label] for label in labels] for labels in side.labels]
        if of_one:
            labels = torch.tensor(ids, device="cpu").flatten()
        else:
            labels = torch.zeros(len(ids), len(classes), dtype=torch.int64, device="cpu")
            for row, places in zip(labels, ids, strict=True):
                row[places] = 1
        tensors += [side.codes, labels]
    return tensors
