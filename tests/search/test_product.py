"""The matrix product against faiss and against a loop, in blocks of every size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.codes import hamming_distance, pack
from pml_hashing.search import HammingKNN, MemoryStore, _exact, _product


@given(
    seed=st.integers(0, 2**32 - 1),
    num_queries=st.integers(1, 5),
    num_database=st.integers(1, 40),
    code_length=st.integers(1, 20),  # short codes: most items tie
    block=st.integers(1, 50),
    min_database_block=st.integers(1, 20),
    data=st.data(),
)
def test_equals_faiss(
    seed, num_queries, num_database, code_length, block, min_database_block, data
):
    torch.manual_seed(seed)
    query, database = (pack(torch.randn(n, code_length)) for n in (num_queries, num_database))
    k = data.draw(st.integers(1, num_database))
    radius = data.draw(st.integers(0, code_length))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_product, "BLOCK_DISTANCES", block)
        patch.setattr(_product, "MIN_DATABASE_BLOCK", min_database_block)
        nearest = _product.nearest(query, database, code_length, k)
        within = _product.within(query, database, code_length, radius)
    assert_close(nearest, _exact.nearest(query, database, code_length, k))
    expected = _exact.within(query, database, code_length, radius)
    assert_close(within, expected)
    assert int(expected[0].sum()) == int((hamming_distance(query, database) <= radius).sum())


def test_many_blocks_of_the_real_size():
    query, database = pack(torch.randn(7, 16)), pack(torch.randn(150_000, 16))
    for k in (1, 100, 20_000):
        found = _product.nearest(query, database, 16, k)
        assert_close(found, _exact.nearest(query, database, 16, k))


def test_keys_beyond_32_bits(monkeypatch):
    distances = torch.tensor([[2**30, 5, 2**30, 5], [7, 7, 0, 2**30]], dtype=torch.int32)
    found = _product._smallest(distances, 3)
    assert_close(found[0], torch.tensor([[5, 5, 2**30], [0, 7, 7]], dtype=torch.int32))
    assert_close(found[1], torch.tensor([[1, 3, 0], [2, 0, 1]]))


def test_autocast_changes_nothing():
    query, database = pack(torch.randn(3, 600)), pack(torch.randn(20, 600))
    expected = _exact.nearest(query, database, 600, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(_product.nearest(query, database, 600, 20), expected)


@pytest.mark.parametrize("code_length", [12, 64, 1024, 1032])
def test_every_way_finds_the_same(device, code_length, monkeypatch):
    codes, knn = torch.randn(500, code_length), HammingKNN()
    queries, radius = codes[:20], code_length // 2
    knn.train(codes)
    expected = knn(queries, 300, ref_includes_query=True)
    expected_within = knn.range_search(queries, radius)
    monkeypatch.setattr(_exact, "_faiss_has", lambda device: False)  # not even on the CPU
    for reference in (None, codes, codes.to(device)):
        found = knn(queries.to(device), 300, reference, ref_includes_query=True)
        assert_close([x.cpu() for x in found], list(expected))
    distances, ids = knn.range_search(queries.to(device), radius)
    assert ids == expected_within[1]
    assert_close([x.cpu() for x in distances], expected_within[0])


def test_what_changes_is_seen_on_every_device(device):
    knn, codes = HammingKNN(), torch.randn(6, 12, device=device)
    knn.train(codes)
    knn(codes, 1)
    knn.update([2], -codes[2:3])
    knn.add(codes[2:3])
    knn.remove([0])
    expected = torch.cat([codes[1:2], -codes[2:3], codes[3:], codes[2:3]])
    assert_close(knn(codes, 6), HammingKNN()(codes, 6, expected))


def test_a_copy_elsewhere_is_made_once_for_as_long_as_nothing_changes():
    store, device = MemoryStore(), torch.device("meta")
    store.reset(8)
    store.append(pack(torch.randn(4, 8)), None, None)
    copy = store.packed_codes(device)
    assert (copy.shape, copy.device) == ((4, 1), device)
    assert store.packed_codes(device) is copy
    for change in (
        lambda: store.replace(torch.tensor([0]), pack(torch.randn(1, 8)), None),
        lambda: store.append(pack(torch.randn(1, 8)), None, None),
        lambda: store.remove(torch.tensor([1])),
    ):
        change()
        assert store.packed_codes(device) is not copy
        copy = store.packed_codes(device)
