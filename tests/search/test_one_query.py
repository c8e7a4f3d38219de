"""The short way of few codes: what faiss packs, what is looked at, and what nothing locks."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_hashing.codes import pack
from pml_hashing.search import HNSW, IVF, HammingKNN, MemoryStore, MultiHash, exact, multi_hash
from pml_hashing.search._arguments import FEW_VALUES, to_packed

BAD = [float("nan"), float("inf"), -float("inf")]


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 5),
    code_length=st.integers(1, 40),
    scale=st.sampled_from([1e-45, 1e-3, 1.0, 1e30]),
    with_grad=st.booleans(),
)
def test_few_codes_are_packed_as_many_are(seed, count, code_length, scale, with_grad):
    torch.manual_seed(seed)
    codes = torch.randn(count, code_length) * scale
    codes[torch.rand(count, code_length) < 0.1] = 0.0
    codes[torch.rand(count, code_length) < 0.1] = -0.0
    codes[0, 0] = -2.5 * scale
    expected = np.packbits(codes.numpy() >= 0, axis=1, bitorder="little")
    for passed in (codes.requires_grad_(with_grad), codes.double(), codes.T.contiguous().T):
        packed_codes, found_length = to_packed(passed, "query", code_length)
        assert np.array_equal(packed_codes.numpy(), expected)
        assert found_length == code_length
    assert np.array_equal(to_packed(codes.detach().numpy(), "query", None)[0].numpy(), expected)


@given(
    count=st.integers(1, 4),
    code_length=st.integers(1, 30),
    value=st.sampled_from(BAD),
    data=st.data(),
)
def test_no_value_without_a_sign_passes(count, code_length, value, data):
    codes = torch.randn(count, code_length)
    row = data.draw(st.integers(0, count - 1))
    codes[row, data.draw(st.integers(0, code_length - 1))] = value
    with pytest.raises(ValueError, match=f"finite values in `query`, .* row {row}"):
        to_packed(codes, "query", code_length)


@given(bits=st.lists(st.booleans(), min_size=1, max_size=80))
def test_zeros_and_ones_are_refused_and_signs_are_not(bits):
    codes = torch.tensor([bits]).float()
    signs = 2 * codes - 1
    assert torch.equal(to_packed(signs, "query", None)[0], pack(signs))
    if len(set(bits)) == 1:  # zeros alone or ones alone have the sign of ones: as ever
        assert torch.equal(to_packed(codes, "query", None)[0], pack(codes))
        return
    with pytest.raises(ValueError, match="got 0 and 1 alone"):
        to_packed(codes, "query", None)


@pytest.mark.parametrize("size", [FEW_VALUES - 8, FEW_VALUES, FEW_VALUES + 8])
def test_every_number_of_ones_is_told(size):
    codes = torch.ones(size // 8, 8)
    assert torch.equal(to_packed(codes, "query", 8)[0], pack(codes))
    codes[-1, -1] = 0
    with pytest.raises(ValueError, match="got 0 and 1 alone"):
        to_packed(codes, "query", 8)


def test_large_values_and_views_of_other_signs():
    codes = torch.tensor([[3e38, -3e38, 1e20]])
    assert to_packed(codes, "query", 3)[0].tolist() == [[5]]
    turned = torch.complex(torch.tensor([[1.0]]), torch.tensor([[2.0]])).conj().imag
    assert turned.is_neg()
    assert to_packed(turned, "query", 1)[0].tolist() == [[0]]


def test_widths_must_agree():
    query, database = (torch.zeros(3, width, dtype=torch.uint8) for width in (2, 3))
    for search in (exact.nearest, exact.within):
        with pytest.raises(ValueError, match="packed queries of 3 bytes, got 2"):
            search(query, database, 1)
        for wrong in (database.T.contiguous().T, database.float()):
            with pytest.raises(
                ValueError, match="packed codes, uint8, on the CPU and without gaps"
            ):
                search(database, wrong, 1)


def test_many_queries_are_searched_as_one():
    codes, knn = torch.randn(400, 20), HammingKNN()
    knn.train(codes, [f"image {i}" for i in range(400)])
    distances, ids = knn.search(codes, 12)
    found = knn.range_search(codes, 4)
    for row in range(0, 400, 7):
        query = codes[row : row + 1]
        assert torch.equal(knn.search(query, 12)[0], distances[row : row + 1])
        assert knn.search(query, 12)[1] == [ids[row]]
        assert knn.range_search(query, 4)[1] == [found[1][row]]
        assert torch.equal(knn.range_search(query, 4)[0][0], found[0][row])


def read_until(stop, search, wrong):
    """Note every answer but the right one, and every error but those that say what is wrong."""
    while not stop.is_set():
        try:
            distances, ids = search()
            if (ids, distances[0].tolist()) != ([[0, 1]], [0, 0]):
                wrong.append(ids)
        except Exception as error:
            if not (isinstance(error, ValueError) and "Expected" in str(error)):
                wrong.append(error)


@pytest.mark.parametrize(
    "options",
    [{}, {"rerank": "asymmetric"}, {"index": IVF()}, {"index": HNSW()}, {"index": MultiHash()}],
    ids=str,
)
def test_a_store_that_is_filled_with_longer_codes_meanwhile(options, monkeypatch):
    monkeypatch.setattr(multi_hash, "MIN_CODES", 2)
    monkeypatch.setattr(multi_hash, "WORTHWHILE", float("inf"))
    store, query = MemoryStore(), torch.ones(1, 16)
    knn, stop, wrong = HammingKNN(store=store, **options), threading.Event(), []
    searches = [partial(knn.search, query, 2), partial(knn.range_search, query, 0)] * 2
    threads = [threading.Thread(target=read_until, args=(stop, each, wrong)) for each in searches]
    for thread in threads:
        thread.start()
    for turn in range(30):
        store.clear()
        HammingKNN(store=store).add(torch.ones(2, 16 if turn % 2 else 512))
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
