"""Collections of made-up codes, as if files had been encoded, to measure what all else costs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pml_hashing import Collection, HashingModel
from pml_hashing.collection.file_records import Files
from pml_hashing.collection.files import Content, FileState
from pml_hashing.collection.places import storage_of
from pml_hashing.collection.state import Change, Images

PART = 2**14  # files that are in memory together


def make_collection(
    place: str,
    model: HashingModel,
    photos: Path,
    names: list[str],
    content_of: Callable[[int, FileState], Content],
    label_of: Callable[[str], str] | None = None,
) -> None:
    """Make a collection in which files have random codes, and are known again by a sync.

    Args:
        place: Of the collection.
        model: Of the collection.
        photos: The folder of the files.
        names: Those of the files in it, sorted.
        content_of: Says what is in a file, by its place among the names and its state.
        label_of: Says the label of a file, by its name. None have one if `None`.
    """
    Collection.create(place, model).close()
    none, rows = np.zeros(len(names), dtype=bool), np.empty(0, np.int64)
    columns: dict[str, type] = {} if label_of is None else {"label": str}

    def parts() -> Iterator[Images]:
        for start in range(0, len(names), PART):
            own = names[start : start + PART]
            states = [FileState.of(photos / name) for name in own]
            contents = [content_of(row, state) for row, state in enumerate(states, start)]
            shape = len(own), (model.code_length + 7) // 8
            codes = np.random.default_rng(start).integers(256, size=shape).astype(np.uint8)
            labels = {} if label_of is None else {"label": [label_of(name) for name in own]}
            places = np.arange(start, start + len(own))
            yield Images(places, own, Files.made(states, contents), codes, labels)

    storage = storage_of(place)
    with storage.writing(0):
        state = storage.read()
        to: Any = {"generation": 1, "count": len(names), "images": str(photos.resolve())}
        manifest = replace(state.manifest, **to)
        storage.commit(state, Change(names, none, rows, parts(), columns, [], manifest))
    storage.close()
