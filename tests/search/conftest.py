"""Search over every kind of store: tests that ask for `make_knn` run on all of them."""

import os
from functools import partial
from importlib.util import find_spec
from itertools import count

import pytest
import torch
from sqlite_store import SQLiteStore

from pml_hashing.search import HammingKNN

SERVER = os.environ.get("PML_HASHING_CLICKHOUSE")
"""A ClickHouse server that all tests run on too, as `clickhouse://host:8123/database`."""

EXTRA = find_spec("clickhouse_connect") and find_spec("chdb")
NO_EXTRA = pytest.mark.skipif(not EXTRA, reason="the extra [clickhouse] is not installed")
NAMES = ["chdb", "server"] if SERVER else ["chdb"]
ENGINES = [pytest.param(name, marks=NO_EXTRA) for name in NAMES]


class OverStore(HammingKNN):
    """What a store in memory allows beyond search by ids, done by ids: for tests of both."""

    def __init__(self, make_store, **options):
        self.own, self.options = make_store(), options
        super().__init__(store=self.own, **options)

    @property
    def ids(self):
        return [id_ for batch in self.batches(3) for id_ in batch.ids]

    def train(self, codes, ids=None, **metadata):
        if len(self):
            HammingKNN(**self.options).train(codes, ids, **metadata)
            self.own.clear()  # now that nothing can go wrong
        super().train(codes, ids, **metadata)

    def __call__(self, query, k, reference=None, ref_includes_query=False):
        if reference is not None:
            return super().__call__(query, k, reference, ref_includes_query)
        distances, ids = self.search(query, k)
        place_of = {id_: place for place, id_ in enumerate(self.ids)}
        places = [[place_of[id_] for id_ in row] for row in ids]
        return distances, torch.tensor(places).to(query.device)


class Tables:
    """New tables of one ClickHouse. A process can open one folder, so that all tests share it."""

    def __init__(self, dsn):
        self.dsn, self.numbers, self.made = dsn, count(), []

    def __call__(self, table=None):
        from pml_hashing.search import ClickHouseStore  # noqa: PLC0415 - an extra

        table = table or f"test_{os.getpid()}_{next(self.numbers)}"
        self.made.append(ClickHouseStore(self.dsn, table))
        return self.made[-1]

    def drop(self):
        while self.made and self.made[-1].table != "kept":
            store = self.made.pop()
            store.clear()
            store.close()


@pytest.fixture(scope="session")
def tables(engine):
    """A maker of tables for each engine."""
    made = {"server": Tables(SERVER)}
    if EXTRA:
        made["chdb"] = Tables(engine)
        # A table, for which the engine starts, or it would start anew for each test.
        made["chdb"]("kept").prepare(8, with_vectors=False)
    return made


@pytest.fixture(autouse=True)
def dropped(tables):
    """Drop the tables of each test."""
    yield
    for made in tables.values():
        made.drop()


@pytest.fixture(scope="session", params=["memory", "sqlite", *ENGINES])
def make_knn(request, tables):
    """Makes a HammingKNN over a store of its own."""
    if request.param == "memory":
        return HammingKNN
    return partial(OverStore, tables.get(request.param, SQLiteStore))


@pytest.fixture(params=ENGINES)
def make_clickhouse(request, tables):
    """Makes a new table, or another client of one."""
    return tables[request.param]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark as slow what hypothesis tries on a database: 100 examples are a minute."""
    for item in items:
        engine = getattr(item, "callspec", None) and item.callspec.params.get("make_knn")
        if engine in {"chdb", "server"} and hasattr(item.function, "hypothesis"):
            item.add_marker(pytest.mark.slow)
