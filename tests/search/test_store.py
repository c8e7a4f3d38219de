"""Ids that are added, changed and removed, against a plain dictionary."""

import tempfile
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sqlite_store import SQLiteStore
from torch.testing import assert_close

from pml_hashing.codes import pack
from pml_hashing.search import HNSW, IVF, HammingKNN, MemoryStore
from pml_hashing.search._table import with_room

STEP = st.tuples(
    st.sampled_from(["add", "add own", "update", "remove", "search", "save"]), st.integers(1, 6)
)


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(STEP, max_size=12),
    index=st.sampled_from([None, IVF(num_lists=2, num_probes=2), HNSW()]),
    rerank=st.sampled_from([None, "asymmetric", "vectors"]),
)
def test_any_history(make_knn, seed, steps, index, rerank):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    options = (
        {"rerank": rerank} if make_knn is not HammingKNN else {"rerank": rerank, "index": index}
    )
    knn, held, next_id = make_knn(**options), {}, 0
    for number, (step, count) in enumerate([("add", 3), *steps]):
        codes, labels = torch.randn(count, 10), rng.integers(3, size=count).tolist()
        chosen = [list(held)[i] for i in rng.permutation(len(held))[:count]]
        records = list(zip(codes, labels, strict=True))
        if step == "add":
            knn.add(codes, label=labels)
            held |= dict(zip(range(next_id, next_id + count), records, strict=True))
            next_id += count
        elif step == "add own":
            ids = [(number, i) if i % 2 else f"{number} {i}" for i in range(count)]
            knn.add(codes, ids)
            held |= {id_: (code, None) for id_, code in zip(ids, codes, strict=True)}
        elif step == "update" and chosen:
            knn.update(chosen, codes[: len(chosen)], label=labels[: len(chosen)])
            held |= dict(zip(chosen, records[: len(chosen)], strict=True))
        elif step == "remove":
            knn.remove(chosen)
            held = {id_: record for id_, record in held.items() if id_ not in chosen}
        elif step == "save" and held:
            knn = saved_and_loaded(knn, make_knn(**options))
        elif held:
            knn.search(codes, len(held))  # builds an approximate index, which then has to follow
    check(knn, held, rerank)


def saved_and_loaded(knn, loaded):
    with tempfile.TemporaryDirectory() as folder:
        knn.save(f"{folder}/codes")
        loaded.load(f"{folder}/codes", memory_map=True)
    return loaded


def check(knn, held, rerank):
    assert knn.ids == list(held)
    assert len(knn) == len(held)
    for label in (0, 1, 2, None, [0, None], []):
        wanted = label if isinstance(label, list) else [label]
        chosen = {i: code for i, (code, own) in held.items() if own in wanted}
        assert knn.count({"label": label}) == len(chosen)
        compare(knn, chosen, rerank, {"label": label})
    compare(knn, {id_: code for id_, (code, _) in held.items()}, rerank, None)


def compare(knn, codes, rerank, where):
    """Search for exactly what a search in a list of codes finds."""
    query = torch.randn(3, 10)
    if len(knn):
        found = [ids for _, ids in [knn.range_search(query, 10, where=where)]]
        assert [sorted(map(str, ids)) for ids in found[0]] == [sorted(map(str, codes))] * 3
    if codes:
        ids, database = list(codes), torch.stack(list(codes.values()))
        for k in (1, len(codes)):
            distances, rows = HammingKNN(rerank=rerank)(query, k, database)
            found = knn.search(query, k, where=where)
            if k == len(codes) or where:  # an index may find others, but for all
                assert_close(found[0], distances)
                assert found[1] == [[ids[row] for row in row_] for row_ in rows.tolist()]


def test_automatic_ids_count_on_from_the_largest(make_knn):
    knn, code = make_knn(), torch.ones(1, 4)
    knn.add(code)
    knn.add(code, [7])
    knn.add(code)
    knn.add(code, ["a"])
    knn.remove([8])
    knn.add(code)
    assert knn.ids == [0, 7, "a", 9]
    knn.train(code)
    assert knn.ids == [0]


def test_automatic_ids_count_on_beyond_64_bits(make_knn):
    knn, code = make_knn(), torch.ones(1, 4)
    knn.add(code, [2**63 - 2])
    knn.add(code.expand(2, 4))
    knn.add(code)
    assert knn.ids == list(range(2**63 - 2, 2**63 + 2))


def test_numbers_are_python_numbers(make_knn):
    codes = torch.randn(2, 4)
    for ids in (torch.tensor([3, 4]), np.array([3, 4]), [np.int64(3), np.int32(4)], range(3, 5)):
        knn = make_knn()
        knn.train(codes, ids)
        assert [type(id_) for id_ in knn.ids] == [int, int]
        assert 3 in knn
        assert np.int64(4) in knn
        assert 0 not in knn
        knn.remove(ids)
        assert len(knn) == 0


