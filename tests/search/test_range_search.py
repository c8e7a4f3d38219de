"""Range search against a loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_hashing.codes import pack
from pml_hashing.search import HNSW, IVF, HammingKNN


def range_reference(queries, database, radius):
    found = []
    for query in queries.tolist():
        distances = [
            sum((a >= 0) != (b >= 0) for a, b in zip(query, item, strict=True))
            for item in database.tolist()
        ]
        found.append(sorted((d, row) for row, d in enumerate(distances) if d <= radius))
    return found


@given(
    seed=st.integers(0, 2**32 - 1),
    num_queries=st.integers(1, 4),
    num_database=st.integers(1, 30),
    code_length=st.integers(1, 18),
    radius=st.integers(0, 20),
    packed=st.booleans(),
)
def test_range_search(make_knn, seed, num_queries, num_database, code_length, radius, packed):
    torch.manual_seed(seed)
    queries, database = (
        torch.randn(num_queries, code_length),
        torch.randn(num_database, code_length),
    )
    knn = make_knn()
    knn.train(database)
    distances, ids = knn.range_search(pack(queries) if packed else queries, radius)
    assert all(d.dtype == torch.int32 for d in distances)
    found = [list(zip(d.tolist(), row, strict=True)) for d, row in zip(distances, ids, strict=True)]
    assert found == range_reference(queries, database, radius)


@pytest.mark.parametrize("index", [IVF(num_probes=1), HNSW(num_links=2)])
def test_is_exact_with_any_index(index):
    codes, knn = torch.randn(100, 12), HammingKNN(index=index)
    knn.train(codes)
    found = [sorted(ids) for ids in knn.range_search(codes[:9], 4)[1]]
    assert found == [sorted(row for _, row in r) for r in range_reference(codes[:9], codes, 4)]


def test_ids_of_ones_own(make_knn):
    codes = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, -1], [1, 1, -1, -1], [-1, -1, -1, -1]])
    knn = make_knn()
    knn.train(codes, ["a", "b", "c", "d"])
    distances, ids = knn.range_search(codes[[3, 1]], 1)
    assert ids == [["d"], ["b", "a", "c"]]
    assert [d.tolist() for d in distances] == [[0], [0, 1, 1]]
    knn.remove(["d"])
    assert knn.range_search(codes[3:], 1)[1] == [[]]
    assert knn.range_search(codes[3:], float("inf"))[1] == [["c", "b", "a"]]


@pytest.mark.parametrize("radius", [-1, float("nan")])
def test_wrong_radius(make_knn, radius):
    knn = make_knn()
    knn.train(torch.ones(2, 4))
    with pytest.raises(ValueError, match=f"`radius` of at least 0, got {radius}"):
        knn.range_search(torch.ones(1, 4), radius)


def test_wrong_queries(make_knn):
    knn = make_knn()
    knn.train(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"`query` of shape \(batch_size, 4\), .* got \(1, 5\)"):
        knn.range_search(torch.ones(1, 5), 1)
    with pytest.raises(ValueError, match="finite values in `query`"):
        knn.range_search(torch.full((1, 4), torch.nan), 1)
    with pytest.raises(TypeError, match=r"`query` to be a torch\.Tensor, got list"):
        knn.range_search([[1.0] * 4], 1)
