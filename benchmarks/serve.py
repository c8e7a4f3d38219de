"""Load a search service with queries at a fixed rate, while a sync runs.

    pip install httpx locust && python benchmarks/serve.py --images 1000000 --rate 50

makes a collection of links to a few images, with random codes of 64 bits, and serves it with one
process. Users of locust ask for what is like an image of the collection, and one time in five send
a picture, which is encoded. Every answer is checked: as many images as were asked for, none farther
than the next. Meanwhile a file is added and the folder synced by another process, again and again.
Printed are the percentiles of whole requests as locust sees them, of the search in them as the
service tells it, and how many answers were wrong.

    python benchmarks/serve.py --over folder database --additions --images 100000 --rate 5

does so with a collection in a folder and then with one in a database. Its engine is in the process
of the service, which no other can share, and so the files are sent to the service, which syncs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx
import numpy as np
import torch
from comparison.options import add_backbone
from made_up import make_collection
from PIL import Image

from pml_hashing import HashingModel
from pml_hashing.collection.files import Content, FileState, digest_of

HERE = Path(__file__).parent
DISTINCT, PER_FOLDER, PORT = 64, 1000, 8765
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SERVER = """
import sys, uvicorn
from pml_hashing import Collection
from pml_hashing.serve import create_app
app = create_app(Collection.open(sys.argv[1]), writable=True)
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""
SYNC = """
import sys
from pml_hashing import Collection
Collection.open(sys.argv[1]).sync(progress=False)
"""


def make_images(photos: Path, num_images: int) -> None:
    """Make a folder of a few images and of links to them."""
    rng, first = np.random.default_rng(0), photos / "0000"
    first.mkdir(parents=True)
    for number in range(DISTINCT):
        pixels = rng.integers(256, size=(12, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(first / f"{number:07d}.jpg")
    for number in range(DISTINCT, num_images):
        path = photos / f"{number // PER_FOLDER:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(first / f"{number % DISTINCT:07d}.jpg")
    time.sleep(3)  # so that no file is too new to be known again


def make_collection_of(photos: Path, place: str, arguments: argparse.Namespace) -> None:
    """Make a collection of the images and the links to them, each with a code of its own."""
    torch.manual_seed(0)
    weights = {"checkpoint_path": arguments.checkpoint, "img_size": arguments.img_size}
    model = HashingModel(arguments.backbone, 64, **weights)
    paths = sorted(photos.rglob("*.jpg"))
    digests = [digest_of(path.read_bytes()) for path in paths[:DISTINCT]]

    def content_of(row: int, state: FileState) -> Content:
        return Content(digests[row % DISTINCT], state.size, 640, 480)

    names = [path.relative_to(photos).as_posix() for path in paths]
    make_collection(place, model, photos, names, content_of)


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


def sync(place: str, address: str, picture: bytes, name: str, photos: Path) -> None:
    """Add a file, and sync in a process of its own."""
    (photos / name).write_bytes(picture)
    command = [sys.executable, "-c", SYNC, place]
    subprocess.run(command, env=ENVIRONMENT, check=True)


def send(place: str, address: str, picture: bytes, name: str, photos: Path) -> None:
    """Send a file to the service, which syncs."""
    form: Any = {"params": {"name": name}, "files": {"image": picture}}
    httpx.post(f"{address}/api/images", timeout=None, **form).raise_for_status()


def measure(place: str, photos: Path, arguments: argparse.Namespace) -> None:
    """Serve a collection, load it and change it meanwhile."""
    add, address = send if arguments.additions else sync, f"http://127.0.0.1:{PORT}"
    picture = (photos / "0000/0000000.jpg").read_bytes()
    command = [sys.executable, "-c", SERVER, place, str(PORT)]
    server = subprocess.Popen(command, env=ENVIRONMENT)
    try:
        wait_until_served(address)
        users = load(address, arguments.rate, arguments.seconds)
        seconds = list[float]()
        while users.poll() is None:
            start, name = time.perf_counter(), f"0000/new{len(seconds)}.jpg"
            add(place, address, picture + bytes(1 + len(seconds)), name, photos)
            seconds.append(time.perf_counter() - start)
        report(users.communicate()[0], arguments)
        print(f"{len(seconds)} files added and synced, each in {statistics.median(seconds):.1f} s")
    finally:
        server.terminate()
        server.wait()
        for path in photos.glob("0000/new*"):
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=50, help="queries a second")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--over", nargs="+", choices=("folder", "database"), default=["folder"])
    parser.add_argument("--additions", action="store_true", help="send files to the service")
    add_backbone(parser, "tf_efficientnet_lite0", "random ones")
    parser.add_argument("--img-size", type=int, default=160)
    arguments = parser.parse_args()
    if "database" in arguments.over and not arguments.additions:
        parser.error("--over database needs --additions: no other process can sync")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_images(folder / "photos", arguments.images)
        places = {"folder": str(folder / "codes"), "database": f"chdb://{folder / 'engine'}"}
        for over in arguments.over:
            print(f"in a {over}", flush=True)
            make_collection_of(folder / "photos", places[over], arguments)
            measure(places[over], folder / "photos", arguments)


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
