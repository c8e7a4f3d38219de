"""Measure what a sync costs that adds one file to a large collection, or finds nothing new.

    python benchmarks/sync.py FOLDER --images 200000

makes so many empty files in `FOLDER`, which cannot be there before, and a collection of made-up
codes of 64 bits and labels, as if they had been encoded. Then a picture is added and synced, three
times, and the folder synced once more. Printed are seconds of the clock, in which other processes
may have run, and of the CPU; of the stages only those of the last sync that added a file.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pml_hashing import Collection, HashingModel
from pml_hashing.collection import comparison, sync
from pml_hashing.collection.file_records import Files
from pml_hashing.collection.files import Content, FileState
from pml_hashing.collection.folder_storage import FolderStorage
from pml_hashing.collection.state import Change, Images

PER_FOLDER = 1000


def make_collection(folder: Path, num_images: int) -> None:
    """Make empty files, and a collection in which they have codes."""
    rng, photos = np.random.default_rng(0), folder / "photos"
    names = [f"{n // PER_FOLDER:04d}/{n % PER_FOLDER:04d}.png" for n in range(num_images)]
    for name in names:
        if name.endswith("/0000.png"):
            (photos / name).parent.mkdir(parents=True)
        (photos / name).touch()
    time.sleep(3)  # so that no file is too new to be known again
    torch.manual_seed(0)
    made = Collection.create(folder / "codes", HashingModel("test_resnet", 64, img_size=32))
    contents = [Content(rng.bytes(32), 1000 + n % 50_000, 640, 480) for n in range(num_images)]
    files = Files.made([FileState.of(photos / name) for name in names], contents)
    codes = rng.integers(256, size=(num_images, 8)).astype(np.uint8)
    storage = FolderStorage(made.folder)
    state = storage.read()
    labels = {"label": [name.partition("/")[0] for name in names]}
    images = Images(np.arange(num_images), names, files, codes, labels)
    to: Any = {"generation": 1, "count": num_images, "images": str(photos.resolve())}
    none, columns = np.zeros(num_images, dtype=bool), {"label": str}
    manifest = replace(state.manifest, **to)
    rows, new = np.empty(0, np.int64), iter([images])
    storage.commit(state, Change(names, none, rows, new, columns, [], manifest))


class Timed:
    """Adds up the CPU seconds of functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, owner: Any, name: str, what: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[what] = time.process_time() - start

        setattr(owner, name, timed)


def measure(photos: Collection, what: str) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    photos.sync(progress=False)
    spent = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:12} {spent[0]:6.2f} s, CPU {spent[1]:6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    arguments = parser.parse_args()
    folder, timed = arguments.folder, Timed()
    make_collection(folder, arguments.images)
    photos = Collection.open(folder / "codes")
    print(f"{arguments.images:,} images, 64 bits, a label each")
    timed(sync, "list_images", "list the folder")
    timed(comparison, "states_of", "look at all files")
    timed(FolderStorage, "commit", "write all codes")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(256, size=(32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"new{number}.png")
        measure(photos, "one added")
    for what, seconds in timed.seconds.items():
        print(f"  {what:20} CPU {seconds:6.2f} s")
    measure(photos, "nothing new")


if __name__ == "__main__":
    main()
