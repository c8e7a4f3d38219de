"""What each step from images to a searchable table costs on one core.

    python benchmarks/scaling_out.py > benchmarks/results/scaling_out_cpu.txt
    python benchmarks/scaling_out.py on_ray  # some parts alone

CPU time. A step's time for an image is the difference between two runs of different numbers of
images, so that starting up is left out. On Ray it is what all its processes take between the end of
the first batch and that of the last one, with one actor, beside plain `encode` of the same images.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from pml_hashing import HashingModel
from pml_hashing.datasets import list_images
from pml_hashing.search import ClickHouseStore, HammingKNN, merge_files

BACKBONE, SIZES, PIXELS = "mobilenetv2_100", (64, 192), 224
CODES = 1_000_000
BATCH, RAY_BATCHES = 32, 9


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


class Timed:
    """The actor of the recipe, which tells when it is done with each batch."""

    def __init__(self, model: str, images: str, told: str) -> None:
        from ray_encode import Encode  # noqa: PLC0415 - of the examples

        self.encode, self.told = Encode(model, images), told

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        found = self.encode(batch)
        with Path(self.told).open("a") as file:
            file.write(f"{time.time()}\n")
        return found


class Watch:
    """Adds up the CPU seconds of this process and of all that it started, from time to time."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.seconds: list[float] = []
        self._of: dict[int, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stopped.wait(0.1):
            for process in [own, *own.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._of[process.pid] = times.user + times.system
            self.times.append(time.time())
            self.seconds.append(sum(self._of.values()))


def on_ray(folder: Path) -> None:
    """Beside plain `encode`, in one run: the same images in batches of the same size."""
    import ray  # noqa: PLC0415 - an extra

    torch.manual_seed(0)
    model, count = HashingModel(BACKBONE, 64, img_size=PIXELS), RAY_BATCHES * BATCH
    model.save_pretrained(folder / "ray model")
    images, told = make_images(folder / "ray images", count), folder / "told"
    paths = [images / name for name in list_images(images).names]
    own, watch = list[float](), Watch()
    for start in range(0, count, BATCH):
        model.encode(paths[start : start + BATCH], batch_size=BATCH, progress=False)
        own.append(time.time())
    examples = str(Path(__file__).parents[1] / "examples")
    environment = {"PYTHONPATH": os.pathsep.join([examples, *sys.path])}
    ray.init(num_cpus=2, log_to_driver=False, runtime_env={"env_vars": environment})
    ray.data.read_binary_files(list(map(str, paths)), include_paths=True).map_batches(
        Timed,
        fn_constructor_args=(str(folder / "ray model"), str(images), str(told)),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=1),
    ).write_parquet(str(folder / "parquet"))
    watch.stop()
    ray.shutdown()
    for name, ends in (("encode", own), ("on Ray", [*map(float, told.read_text().split())])):
        spent = np.diff(np.interp([ends[0], ends[-1]], watch.times, watch.seconds))[0]
        report(f"{name}, in batches of {BATCH}", 1000 * spent / (count - BATCH), "ms an image")


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
    parts = (encoding, merging, on_ray)
    chosen = sys.argv[1:] or [part.__name__ for part in parts]
    print(" ".join(["python benchmarks/scaling_out.py", *sys.argv[1:]]))
    for part in parts:
        if part.__name__ in chosen:
            part(folder)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    made = Path(tempfile.mkdtemp())
    try:
        main(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)
