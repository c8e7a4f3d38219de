"""The matrix product against faiss and against a loop, in blocks of every size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.codes import hamming_distance, pack
from pml_hashing.search import HammingKNN, exact
from pml_hashing.search._ids import Ids
from pml_hashing.search._table import Table
from pml_hashing.search.store import Records


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
        patch.setattr(exact, "BLOCK_DISTANCES", block)
        patch.setattr(exact, "MIN_DATABASE_BLOCK", min_database_block)
        nearest = exact.nearest_by_product(query, database, k)
        within = exact.within_by_product(query, database, radius)
    assert_close(nearest, exact.nearest(query, database, k))
    expected = exact.within(query, database, radius)
    assert_close(within, expected)
    assert sum(expected[0]) == int((hamming_distance(query, database) <= radius).sum())


def test_many_blocks_of_the_real_size():
    query, database = pack(torch.randn(7, 16)), pack(torch.randn(150_000, 16))
    for k in (1, 100, 20_000):
        found = exact.nearest_by_product(query, database, k)
        assert_close(found, exact.nearest(query, database, k))


@pytest.mark.parametrize("code_length", [16, 64])
@pytest.mark.parametrize("num_queries", [1, 3, 40, 1000])
def test_few_queries_meet_large_blocks(num_queries, code_length, monkeypatch):
    """What is held at a time is bounded, and there are as few blocks as that allows."""
    most_distances, most_bits, least, num_codes = 2**13, 2**15, 2**6, 5000
    monkeypatch.setattr(exact, "BLOCK_DISTANCES", most_distances)
    monkeypatch.setattr(exact, "BLOCK_BITS", most_bits)
    monkeypatch.setattr(exact, "MIN_DATABASE_BLOCK", least)
    query, database = (pack(torch.randn(n, code_length)) for n in (num_queries, num_codes))
    blocks, distances = [], exact._distances

    def noted(queries, codes, block_size):
        for start, block in distances(queries, codes, block_size):
            blocks.append(block.shape)
            yield start, block

    monkeypatch.setattr(exact, "_distances", noted)
    for search, last in ((exact.nearest_by_product, 5), (exact.within_by_product, 2)):
        blocks.clear()
        search(query, database, last)
        assert max(rows * columns for rows, columns in blocks) <= most_distances
        assert max(columns for _, columns in blocks) * code_length <= most_bits
        size = max(least, min(most_distances // num_queries, most_bits // code_length))
        num_blocks = -(-num_codes // size) * -(-num_queries // (most_distances // size))
        assert len(blocks) == num_blocks


def test_one_query_on_a_device_is_one_block():
    """A million codes of 64 bits: 128 MB of signs in half precision."""
    query = torch.empty(1, 8, dtype=torch.uint8, device="meta")
    assert exact._block_size(query, 1_000_000) == 1_000_000
    assert exact._block_size(query.expand(100_000, 8), 1_000_000) == exact.MIN_DATABASE_BLOCK


def test_keys_beyond_32_bits(monkeypatch):
    query, database = pack(torch.randn(3, 16)), pack(torch.randn(500, 16))
    monkeypatch.setattr(exact, "MIN_DATABASE_BLOCK", 100)
    expected = exact.nearest(query, database, 450)
    for limit in (1, 500 * 17, 500 * 17 + 1):
        monkeypatch.setattr(exact, "MAX_INT32", limit)
        assert_close(exact.nearest_by_product(query, database, 450), expected)


def test_autocast_changes_nothing():
    query, database = pack(torch.randn(3, 600)), pack(torch.randn(20, 600))
    expected = exact.nearest(query, database, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(exact.nearest_by_product(query, database, 20), expected)


@pytest.mark.parametrize("code_length", [12, 64, 1024, 1032])
def test_every_way_finds_the_same(device, code_length, monkeypatch):
    codes, knn = torch.randn(500, code_length), HammingKNN()
    queries, radius = codes[:20], code_length // 2
    knn.train(codes)
    expected = knn(queries, 300, ref_includes_query=True)
    expected_within = knn.range_search(queries, radius)
    monkeypatch.setattr(exact, "_faiss_has", lambda codes: False)  # not even on the CPU
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


def codes():
    return pack(torch.randn(4, 8))


def test_a_copy_elsewhere_is_made_once_for_as_long_as_nothing_changes():
    table, device = Table(8, {"packed_codes": codes()}, Ids(range(4))), torch.device("meta")
    copy = table.searched(device, {})[0]
    assert (copy.shape, copy.device) == ((4, 1), device)
    assert table.searched(device, {})[0] is copy
    for change in (
        lambda: table.replace(np.arange(4), Records([], codes(), None, {})),
        lambda: table.append(Records([], codes(), None, {})),
        lambda: table.remove(np.array([1])),
    ):
        change()
        assert table.searched(device, {})[0] is not copy
        copy = table.searched(device, {})[0]
