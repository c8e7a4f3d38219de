"""Encode a folder of images in parts, each by a process of its own, and put the parts together.

    torchrun --nproc-per-node 2 examples/encode_shards.py MODEL IMAGES CODES

Processes on any number of machines that share a disk need nothing of each other: each takes its
part of the sorted names. A process that is started again goes on where it was, and whoever finds
all parts there merges them.
"""

import os
import sys
from pathlib import Path

from pml_hashing import HashingModel
from pml_hashing.datasets import list_images
from pml_hashing.search import merge_files


def main(model: Path, images: Path, codes: Path) -> None:
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    names = list_images(images).names
    count = min(world_size, len(names))  # no part is empty
    if rank >= count:
        return
    part = names[len(names) * rank // count : len(names) * (rank + 1) // count]
    parts = [codes / f"part-{number:05d}.safetensors" for number in range(count)]
    HashingModel.from_pretrained(model).encode(
        [images / name for name in part],
        path=parts[rank],
        ids=part,
        on_unreadable=print,
        progress=rank == 0,
    )
    if all(path.exists() for path in parts):
        merged = merge_files(parts, codes / "codes.safetensors")
        print(f"{merged:,} codes in {codes / 'codes.safetensors'}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
