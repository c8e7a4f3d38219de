"""What all tests of collections share."""

import os
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest
from pictures import make_model, save

from pml_hashing import Collection

SERVER = os.environ.get("PML_HASHING_CLICKHOUSE")
EXTRA = find_spec("clickhouse_connect") and find_spec("chdb")
NO_EXTRA = pytest.mark.skipif(not EXTRA, reason="the extra [clickhouse] is not installed")
NAMES = ["chdb", "server"] if SERVER else ["chdb"]
DATABASES = [pytest.param(name, marks=NO_EXTRA) for name in NAMES]
NUMBERS = count()


@pytest.fixture(scope="session")
def model():
    """A model that no test changes."""
    return make_model()


@pytest.fixture
def folder(tmp_path):
    """Six images, half of them in a sub-folder."""
    for seed in range(6):
        save(tmp_path / "photos" / ["hat", ""][seed % 2] / f"{seed}.png", seed)
    return tmp_path / "photos"


class Home:
    """A place for a collection: a folder, or a new table of a database."""

    def __init__(self, place, **options):
        self.place, self.options = place, options

    def create(self, model, **options):
        return Collection.create(self.place, model, **self.options, **options)

    def open(self, **options):
        return Collection.open(self.place, **self.options, **options)


def new_home(place, folder):
    table = f"collection_{os.getpid()}_{next(NUMBERS)}"
    return Home(place, table=table, model_folder=Path(folder) / "photos.model")


@pytest.fixture(scope="session")
def kept(engine):
    """A connection to the engine: else it would start anew for each test."""
    if not EXTRA:
        return None
    from pml_hashing.search import ClickHouseStore  # noqa: PLC0415 - an extra

    store = ClickHouseStore(engine, "kept_for_collections")
    store.prepare(8, with_vectors=False)
    return store


@pytest.fixture
def database(engine, kept, tmp_path):
    """A new table of the engine in this process."""
    return new_home(engine, tmp_path)


@pytest.fixture(params=["folder", *DATABASES])
def home(request, tmp_path):
    """A place of each kind."""
    if request.param == "folder":
        return Home(tmp_path / "codes")
    if request.param == "chdb":
        return request.getfixturevalue("database")
    return new_home(SERVER, tmp_path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark as slow most random histories on a database."""
    for item in items:
        values = item.callspec.params if hasattr(item, "callspec") else {}
        if "seed" in values and values["seed"] > 1 and values.get("home", "folder") != "folder":
            item.add_marker(pytest.mark.slow)
