"""A small collection and its service."""

import io
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from pml_hashing import Collection, HashingModel

LABELS = ("hat", "shoe")
NUM_IMAGES = 12


def picture(seed, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(256, size=(6, 8, 3)).astype(np.uint8)
    return Image.fromarray(pixels).resize(size)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(0)
    options = {"img_size": 32, "progress": False}
    return HashingModel.from_itq("test_resnet", 32, [picture(n) for n in range(64)], **options)


def make_photos(root):
    folder = root / "photos"
    for number in range(NUM_IMAGES):
        path = folder / LABELS[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number // 3 if number >= 9 else number).save(path)  # the last three are copies
    (root / "secret.png").write_bytes(encoded(picture(99)))
    return folder


def make_collection(photos, model):
    made = Collection.create(photos.with_suffix(".codes"), model)
    made.sync(photos, labels="folders", progress=False)
    return made


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path)


@pytest.fixture
def collection(photos, model):
    return make_collection(photos, model)


@pytest.fixture(scope="session")
def unchanged(tmp_path_factory, model):
    """A collection like the other, of all tests that leave it and its photographs as they are."""
    return make_collection(make_photos(tmp_path_factory.mktemp("unchanged")), model)


@pytest.fixture(scope="session")
def address(unchanged):
    import uvicorn  # noqa: PLC0415 - not installed everywhere

    from pml_hashing.serve import create_app  # noqa: PLC0415

    config = uvicorn.Config(create_app(unchanged), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
