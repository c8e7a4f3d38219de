"""Columns of metadata, and search among the codes that match a condition."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pml_hashing.codes import pack
from pml_hashing.search import HNSW, IVF, HammingKNN, MemoryStore

CODES = torch.tensor(
    [[1.0, 1, 1, 1], [1, 1, 1, -1], [1, 1, -1, -1], [1, -1, -1, -1], [-1, -1, -1, -1]]
)


@pytest.fixture
def knn(make_knn):
    knn = make_knn()
    knn.add(
        CODES,
        list("abcde"),
        label=torch.tensor([1, 2, 1, 3, 2]),
        shop=np.array(["x", "y", "y", "x", "z"]),
        price=[0.5, 1, None, 2, 2],
        new=(True, False, None, True, False),
    )
    return knn


CONDITIONS = {
    "nothing": (None, "abcde"),
    "no column": ({}, "abcde"),
    "equal": ({"label": 1}, "ac"),
    "tensor": ({"label": torch.tensor(1)}, "ac"),
    "numpy": ({"label": np.int64(2)}, "be"),
    "two columns": ({"label": 1, "shop": "y"}, "c"),
    "list": ({"label": [1, 3]}, "acd"),
    "set": ({"shop": {"x", "z", "none"}}, "ade"),
    "tuple": ({"shop": ("x",)}, "ad"),
    "array": ({"label": np.array([3, 2])}, "bde"),
    "range": ({"label": range(2)}, "ac"),
    "both": ({"label": [1, 2], "shop": ["y", "z"], "new": [False, None]}, "bce"),
    "none": ({"price": None}, "c"),
    "one of them none": ({"price": [None, 2]}, "cde"),
    "float": ({"price": 1.0}, "b"),
    "integer among floats": ({"price": 2}, "de"),
    "boolean": ({"new": True}, "ad"),
    "unknown value": ({"label": 7}, ""),
    "no value": ({"label": []}, ""),
    "nothing in common": ({"label": 3, "shop": "z"}, ""),
}


def test_conditions(knn):
    for name, (where, matching) in CONDITIONS.items():
        check_condition(knn, where, matching, name)


def check_condition(knn, where, matching, name):
    assert knn.count(where) == len(matching), name
    assert knn.range_search(CODES[:1], 4, where=where)[1] == [list(matching)], name
    for k in range(1, len(matching) + 1):
        distances, ids = knn.search(CODES[:1], k, where=where)
        assert ids == [list(matching)[:k]]
        assert_close(distances[0], torch.tensor(["abcde".index(x) for x in ids[0]]).int())
    found = f"got {len(matching) + 1}"
    with pytest.raises(ValueError, match=rf"`k` from 1 to {len(matching)}, as .* {found}"):
        knn.search(CODES[:1], len(matching) + 1, where=where)
    with pytest.raises(ValueError, match=f"`k` from 1 to {len(matching)}, .* got 0"):
        knn.search(CODES[:1], 0, where=where)


def test_types_of_columns(knn):
    assert knn.columns == {"label": int, "shop": str, "price": float, "new": bool}
    metadata = knn.get(list("bc")).metadata
    assert metadata == {
        "label": [2, 1],
        "shop": ["y"] * 2,
        "price": [1.0, None],
        "new": [False, None],
    }
    assert [type(v) for v in (metadata[name][0] for name in metadata)] == [int, str, float, bool]


def test_codes_without_a_column_have_none(knn):
    knn.add(CODES[:1], ["f"], label=[1])
    knn.add(CODES[:1], ["g"], colour=["red"])
    assert knn.get(["a", "f", "g"]).metadata == {
        "label": [1, 1, None],
        "shop": ["x", None, None],
        "price": [0.5, None, None],
        "new": [True, None, None],
        "colour": [None, None, "red"],
    }
    assert knn.search(CODES[:1], 1, where={"colour": None, "shop": None})[1] == [["f"]]


def test_update_changes_the_columns_that_are_named(knn):
    knn.update(["b", "a"], CODES[[4, 3]], shop=["new", None])
    assert knn.get(["a", "b"]).metadata["shop"] == [None, "new"]
    assert knn.get(["a", "b"]).metadata["label"] == [1, 2]
    assert knn.search(CODES[4:], 1, where={"shop": "new"})[1] == [["b"]]
    knn.update(["a"], CODES[:1], more=[1])
    assert knn.get(["a", "b"]).metadata["more"] == [1, None]


WRONG_COLUMNS = {
    "short": ({"label": [1]}, ValueError, "2 values of `label`, one for each code, got 1"),
    "long": ({"label": range(3)}, ValueError, "2 values of `label`, one for each code, got 3"),
    "text": ({"shop": "xy"}, TypeError, "`shop` to be a list of 2 values, .* got str"),
    "number": ({"label": 3}, TypeError, "`label` to be a list of 2 values, .* got int"),
    "another type": ({"label": ["x", "y"]}, TypeError, "`label` of type int, .* got 'x'"),
    "float among ints": ({"label": [1.5, 2]}, TypeError, "`label` of type int, .* got 1.5"),
    "bool among ints": ({"label": [1, True]}, TypeError, "`label` of type int, .* got True"),
    "several types": ({"fresh": [1, "a"]}, TypeError, "`fresh` of type int, .* got 'a'"),
    "list": (
        {"fresh": [[1], [2]]},
        TypeError,
        r"`fresh` to hold strings, .* got \[1\] of type list",
    ),
    "bytes": ({"fresh": [b"a", b"b"]}, TypeError, "`fresh` to hold strings, .* of type bytes"),
    "times": (
        {"fresh": np.array(["2020-01-01", "NaT"], "datetime64[ns]")},
        TypeError,
        "`fresh` to hold strings, .* of type datetime64",
    ),
    "time": (
        {"fresh": [np.timedelta64(1, "ns")] * 2},
        TypeError,
        "`fresh` to hold strings, .* of type timedelta64",
    ),
    "matrix": ({"fresh": torch.ones(2, 2)}, TypeError, "`fresh` to hold strings, .* of type list"),
    "nan": ({"price": [1.0, float("nan")]}, ValueError, "`price` without NaN, got nan"),
    "huge": ({"label": [1, 2**63]}, ValueError, "`label` to hold integers of 64 bits, got 92"),
    "name": ({"a b": [1, 2]}, ValueError, "identifiers, got 'a b'"),
}


def test_wrong_columns(knn):
    before = knn.get(list("abcde")).metadata
    for columns, error, message in WRONG_COLUMNS.values():
        with pytest.raises(error, match=message):
            knn.add(CODES[:2], ["y", "z"], **columns)
        with pytest.raises(error, match=message):
            knn.update(["a", "b"], CODES[:2], **columns)
        assert len(knn) == 5
        assert knn.get(list("abcde")).metadata == before


WRONG_CONDITIONS = {
    "unknown": (
        {"size": 3},
        ValueError,
        "that are held \\('label', 'shop', 'price', 'new'\\), got",
    ),
    "type": ({"label": "3"}, TypeError, "compare `label` with values of type int, got '3'"),
    "member": ({"label": [1, "3"]}, TypeError, "compare `label` with values of type int, got '3'"),
    "bool": ({"label": True}, TypeError, "compare `label` with values of type int, got True"),
    "float": ({"label": 1.5}, TypeError, "compare `label` with values of type int, got 1.5"),
    "time": ({"label": np.datetime64(1, "ns")}, TypeError, "strings, .* of type datetime64"),
    "dict": ({"label": {}}, TypeError, "`label` to hold strings, .* of type dict"),
    "nested": ({"label": [[1]]}, TypeError, "`label` to hold strings, .* of type list"),
    "nan": ({"price": float("nan")}, ValueError, "`price` without NaN, got nan"),
    "no dict": ("label", TypeError, "`where` to be a dict of columns, got str"),
}


def test_wrong_conditions(knn):
    for where, error, message in WRONG_CONDITIONS.values():
        for search in (knn.search, knn.range_search):
            with pytest.raises(error, match=message):
                search(CODES, 1, where=where)
        with pytest.raises(error, match=message):
            knn.count(where)


def test_integers_are_floats_in_a_column_of_floats(make_knn, tmp_path):
    knn = make_knn()
    knn.add(CODES[:1], price=[0.5])
    knn.add(CODES[:3], price=[2**53, 2**53 + 1, 3])
    knn.update([3], CODES[:1], price=[4])
    knn.save(tmp_path / "codes")
    loaded = HammingKNN()
    loaded.load(tmp_path / "codes")
    for held in (knn, loaded):
        prices = held.get([0, 1, 2, 3]).metadata["price"]
        assert prices == [0.5, 2.0**53, 2.0**53, 4.0]
        assert set(map(type, prices)) == {float}
        assert held.count({"price": 2**53}) == 2
        assert held.count({"price": 2**53 + 1}) == 0


def test_conditions_of_many_values(make_knn):
    """Of a database they are more than fit into one parameter of a statement."""
    knn, wanted = make_knn(), [str(number) * 3 for number in range(8000)]
    knn.add(CODES, shop=["777", "7997" * 3, None, "-", wanted[4000]], label=range(5))
    assert knn.count({"shop": wanted}) == 3
    assert knn.count({"shop": wanted, "label": range(4, 9000)}) == 1
    found = knn.range_search(CODES[:1], 99, where={"shop": [None, *wanted[8:]]})[1][0]
    assert set(found) == {1, 2, 4}


def test_there_may_be_no_columns(make_knn):
    knn = make_knn()
    knn.add(CODES)
    with pytest.raises(ValueError, match=r"columns in `where` that are held \(none\), got 'label'"):
        knn.search(CODES, 1, where={"label": 1})


def test_a_column_that_is_gone_since_it_was_checked_has_no_values():
    """Another thread may have cleared the store meanwhile, and filled it again."""
    store = MemoryStore()
    HammingKNN(store=store).add(CODES)
    for wanted, number in (([1], 0), ([1, None], 5), ([None], 5)):
        where = {"gone": wanted}
        assert store.count(where) == number
        assert len(store.nearest(pack(CODES[:1]), 5, where).ids[0]) == number
        assert store.table.matches(np.arange(1, 4), where).tolist() == [number > 0] * 3


@pytest.mark.parametrize("index", [IVF(num_lists=30, num_probes=1), HNSW(num_links=2, ef_search=1)])
@pytest.mark.parametrize("rerank", [None, "asymmetric"])
def test_is_exact_under_a_condition_with_any_index(index, rerank, device):
    codes, query = torch.randn(1000, 16), torch.randn(20, 16)
    labels = torch.arange(1000) % 7
    knn = HammingKNN(index=index, rerank=rerank)
    knn.add(codes, label=labels)
    knn.search(query, 1)
    knn.remove(range(0, 1000, 3))
    kept = torch.arange(1000) % 3 != 0
    for wanted in ([2], [0, 5], [6, 3, 1]):
        rows = (kept & torch.isin(labels, torch.tensor(wanted))).nonzero().flatten()
        exact = HammingKNN(rerank=rerank)
        distances, places = exact(query, 50, codes[rows])
        found = knn.search(query.to(device), 50, where={"label": wanted})
        assert_close(found[0].cpu(), distances)
        assert found[1] == rows[places].tolist()


def test_columns_of_many_values():
    codes, knn = torch.randn(2000, 8), HammingKNN()
    knn.add(codes[:1000], time=torch.arange(1000))
    knn.add(codes[1000:], time=torch.arange(1000, 2000))
    knn.remove(range(1500))  # most: what is kept is numbered anew
    assert knn.search(codes[:1], 1, where={"time": 1777})[1] == [[1777]]
    assert knn.count({"time": [3, 1500, 1999]}) == 2