def test_what_is_held_is_a_copy(make_knn):
    packed_codes, knn = pack(torch.randn(3, 8)), make_knn()
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
    **{
        str(id_): (["a", id_], TypeError, "strings, integers or tuples of these, got .* of type")
        for id_ in (
            1.0,
            float("nan"),
            np.float32(1),
            True,
            np.bool_(True),
            None,
            b"a",
            frozenset(),
            ["a"],
            ("a", []),
            ("a", 1.0),
            torch.tensor(1),
        )
    },
    "times": (
        np.array([1, 2], "datetime64[ns]"),
        TypeError,
        "strings, integers or tuples of these, got .* of type datetime64",
    ),
    "floats": (
        torch.tensor([1.0, 2.0]),
        TypeError,
        "strings, integers or tuples of these, got 1.0",
    ),
}


@pytest.mark.parametrize(("ids", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_ids(make_knn, ids, error, message):
    knn, codes = make_knn(), torch.randn(2, 4)
    knn.train(codes, ["x", "y"])
    with pytest.raises(error, match=message):
        knn.add(codes, ids)
    if "held" not in message:
        with pytest.raises(error, match=message):
            knn.train(codes, ids)
        with pytest.raises(error, match=message):
            knn.update(ids, codes)
    assert knn.ids == ["x", "y"]
    assert_close(knn(codes, 2), make_knn()(codes, 2, codes))


def test_unknown_ids(make_knn):
    knn, codes = make_knn(), torch.randn(2, 4)
    knn.train(codes, ["x", "y"])
    for change in (lambda: knn.remove(["x", "z"]), lambda: knn.update(["x", "z"], -codes)):
        with pytest.raises(ValueError, match="`ids` that are held, got 'z', which is not"):
            change()
    with pytest.raises(ValueError, match="without duplicates"):
        knn.remove(["x", "x"])
    with pytest.raises(ValueError, match=r"`codes` of shape \(batch_size, 4\)"):
        knn.update(["x"], torch.ones(1, 5))
    assert knn.ids == ["x", "y"]
    assert_close(knn(codes, 2), make_knn()(codes, 2, codes))
    assert "z" not in make_knn()


def test_an_emptied_index_keeps_its_code_length(make_knn):
    knn = make_knn()
    knn.train(torch.ones(2, 12))
    knn.remove([0, 1])
    with pytest.raises(ValueError, match=r"`codes` of shape \(batch_size, 12\), .* got \(1, 16\)"):
        knn.add(torch.ones(1, 16))
    knn.add(torch.ones(1, 12))
    assert knn.ids == [2]


def test_one_and_one_point_zero_are_not_the_same_id():
    knn = HammingKNN()
    knn.add(torch.ones(2, 4), [1, ("a", 1)])
    assert 1 in knn
    for id_ in (1.0, True, ("a", 1.0), ("a", True), None, [1], {}):
        assert id_ not in knn


def test_a_string_is_a_name_and_no_path(make_knn, tmp_path):
    names = ["a.png", "./a.png", "A.png", "x/../a.png", "a.png ", "1", 1, "ä", "a\u0308", ""]
    knn, codes = make_knn(), torch.randn(len(names), 16)
    knn.add(codes, names)
    knn.save(tmp_path / "codes")
    loaded = make_knn()
    loaded.load(tmp_path / "codes")
    for each in (knn, loaded):
        assert each.ids == names
        assert each.search(codes, 1)[1] == [[name] for name in names]
        each.remove(names[::2])
        assert [name in each for name in names] == [False, True] * 5


class CountingStore(MemoryStore):
    """A store that searches by itself, as one spread over machines would."""

    searches = 0

    def nearest(self, *args, **options):
        self.searches += 1
        return super().nearest(*args, **options)

    def within(self, *args):
        self.searches += 1
        return super().within(*args)


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
    with pytest.raises(ValueError, match="vectors to re-rank by in `store`, got codes only"):
        HammingKNN(store=store, rerank="vectors")


@pytest.mark.parametrize("make_store", [MemoryStore, SQLiteStore])
def test_what_another_reader_holds_is_not_dropped(make_store, tmp_path):
    store, codes = make_store(), torch.randn(4, 12)
    first, second = HammingKNN(store=store), HammingKNN(store=store)
    first.add(codes, list("abcd"))
    first.save(tmp_path / "codes")
    for replace in (lambda: second.train(-codes), lambda: second.load(tmp_path / "codes")):
        with pytest.raises(
            ValueError, match=r"an empty `store`, .*got 4 codes in it: `add` appends"
        ):
            replace()
    assert first.search(codes, 1)[1] == [["a"], ["b"], ["c"], ["d"]]
    with pytest.raises(ValueError, match="codes of 20 bits without vectors, got one with others"):
        store.prepare(20, with_vectors=False)
    store.clear()
    assert (len(store), store.code_length, store.columns) == (0, None, {})
    second.train(torch.randn(2, 20))
    assert (len(first), first.code_length) == (2, 20)


def test_a_store_outlives_its_connection(tmp_path):
    codes = torch.randn(4, 12)
    knn = HammingKNN(store=SQLiteStore(tmp_path / "codes.db"))
    knn.add(codes, label=[1, 2, 3, 4])
    knn.remove([3])
    expected = knn.search(codes, 3)
    knn.close()
    knn = HammingKNN(store=SQLiteStore(tmp_path / "codes.db"))
    assert (len(knn), knn.code_length, knn.columns) == (3, 12, {"label": int})
    assert knn.search(codes, 3)[1] == expected[1]
    knn.add(codes[:1])
    assert [id_ for batch in knn.batches() for id_ in batch.ids] == [0, 1, 2, 4]
    knn.close()


def test_what_needs_codes_in_memory_says_so(tmp_path):
    knn, codes = HammingKNN(store=SQLiteStore()), torch.randn(4, 12)
    knn.add(codes)
    for use in (lambda: knn(codes, 1), lambda: knn.ids):
        with pytest.raises(TypeError, match=r"codes in memory, .* got a SQLiteStore: `search`"):
            use()
    for index in (IVF(), HNSW()):
        name = type(index).__name__
        with pytest.raises(TypeError, match=f"no `index` with a SQLiteStore, got {name}: .*memory"):
            HammingKNN(index=index, store=SQLiteStore())


def test_codes_are_looked_up_and_read_in_batches(make_knn):
    knn, codes = make_knn(rerank="vectors"), torch.randn(7, 12)
    knn.add(codes, list("abcdefg"), label=range(7))
    knn.remove(["c"])
    found = knn.get(["f", "a"])
    assert found.ids == ["f", "a"]
    assert_close(found.packed_codes, pack(codes[[5, 0]]))
    assert_close(found.vectors, codes[[5, 0]])
    assert found.metadata == {"label": [5, 0]}
    with pytest.raises(ValueError, match="`ids` that are held, got 'c', which is not"):
        knn.get(["a", "c"])
    for size in (1, 2, 100):
        batches = list(knn.batches(size))
        assert all(len(batch.ids) <= size for batch in batches)
        assert [id_ for batch in batches for id_ in batch.ids] == list("abdefg")
        assert_close(torch.cat([batch.vectors for batch in batches]), codes[[0, 1, 3, 4, 5, 6]])
    with pytest.raises(ValueError, match="`size` of at least 1, got 0"):
        knn.batches(0)


def test_codes_may_change_between_batches(make_knn):
    knn, codes = make_knn(), torch.randn(10, 12)
    knn.add(codes)
    seen = []
    for batch in knn.batches(2):
        seen += batch.ids
        knn.remove(batch.ids)  # at last more than half: what is kept moves
        knn.add(codes[:1])
        if len(seen) > 30:
            break
    assert seen[:10] == list(range(10))
    assert len(set(seen)) == len(seen)


def test_what_changes_all_the_time_stays_small():
    store, codes = MemoryStore(), torch.randn(10, 12)
    knn = HammingKNN(store=store)
    knn.add(codes)
    for _ in range(30):
        knn.update([3], codes[:1])
        assert len(store.table.replaced) <= 10
    for number in range(10, 40):
        knn.remove([number - 10])
        knn.add(codes[:1])
        assert store.table.num_rows <= 20
    assert knn.ids == list(range(30, 40))


def test_room_for_more_rows_doubles():
    rows = torch.arange(3)
    assert with_room(rows, 3) is rows
    assert [len(with_room(rows, needed)) for needed in (4, 50)] == [6, 50]
    assert torch.equal(with_room(rows, 4)[:3], rows)


def test_vectors_of_a_store_that_has_none():
    store, codes = MemoryStore(), torch.randn(4, 12)
    HammingKNN(store=store).add(codes)
    with pytest.raises(ValueError, match="`store` with vectors, got one without"):
        store.nearest(pack(codes), 1, {}, fetch="vectors")


@pytest.mark.slow
def test_one_change_costs_the_same_among_many_codes():
    def seconds(count):
        knn, codes = HammingKNN(), torch.randint(256, (count, 8), dtype=torch.uint8)
        knn.train(codes, [f"image {i}" for i in range(count)], label=[0] * count)
        knn.remove(["image 0"])
        knn.add(codes[:1], ["first"])
        times = []
        for number in range(200):
            start = time.process_time()
            knn.add(codes[:1], [f"new {number}"], label=[number])
            knn.update([f"new {number}"], codes[1:2])
            assert f"new {number}" in knn
            knn.remove([f"image {number + 1}"])
            times.append(time.process_time() - start)
        return sorted(times)[100]

    assert seconds(300_000) < 3 * seconds(1000)
