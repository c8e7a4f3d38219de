"""What each step from images to a searchable table costs on one core.

    python benchmarks/scaling_out.py > benchmarks/results/scaling_out_cpu.txt

CPU time. A step's time for an image is the difference between two runs of different numbers of
images, so that starting up is left out.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pml_hashing import HashingModel
from pml_hashing.datasets import list_images
from pml_hashing.search import ClickHouseStore, HammingKNN, merge_files

BACKBONE, SIZES, PIXELS = "mobilenetv2_100", (64, 192), 224
CODES = 1_000_000


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def make_images(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        coarse = rng.integers(256, size=(14, 14, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05d}.jpg")
    return folder


def plain(model: HashingModel, images: Path) -> None:
    paths = [images / name for name in list_images(images).names]
    model.encode(paths, batch_size=64, progress=False)


def in_batches(model: HashingModel, images: Path) -> None:
    paths = [images / name for name in list_images(images).names]
    starts = range(0, len(paths), 64)
    for _ in model.encode_batches((paths[i : i + 64], paths[i : i + 64]) for i in starts):
        pass


def report(step: str, value: float, unit: str) -> None:
    print(f"{step:52s}{value:9.3f} {unit}", flush=True)


def encoding(folder: Path) -> None:
    torch.manual_seed(0)
    model = HashingModel(BACKBONE, 64, img_size=PIXELS)
    model.save_pretrained(folder / "model")
    images = [make_images(folder / f"images{count}", count) for count in SIZES]
    plain(model, images[0])
    for name, function in (("encode", plain), ("encode_batches", in_batches)):
        times = [seconds(lambda each=each, f=function: f(model, each)) for each in images]
        rate = (times[1] - times[0]) / (SIZES[1] - SIZES[0])
        report(f"{name}, {BACKBONE}, {PIXELS} x {PIXELS}", 1000 * rate, "ms an image")


def merging(folder: Path) -> None:
    rng = np.random.default_rng(0)
    parts = []
    for part in range(2):
        knn, half = HammingKNN(), CODES // 2
        codes = torch.from_numpy(rng.integers(256, size=(half, 8), dtype=np.uint8))
        knn.add(codes, [f"part{part}/{number:08d}.jpg" for number in range(half)])
        parts.append(folder / f"part{part}")
        knn.save(parts[-1])
    million = 1e6 / CODES
    report(
        "merge_files into a file",
        million * seconds(lambda: merge_files(parts, folder / "all")),
        "s a million",
    )
    store = ClickHouseStore(f"chdb://{folder / 'store'}")
    report(
        "merge_files into ClickHouse",
        million * seconds(lambda: merge_files(parts, store)),
        "s a million",
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    encoding(folder)
    merging(folder)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    made = Path(tempfile.mkdtemp())
    try:
        main(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)
