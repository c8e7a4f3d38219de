"""Measure what a sync costs of a large collection, in a folder and in a database, and a search.

    python benchmarks/sync.py FOLDER --images 200000 [--over folder database]

makes so many empty files in `FOLDER`, if it is not there, and collections of made-up codes of 64
bits and labels, as if they had been encoded: one in a folder, one in an engine in this process.
Then a picture is added and synced, one is changed and synced, and the folder is synced once more
with nothing new. Printed are seconds of the clock, in which other processes may have run, and of
the CPU, and what of them went into the stages of a sync that changed something; the CPU time of a
search by name, the median of many; and the most memory that the process had, beyond what it had
before the collection was opened. Each collection has a process of its own.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_up import make_collection
from PIL import Image

from pml_hashing import Collection, HashingModel
from pml_hashing.collection import comparison, sync
from pml_hashing.collection.database_draft import DatabaseDraft
from pml_hashing.collection.database_storage import DatabaseStorage
from pml_hashing.collection.files import Content, FileState
from pml_hashing.collection.folder_storage import FolderStorage

PER_FOLDER, SEARCHES, K = 1000, 30, 10
OVER = ("folder", "database")


def place_of(folder: Path, over: str) -> str:
    return f"chdb://{folder / 'engine'}" if over == "database" else str(folder / "codes")


def make_files(folder: Path, num_images: int) -> None:
    """Make empty files, whose times are so old that they are known again."""
    for number in range(num_images):
        path = folder / "photos" / name_of(number)
        if not number % PER_FOLDER:
            path.parent.mkdir(parents=True)
        path.touch()
    time.sleep(3)


def name_of(number: int) -> str:
    return f"{number // PER_FOLDER:04d}/{number % PER_FOLDER:04d}.png"


def make_collection_of(num_images: int, folder: Path, place: str) -> None:
    """Make a collection in which the files have codes, and contents of other files."""
    torch.manual_seed(0)
    model, rng = HashingModel("test_resnet", 64, img_size=32), np.random.default_rng(0)

    def content_of(row: int, _: FileState) -> Content:
        return Content(rng.bytes(32), 1000 + row % 50_000, 640, 480)

    def label_of(name: str) -> str:
        return name.partition("/")[0]

    names = [name_of(number) for number in range(num_images)]
    make_collection(place, model, folder / "photos", names, content_of, label_of)


class Timed:
    """Adds up the CPU seconds of functions, by what they do."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self(sync, "list_images", "list the folder")
        self(comparison, "states_of", "look at all files")
        self(comparison.Comparison, "of", "look, and compare with what is held")
        self(DatabaseDraft, "copy", "copy, in the engine")
        self(FolderStorage, "commit", "commit")
        self(DatabaseStorage, "commit", "commit")

    def __call__(self, owner: Any, name: str, what: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[what] = time.process_time() - start

        setattr(owner, name, timed)

    def report(self) -> None:
        for what, seconds in self.seconds.items():
            print(f"    {what:38} CPU {seconds:6.2f} s")
        self.seconds.clear()


@contextmanager
def measured(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    spent = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {what:20} {spent[0]:6.2f} s, CPU {spent[1]:6.2f} s", flush=True)


def picture(path: Path) -> None:
    rng = np.random.default_rng(time.time_ns())
    Image.fromarray(rng.integers(256, size=(32, 32, 3)).astype(np.uint8)).save(path)


def measure(folder: Path, over: str) -> None:
    timed, before = Timed(), peak()
    photos = Collection.open(place_of(folder, over))
    print(f"in a {over}")
    for what, name in (("one added", f"new{time.time_ns()}.png"), ("one changed", name_of(5))):
        picture(folder / "photos" / name)
        with measured(what):
            photos.sync(progress=False)
        timed.report()
    time.sleep(3)  # a file that is too new would be read again
    photos.sync(progress=False)
    with measured("nothing new"):
        photos.sync(progress=False)
    times = []
    for number in range(SEARCHES):
        start = time.process_time()
        photos.similar(name_of(number), K)
        times.append(time.process_time() - start)
    print(f"  a search by name     CPU {1000 * statistics.median(times):6.1f} ms")
    print(f"  memory, at most           {peak() - before:6.0f} MB", flush=True)


def peak() -> float:
    """Return the most memory that this process has had, in MB, where Linux tells."""
    (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--over", nargs="+", choices=OVER, default=OVER)
    parser.add_argument("--measure", choices=OVER, help="of what is made already")
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.measure:
        measure(folder, arguments.measure)
        return
    if not folder.exists():
        make_files(folder, arguments.images)
        for over in arguments.over:
            make_collection_of(arguments.images, folder, place_of(folder, over))
    print(f"{arguments.images:,} images, 64 bits, a label each", flush=True)
    for over in arguments.over:
        subprocess.run([sys.executable, __file__, str(folder), "--measure", over], check=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
