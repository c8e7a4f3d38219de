"""Search over every kind of store: tests that ask for `make_knn` run on all of them."""

import pytest
import torch
from sqlite_store import SQLiteStore

from pml_hashing.search import HammingKNN


class OverSQLite(HammingKNN):
    """What a store in memory allows beyond search by ids, done by ids: for tests of both."""

    def __init__(self, **options):
        self.own, self.options = SQLiteStore(), options
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


@pytest.fixture(scope="session", params=[HammingKNN, OverSQLite], ids=["memory", "sqlite"])
def make_knn(request):
    return request.param
