"""Ids that are added, changed and removed, against a plain dictionary."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.codes import pack
from pml_hashing.search import HNSW, IVF, CodeStore, HammingKNN, MemoryStore

STEP = st.tuples(
    st.sampled_from(["add", "add own", "update", "remove", "search"]), st.integers(1, 6)
)


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(STEP, max_size=12),
    index=st.sampled_from([None, IVF(num_lists=2, num_probes=2), HNSW()]),
    rerank=st.sampled_from([None, "vectors"]),
)
def test_any_history(seed, steps, index, rerank):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    knn, held, next_id = HammingKNN(index=index, rerank=rerank), {}, 0
    for number, (step, count) in enumerate([("add", 3), *steps]):
        codes = torch.randn(count, 10)
        chosen = [list(held)[i] for i in rng.permutation(len(held))[:count]]
        if step == "add":
            knn.add(codes)
            held |= dict(zip(range(next_id, next_id + count), codes, strict=True))
            next_id += count
        elif step == "add own":
            ids = [(number, i) for i in range(count)]
            knn.add(codes, ids)
            held |= dict(zip(ids, codes, strict=True))
        elif step == "update" and chosen:
            knn.update(chosen, codes[: len(chosen)])
            held |= dict(zip(chosen, codes[: len(chosen)], strict=True))
        elif step == "remove":
            knn.remove(chosen)
            held = {id_: code for id_, code in held.items() if id_ not in chosen}
        elif held:
            knn(codes, len(held))  # builds an approximate index, which then has to follow
    assert knn.ids == list(held)
    if held:
        database, query = torch.stack(list(held.values())), torch.randn(3, 10)
        expected = HammingKNN(rerank=rerank)(query, len(held), database)
        assert_close(knn(query, len(held)), expected)
        ids = [[knn.ids[row] for row in rows] for rows in expected[1].tolist()]
        assert knn.search(query, len(held))[1] == ids


def test_automatic_ids_count_on_from_the_largest():
    knn, code = HammingKNN(), torch.ones(1, 4)
    knn.add(code)
    knn.add(code, [7])
    knn.add(code)
    knn.add(code, ["a"])
    knn.remove([8])
    knn.add(code)
    assert knn.ids == [0, 7, "a", 9]
    knn.train(code)
    assert knn.ids == [0]


def test_numbers_are_python_numbers():
    codes = torch.randn(2, 4)
    for ids in (torch.tensor([3, 4]), np.array([3, 4]), [np.int64(3), np.int32(4)], range(3, 5)):
        knn = HammingKNN()
        knn.train(codes, ids)
        assert [type(id_) for id_ in knn.ids] == [int, int]
        assert 3 in knn
        assert np.int64(4) in knn
        assert 0 not in knn
        knn.remove(ids)
        assert len(knn) == 0


def test_what_is_held_is_a_copy():
    packed_codes, knn = pack(torch.randn(3, 8)), HammingKNN()
    expected = packed_codes.clone()
    knn.train(packed_codes)
    packed_codes.zero_()
    assert_close(knn(expected, 1)[0], torch.zeros(3, 1, dtype=torch.int32))


WRONG = {
    "duplicate": (["a", "a"], ValueError, "without duplicates, got 'a' twice"),
    "held": (["a", "x"], ValueError, "new `ids`, got 'x', which is held: `update` changes it"),
    "too few": (["a"], ValueError, "2 `ids`, one for each code, got 1"),
    "string": ("ab", TypeError, "`ids` to be a list of ids, got str"),
    "number": (3, TypeError, "`ids` to be a list of ids, got int"),
    "list": ([["a"], ["b"]], TypeError, r"hashable `ids`, got \['a'\] of type list"),
    "inner list": ([("a", []), "b"], TypeError, "hashable `ids`, got .* of type tuple"),
    "tensor": ([torch.tensor(1), 2], TypeError, "hashable `ids`, got .* of type Tensor"),
}


@pytest.mark.parametrize(("ids", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_ids(ids, error, message):
    knn, codes = HammingKNN(), torch.randn(2, 4)
    knn.train(codes, ["x", "y"])
    with pytest.raises(error, match=message):
        knn.add(codes, ids)
    if "held" not in message:
        with pytest.raises(error, match=message):
            knn.train(codes, ids)
        with pytest.raises(error, match=message):
            knn.update(ids, codes)
    assert knn.ids == ["x", "y"]
    assert_close(knn(codes, 2), HammingKNN()(codes, 2, codes))


def test_unknown_ids():
    knn, codes = HammingKNN(), torch.randn(2, 4)
    knn.train(codes, ["x", "y"])
    for change in (lambda: knn.remove(["x", "z"]), lambda: knn.update(["x", "z"], -codes)):
        with pytest.raises(ValueError, match="`ids` that are held, got 'z', which is not"):
            change()
    with pytest.raises(ValueError, match="without duplicates"):
        knn.remove(["x", "x"])
    with pytest.raises(ValueError, match=r"`codes` of shape \(batch_size, 4\)"):
        knn.update(["x"], torch.ones(1, 5))
    assert knn.ids == ["x", "y"]
    assert_close(knn(codes, 2), HammingKNN()(codes, 2, codes))
    assert "z" not in HammingKNN()


def test_an_emptied_index_keeps_its_code_length():
    knn = HammingKNN()
    knn.train(torch.ones(2, 12))
    knn.remove([0, 1])
    with pytest.raises(ValueError, match=r"`codes` of shape \(batch_size, 12\), .* got \(1, 16\)"):
        knn.add(torch.ones(1, 16))
    knn.add(torch.ones(1, 12))
    assert knn.ids == [2]


class CountingStore(MemoryStore):
    """A store that searches by itself, as one spread over machines would."""

    searches = 0

    def nearest(self, packed_query, k):
        self.searches += 1
        return super().nearest(packed_query, k)

    def within(self, packed_query, radius):
        self.searches += 1
        return super().within(packed_query, radius)


def test_a_store_of_ones_own():
    store, codes = CountingStore(), torch.randn(4, 12)
    HammingKNN(store=store).train(codes, list("abcd"))
    knn = HammingKNN(store=store)  # finds what the store holds
    assert (knn.ids, knn.code_length) == (list("abcd"), 12)
    assert_close(knn(codes, 4), HammingKNN()(codes, 4, codes))
    assert knn.range_search(codes[:1], 12)[1][0][0] == "a"
    assert store.searches == 2
    with pytest.raises(ValueError, match="codes of 16 bits in `store`, got 12 bits"):
        HammingKNN(store=store, code_length=16)


def test_a_store_that_cannot_adopt_copies(tmp_path):
    class Copying(MemoryStore):
        adopt = CodeStore.adopt

    codes, stores = torch.randn(5, 12), (Copying(), MemoryStore())
    knn = HammingKNN()
    knn.train(codes, list("abcde"))
    knn.save(tmp_path / "codes")
    for store in stores:
        loaded = HammingKNN(store=store)
        loaded.load(tmp_path / "codes", memory_map=True)
        assert_close(loaded(codes, 5), knn(codes, 5))
        assert loaded.ids == list("abcde")
