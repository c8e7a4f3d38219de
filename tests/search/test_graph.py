"""The graph of an HNSW index in a file: restored as it was, and never walked unchecked."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.search import HNSW, HammingKNN
from pml_hashing.search.approximate import HNSW as RECIPE
from pml_hashing.search.graph import Graph, offsets, rooms

CODES = torch.randn(300, 24, generator=torch.Generator().manual_seed(0))
LINKS = 2  # half of the codes are on each higher level


@pytest.fixture
def builds(monkeypatch):
    """How many codes were built of."""
    sizes, build = [], RECIPE.build

    def noted(self, codes):
        sizes.append(len(codes))
        return build(self, codes)

    monkeypatch.setattr(RECIPE, "build", noted)
    return sizes


def make_knn(path=None, **options):
    knn = HammingKNN(index=HNSW(**{"num_links": LINKS, "ef_search": 8} | options))
    if path is not None:
        knn.load(path)
    return knn


@pytest.fixture
def knn():
    knn = make_knn()
    knn.train(CODES[:250])
    knn(CODES, 5)
    knn.add(CODES[250:])
    return knn


@pytest.fixture
def saved(knn, tmp_path):
    knn.save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("memory_map", [False, True])
def test_a_loaded_graph_finds_the_same_without_being_built(knn, saved, builds, memory_map):
    loaded = make_knn()
    loaded.load(saved, memory_map=memory_map)
    assert_close(loaded(CODES, 5), knn(CODES, 5))
    assert not builds
    loaded.add(CODES[:10])
    loaded.remove([290])
    assert (loaded(CODES[:10], 2)[0] == 0).float().mean() > 0.5  # few links miss some
    assert not builds


@pytest.mark.parametrize("options", [{"num_links": 3}, {"ef_construction": 41}])
def test_a_graph_of_another_recipe_is_built_anew(saved, builds, options):
    make_knn(saved, **options)(CODES, 5)
    assert builds == [300]
    HammingKNN().load(saved)


@pytest.mark.parametrize("change", ["update", "remove", "none built"])
def test_a_graph_of_other_codes_is_not_saved(tmp_path, builds, change):
    knn = make_knn()
    knn.train(CODES)
    if change != "none built":
        knn(CODES, 1)
    knn.update([3], CODES[:1]) if change == "update" else None
    knn.remove([3]) if change == "remove" else None
    knn.save(tmp_path / "index")
    builds.clear()
    make_knn(tmp_path / "index")(CODES, 1)
    assert len(builds) == 1


def broken(graph, name):
    """Return a graph with one thing out of range."""
    levels, neighbors = graph.levels.clone(), graph.neighbors.clone()
    starts, highest = offsets(levels.numpy(), rooms(LINKS)), int(levels.argmax())
    low = int((levels == 1).nonzero()[0])
    if name == "neighbor too large":
        neighbors[7] = 300
    elif name == "neighbor too small":
        neighbors[7] = -2
    elif name == "neighbor below its level":
        neighbors[starts[highest] + 2 * LINKS] = low
    elif name == "level of 0":
        levels[low] = 0
    elif name == "level too large":
        levels[low] = len(rooms(LINKS))
    elif name == "level moved":
        levels[low] += 1
    elif name == "neighbors cut":
        neighbors = neighbors[:-1]
    numbers = {"entry": low} if name == "entry below" else {}
    numbers |= {"entry": 300} if name == "entry too large" else {}
    numbers |= {"num_links": 1} if name == "too few links" else {}
    numbers |= {"num_links": 2**40} if name == "too many links" else {}
    numbers |= {"ef_construction": 0} if name == "no construction" else {}
    return replace(graph, levels=levels, neighbors=neighbors, **numbers)


@pytest.mark.parametrize(
    "name",
    [
        "neighbor too large",
        "neighbor too small",
        "neighbor below its level",
        "level of 0",
        "level too large",
        "level moved",
        "neighbors cut",
        "entry below",
        "entry too large",
        "too few links",
        "too many links",
        "no construction",
    ],
)
def test_a_graph_out_of_range_is_refused(knn, name):
    graph = knn._index.graph(knn._store.table)
    assert isinstance(graph, Graph)
    graph.check()
    with pytest.raises(ValueError, match=r"Expected .*`graph_"):
        broken(graph, name).check()
