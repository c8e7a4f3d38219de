"""Encodes to files and is killed: `python killed_encoding.py FOLDER KILLS` prints what came of it.

Each encoding runs in a fork of its own and dies at a random moment, again and again until it is
done. `test_encoding_to_file.py` runs this in a process without other threads.
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from pml_hashing.datasets import UnreadableImageError
from pml_hashing.models import HashingModel

NUM_ITEMS = 600


class Items(Dataset):
    """Random vectors, of which every 50th cannot be read."""

    def __init__(self):
        self.values = torch.randn(NUM_ITEMS, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return NUM_ITEMS

    def __getitem__(self, index):
        if index % 50 == 7:
            raise UnreadableImageError(f"no image {index}", path=f"{index}.jpg", index=index)
        return self.values[index], index


def encode(path):
    torch.manual_seed(0)
    model = HashingModel(torch.nn.Identity(), 12, num_features=4)
    unreadable = []
    model.encode(Items(), path=path, batch_size=4, on_unreadable=unreadable.append, progress=False)
    return [error.index for error in unreadable]


def dies(path, delay):
    """Return whether an encoding in a fork is killed before it is done."""
    child = os.fork()
    if child == 0:
        encode(path)
        os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"The encoding failed with status {status}.")
    return os.WIFSIGNALED(status)


def main(folder: Path, wanted: int) -> None:
    tqdm.set_lock(threading.RLock())  # its own is shared with forks: one killed with it keeps it
    rng, kills, files = random.Random(0), 0, 0
    encode(folder / "warm")  # the first one takes longer
    start = time.perf_counter()
    expected_unreadable = encode(folder / "whole")
    seconds = time.perf_counter() - start
    expected = (folder / "whole").read_bytes()
    stopped = set()
    while kills < wanted:
        path, files = folder / f"killed_{files}", files + 1
        while kills < wanted and dies(path, rng.uniform(0, seconds)):
            kills += 1
            partial = folder / f"{path.name}.partial"
            stopped.add(partial.stat().st_size if partial.exists() else -1)
        if encode(path) != expected_unreadable or path.read_bytes() != expected:
            raise RuntimeError(f"Expected the file of an encoding that was not killed at {path}.")
        if list(folder.glob("*.p*")):
            raise RuntimeError(f"Expected no file beside the finished ones in {folder}.")
    sys.stdout.write(f"{kills} kills in {len(stopped)} places, {files} files\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
