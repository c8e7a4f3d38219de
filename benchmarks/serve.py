"""Load a search service with queries at a fixed rate, while a sync runs.

    pip install locust && python benchmarks/serve.py --images 1000000 --rate 50

makes a collection of links to a few images, with random codes of 64 bits, and serves it with one
process. Users of locust ask for what is like an image of the collection, and one time in five send
a picture, which is encoded. Every answer is checked: as many images as were asked for, none farther
than the next. Meanwhile a file is added and the folder synced, again and again. Printed are the
percentiles of whole requests as locust sees them, of the search in them as the service tells it,
and how many answers were wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import torch
from comparison.options import add_backbone
from PIL import Image

from pml_hashing import Collection, HashingModel
from pml_hashing.collection.file_records import Files
from pml_hashing.collection.files import FileState
from pml_hashing.collection.folder_storage import FolderStorage
from pml_hashing.collection.state import Change, Images

HERE = Path(__file__).parent
DISTINCT, PER_FOLDER, PORT = 64, 1000, 8765
SERVER = """
import sys, uvicorn
from pml_hashing import Collection
from pml_hashing.serve import create_app
app = create_app(Collection.open(sys.argv[1]))
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""
SYNC = """
import sys, time
from pml_hashing import Collection
start = time.perf_counter()
print(Collection.open(sys.argv[1]).sync(progress=False), f"({time.perf_counter() - start:.1f} s)")
"""


def make_collection(folder: Path, arguments: argparse.Namespace) -> None:
    """Make a folder of links to a few images, and their collection with codes of its own."""
    torch.manual_seed(0)
    rng, num_images = np.random.default_rng(0), arguments.images
    weights = {"checkpoint_path": arguments.checkpoint, "img_size": arguments.img_size}
    model = HashingModel(arguments.backbone, 64, **weights)
    photos = folder / "photos"
    first = photos / "0000"
    first.mkdir(parents=True)
    for number in range(DISTINCT):
        pixels = rng.integers(256, size=(12, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(first / f"{number:07d}.jpg")
    collection = Collection.create(folder / "codes", model)
    collection.sync(photos, progress=False)
    storage = FolderStorage(folder / "codes")
    state = storage.read()
    for number in range(DISTINCT, num_images):
        path = photos / f"{number // PER_FOLDER:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(first / f"{number % DISTINCT:07d}.jpg")
    time.sleep(3)  # so that no file is too new to be known again
    paths = sorted(photos.rglob("*.jpg"))
    names = [path.relative_to(photos).as_posix() for path in paths]
    held = state.files.contents
    contents = [held[int(path.stem) % DISTINCT] for path in paths]
    files = Files.made([FileState.of(path) for path in paths], contents)
    codes = rng.integers(256, size=(num_images, 8)).astype(np.uint8)
    images = iter([Images(np.arange(num_images), names, files, codes, {})])
    generation = state.manifest.generation + 1
    manifest = replace(state.manifest, generation=generation, count=num_images)
    none, rows = np.zeros(num_images, dtype=bool), np.empty(0, np.int64)
    storage.commit(state, Change(names, none, rows, images, {}, [], manifest))


def wait_until_served(address: str) -> None:
    for _ in range(600):
        try:
            urlopen(f"{address}/api/health").close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"Expected a service at {address}, got none.")


def load(address: str, rate: int, seconds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "locust", "-f", str(HERE / "serve_users.py"), "--headless"]
    command += ["-u", str(rate), "-r", str(rate), "-t", f"{seconds}s", "--host", address]
    command += ["--only-summary", "--json", "--exit-code-on-error", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def percentile(times: dict[str, int], share: float) -> float:
    """Return a percentile of counts by milliseconds."""
    ordered = sorted((float(key), count) for key, count in times.items())
    wanted, seen = share * sum(times.values()), 0
    for milliseconds, count in ordered:
        seen += count
        if seen >= wanted:
            return milliseconds
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=50, help="queries a second")
    parser.add_argument("--seconds", type=int, default=60)
    add_backbone(parser, "tf_efficientnet_lite0", "random ones")
    parser.add_argument("--img-size", type=int, default=160)
    arguments = parser.parse_args()
    address = f"http://127.0.0.1:{PORT}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_collection(folder, arguments)
        command = [sys.executable, "-c", SERVER, str(folder / "codes"), str(PORT)]
        server = subprocess.Popen(command, env=environment)
        try:
            wait_until_served(address)
            users = load(address, arguments.rate, arguments.seconds)
            number = 0
            while users.poll() is None:
                new = folder / "photos" / "0000" / f"new{number}.jpg"
                new.write_bytes((folder / "photos/0000/0000000.jpg").read_bytes() + bytes(number))
                sync = [sys.executable, "-c", SYNC, str(folder / "codes")]
                subprocess.run(sync, env=environment, check=True)
                number += 1
            report(users.communicate()[0], arguments)
        finally:
            server.terminate()
            server.wait()


def report(output: str, arguments: argparse.Namespace) -> None:
    rows = json.loads(output)
    print(
        f"{arguments.images:,} images, 64 bits, {arguments.backbone} at {arguments.img_size} px, "
        f"{arguments.rate} queries a second for {arguments.seconds} s, one process, one thread"
    )
    print(f"{'':30s}{'answers':>9s}{'wrong':>7s}{'p50':>9s}{'p99':>9s}")
    for row in sorted(rows, key=lambda row: row["name"]):
        unit = (
            1000 if row["name"].endswith("alone") else 1
        )  # of which locust counts one millisecond
        times = [percentile(row["response_times"], share) / unit for share in (0.5, 0.99)]
        counts = f"{row['num_requests']:9d}{row['num_failures']:7d}"
        print(f"{row['name']:30s}{counts}" + "".join(f"{t:7.1f}ms" for t in times))


if __name__ == "__main__":
    main()
