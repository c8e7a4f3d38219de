"""Syncs and is killed: `python killed_sync.py FOLDER KILLS` prints what came of it.

Each sync runs in a fork of its own and dies at a random moment, after which the collection is read:
it is in the state before or after. In the end, every name has the code of its own file.
`test_processes.py` runs this in a process without other threads.
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from pictures import fresh_codes, held_codes, make_model, save
from tqdm import tqdm

from pml_hashing import Collection


def dies(photos, folder, delay):
    """Return whether a sync in a fork is killed before it is done."""
    child = os.fork()
    if child == 0:
        photos.sync(folder, batch_size=2, progress=False)
        os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"The sync failed with status {status}.")
    return os.WIFSIGNALED(status)


def change(folder, rng, number):
    """Add some files, change, swap and remove others."""
    paths = sorted(folder.rglob("*.png"))
    for place in range(12):
        save(folder / f"{number}_{place}.png", 1000 * number + place)
    if paths:
        first, second, third, fourth = rng.sample(paths, 4)
        save(first, 1000 * number + 100)
        second.rename(folder / "x")
        third.rename(second)
        (folder / "x").rename(third)
        fourth.unlink()


def codes_on_disk(photos):
    return held_codes(Collection.open(photos.folder))


def main(folder: Path, wanted: int) -> None:
    torch.set_num_threads(1)  # a fork has none of the others
    tqdm.set_lock(threading.RLock())  # its own is shared with forks: one killed with it keeps it
    rng, model, kills, done, resumed = random.Random(0), make_model(), 0, 0, 0
    photos, images = Collection.create(folder / "codes", model), folder / "photos"
    change(images, rng, 0)
    start = time.perf_counter()
    photos.sync(images, batch_size=2, progress=False)
    seconds = time.perf_counter() - start
    while kills < wanted:
        done += 1
        change(images, rng, done)
        before = codes_on_disk(photos)
        after = fresh_codes(model, images, sorted(path.name for path in images.iterdir()))
        while kills < wanted and dies(photos, images, rng.uniform(0, seconds)):
            kills += 1
            if codes_on_disk(photos) not in (before, after):
                raise RuntimeError("Expected the state before or after a sync that was killed.")
        report = photos.sync(images, progress=False)
        resumed += report.encoded < len(report.added) + len(report.changed)
        if codes_on_disk(photos) != after:
            raise RuntimeError("Expected the code of its own file for each name.")
        names = sorted(path.name for path in photos.folder.iterdir())
        number = photos.generation
        files = [f"codes-{number}.safetensors", f"files-{number}.safetensors"]
        if names != [".lock", files[0], "collection.json", files[1], "model"]:
            raise RuntimeError(f"Expected nothing else than one state, got {names}.")
    sys.stdout.write(f"{kills} kills, {done} syncs, {resumed} resumed\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
