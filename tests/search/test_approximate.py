"""IVF and HNSW behind HammingKNN: recall, ties, and changes that they follow."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.codes import pack
from pml_hashing.search import HNSW, IVF, HammingKNN, MemoryStore

INDEXES = [IVF(num_probes=4), HNSW(ef_search=32)]


def make_clusters(n=2000, code_length=32):
    """Codes near one of 20 centers, as those that a loss has trained."""
    centers = torch.randn(20, code_length, generator=torch.Generator().manual_seed(1))
    return centers[torch.randint(20, (n,))] + 0.7 * torch.randn(n, code_length)


def recall(knn, query, database, k=10):
    """Share of what was found that is as near as the exact neighbour of the same rank or nearer."""
    distances, rows = knn(query, k)
    exact = HammingKNN()(query, k, database)[0]
    assert all(len(set(row)) == k for row in rows.tolist())
    own = (pack(query)[:, None] ^ pack(database)[rows]).unsqueeze(-1)
    counted = (own >> torch.arange(8, dtype=torch.uint8) & 1).sum(dim=(2, 3)).int()
    assert_close(distances, counted)
    assert (distances[:, 1:] >= distances[:, :-1]).all()
    return (distances <= exact).float().mean().item()


@pytest.mark.parametrize("index", INDEXES)
def test_finds_most_neighbours(index):
    database, query = make_clusters(), make_clusters(100)
    knn = HammingKNN(index=index)
    knn.train(make_clusters(50))
    knn(query, 1)
    knn.train(database)
    assert recall(knn, query, database) > 0.95
    assert recall(partial(HammingKNN(index=index), reference=database), query, database) > 0.95


@pytest.mark.parametrize("index", INDEXES)
def test_ties_found_are_in_database_order(index):
    codes = make_clusters(300, 6)
    distances, rows = HammingKNN(index=index)(codes, 20, codes)
    keys = distances.long() * 300 + rows
    assert (keys[:, 1:] > keys[:, :-1]).all()


@pytest.mark.parametrize("index", INDEXES)
def test_follows_changes(index):
    database, query = make_clusters(800), make_clusters(50)
    knn = HammingKNN(index=index)
    knn.train(database)
    knn(query, 1)
    knn.add(more := make_clusters(400))
    knn.update(range(0, 200, 2), changed := make_clusters(100))
    knn(query, 1)
    knn.remove(range(1, 200, 2))
    database[0:200:2] = changed
    kept = torch.ones(800, dtype=torch.bool)
    kept[1:200:2] = False
    assert recall(knn, query, torch.cat([database[kept], more])) > 0.95


@pytest.fixture
def built(monkeypatch):
    """Sizes of the indexes that were built."""
    sizes = []
    for recipe in (IVF, HNSW):
        build = recipe.build

        def noted(self, codes, build=build):
            sizes.append(len(codes))
            return build(self, codes)

        monkeypatch.setattr(recipe, "build", noted)
    return sizes


@pytest.mark.parametrize("index", INDEXES)
def test_is_built_anew_when_most_is_gone(index, built):
    database, query = make_clusters(400), make_clusters(20)
    knn = HammingKNN(index=index)
    knn.train(database)
    knn(query, 1)
    knn.remove(range(200))
    knn(query, 1)
    assert built == [400]
    knn.update([200], database[200:201])  # of which the old code stays in it too
    for _ in range(2):  # the second looks at what the first has added
        knn(query, 1)
    assert built == [400, 200]
    knn.remove(range(200, 300))
    assert recall(knn, query, database[300:], k=5) > 0.7
    assert built == [400, 200, 100]


@pytest.mark.parametrize(("index", "builds"), [(IVF(), 2), (HNSW(), 1)])
def test_lists_are_learned_anew_when_codes_are_many(index, builds, built):
    knn, codes = HammingKNN(index=index), make_clusters(500)
    for part in codes.split([100, 300, 100]):
        knn.add(part)
        knn(codes[:2], 3)
    assert built == [100, 500][:builds]


def test_a_query_that_finds_too_little_is_searched_exactly():
    codes = make_clusters(200)
    knn = HammingKNN(index=IVF(num_lists=50, num_probes=1))
    knn.train(codes)
    assert_close(knn(codes, 200), HammingKNN()(codes, 200, codes))


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_codes(index, n):
    codes = torch.randn(n, 3)
    assert_close(HammingKNN(index=index)(codes, n, codes), HammingKNN()(codes, n, codes))


@pytest.mark.parametrize("index", INDEXES)
def test_two_may_share_a_store(index):
    store, codes = MemoryStore(), make_clusters(300)
    first, second = HammingKNN(index=index, store=store), HammingKNN(store=store)
    first.add(codes[:200])
    first(codes, 1)
    second.add(codes[200:])
    second.update([0], codes[299:])
    second.remove([1])
    assert_close(first(codes, 200)[0][:, :1], second(codes, 1)[0])
    assert set(first.search(codes[299:], 2)[1][0]) == {0, 299}
    store.clear()
    second.add(codes[:5])
    assert_close(first(codes, 5), second(codes, 5))


def test_copies_build_their_own(built):
    knn, codes = HammingKNN(index=HNSW()), make_clusters(50)
    knn.add(codes)
    expected = knn(codes, 5)
    for copied in (copy.deepcopy(knn), pickle.loads(pickle.dumps(knn))):
        assert_close(copied(codes, 5), expected)
        copied.remove([0])
        assert len(knn) == 50
    assert built == [50, 50, 50]


def test_without_the_query():
    codes = make_clusters(300)
    for index in INDEXES:
        _, rows = HammingKNN(index=index)(codes, 5, codes, ref_includes_query=True)
        assert rows.shape == (300, 5)
        assert (rows != torch.arange(300)[:, None]).all()


def test_results_are_where_the_queries_are(device):
    codes = make_clusters(300)
    for index in INDEXES:
        found = HammingKNN(index=index)(codes.to(device), 5, codes)
        assert [x.device.type for x in found] == [device.type] * 2


def test_faiss_gets_the_numbers():
    codes = pack(make_clusters(100)).numpy()
    graph = HNSW(num_links=5, ef_construction=7, ef_search=9).build(codes)
    hnsw = graph.hnsw
    assert (hnsw.nb_neighbors(1), hnsw.efConstruction, hnsw.efSearch) == (5, 7, 9)
    lists = IVF(num_lists=6, num_probes=4).build(codes)
    assert (lists.nlist, lists.nprobe) == (6, 4)
    assert IVF().build(codes).nlist == 10
    assert IVF(num_lists=1000).build(codes).nlist == 100


def test_faiss_warns_of_nothing(capfd):
    IVF(num_lists=6).build(pack(make_clusters(100)).numpy())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IVF(num_lists=0), "`num_lists` of at least 1, got 0"),
        (lambda: IVF(num_probes=0), "`num_probes` of at least 1, got 0"),
        (lambda: HNSW(num_links=1), "`num_links` of at least 2, got 1"),
        (lambda: HNSW(ef_search=0), "`ef_search` of at least 1, got 0"),
        (lambda: HNSW(ef_construction=0), "`ef_construction` of at least 1, got 0"),
    ],
)
def test_wrong_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
