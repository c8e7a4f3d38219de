"""Adds codes to ClickHouse until it is killed, and tells after each batch that it is there.

    python crashing.py FOLDER

For each line on its input it opens the folder in a child, which checks that whatever an earlier
child has told is there, whole and with the right codes, and then goes on. This process imports,
so that its children need not.
"""

import os
import sys

import numpy as np
import torch

from pml_hashing.search import ClickHouseStore, HammingKNN

BATCH = 500


def tell(line):
    """Write a line at once: two processes share the pipe, and neither may cut the other's lines."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def codes_of(number):
    rng = np.random.default_rng(number)
    return torch.from_numpy(rng.integers(0, 256, (BATCH, 8), dtype=np.uint8))


def check(knn, told):
    """Return how many batches are there, all whole, or raise if it is fewer than was told."""
    parts = [batch for batch in knn.batches(BATCH) if batch.ids]
    ids = [id_ for part in parts for id_ in part.ids]
    count = len(ids) // BATCH
    assert count >= told, f"told of {told} batches, found {count}"
    assert ids == [f"image {i}" for i in range(count * BATCH)], "a batch is not whole"
    codes = torch.cat([part.packed_codes for part in parts]) if parts else torch.empty(0, 8)
    for number in range(count):
        found = codes[number * BATCH : (number + 1) * BATCH]
        updated = codes_of(number + 10**6)
        changed = (found == updated).all(dim=1)
        same = (found == codes_of(number)).all(dim=1)
        assert changed.all() or same.all(), f"batch {number} is half changed"
    return count


def work(folder, told):
    knn = HammingKNN(store=ClickHouseStore(f"chdb://{folder}"), code_length=64)
    number = check(knn, told)
    tell(f"found {number}")
    while True:
        first = number * BATCH
        ids = [f"image {i}" for i in range(first, first + BATCH)]
        knn.add(codes_of(number), ids, label=[number] * BATCH)
        number += 1
        tell(f"told {number}")
        if number % 3 == 0:
            knn.update(ids, codes_of(number - 1 + 10**6))


def main(folder):
    for line in sys.stdin:
        child = os.fork()
        if not child:
            work(folder, int(line))
        tell(f"child {child}")
        os.waitpid(child, 0)
        tell("ended 0")


if __name__ == "__main__":
    main(sys.argv[1])
