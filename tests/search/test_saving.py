"""Files of HammingKNN: what they hold, and what is refused."""

import json

import faiss
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from pml_hashing import _tensor_files
from pml_hashing._tensor_files import write_tensors
from pml_hashing.code_file import json_tensor
from pml_hashing.codes import pack
from pml_hashing.search import HNSW, IVF, HammingKNN, MemoryStore


def make_codes(n=6, code_length=12):
    return torch.randn(n, code_length)


IDS = {
    "strings": ["a", "ä", "", "\udc80", "\U0001f600"],
    "integers": [5, -1, 0, 2**70, 3],
    "tuples": [("a", 1), ("a", ("b", 2)), (), "a", 1],
    "automatic": None,
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_come_back(tmp_path, ids):
    codes, knn, loaded = make_codes(5), HammingKNN(), HammingKNN()
    knn.train(codes, ids)
    knn.save(tmp_path / "codes")
    loaded.load(tmp_path / "codes")
    assert loaded.ids == knn.ids == (ids or list(range(5)))
    assert loaded.search(codes, 3)[1] == knn.search(codes, 3)[1]
    knn.remove(knn.ids[:2])
    knn.save(tmp_path / "codes")
    loaded.load(tmp_path / "codes")
    assert loaded.ids == knn.ids
    loaded.add(codes[:1])  # the next integer after the largest id
    assert loaded.ids[-1] == max((id_ for id_ in knn.ids if isinstance(id_, int)), default=-1) + 1


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize("ids", [IDS["strings"], [7, 3, 9, 5, 1], None], ids=["a", "1", "auto"])
def test_what_is_loaded_can_be_changed(tmp_path, ids, memory_map):
    codes, knn, loaded = make_codes(5), HammingKNN(), HammingKNN()
    knn.train(codes, ids, label=[1, 2, 1, None, 2])
    knn.save(tmp_path / "codes")
    loaded.load(tmp_path / "codes", memory_map=memory_map)
    ids = knn.ids
    assert all(id_ in loaded for id_ in ids)
    assert not any(id_ in loaded for id_ in ("none", 10, -2, 2**80, ("a",), 1.0, None, []))
    for each in (knn, loaded):
        each.remove(ids[1:2])
        each.update(ids[3:4], codes[:1], label=[1])
        each.add(codes[1:2], ids[1:2], label=[3])
        each.add(codes[:2], shop=["x", "y"])
    assert loaded.ids == knn.ids
    assert loaded.search(codes, 7)[1] == knn.search(codes, 7)[1]
    assert loaded.search(codes, 3, where={"label": 1})[1] == knn.search(codes, 3, {"label": 1})[1]
    for each in (knn, loaded):  # most of it: what is kept becomes a table of its own
        each.remove(ids[:4])
        each.add(codes[:1], ids[:1])
    assert loaded.ids == knn.ids
    assert [loaded.get([id_]).metadata for id_ in knn.ids] == [
        knn.get([id_]).metadata for id_ in knn.ids
    ]


def test_automatic_ids_count_on_after_removal(make_knn, tmp_path):
    knn, loaded, code = make_knn(), make_knn(), make_codes(1)
    knn.add(make_codes(4))
    knn.remove([2, 3])
    knn.save(tmp_path / "codes")
    loaded.load(tmp_path / "codes")
    for each in (knn, loaded):
        each.add(code)
        assert each.ids == [0, 1, 4]


def test_metadata_comes_back(make_knn, tmp_path):
    knn, loaded, codes = make_knn(), make_knn(), make_codes(4)
    columns = {
        "label": [1, 2, None, 1],
        "shop": ["a", "\udc80", "", None],
        "price": [0.5, float("inf") if make_knn is HammingKNN else 2.0, None, -0.0],
        "new": [True, False, None, True],
        "empty": [None] * 4,
    }
    knn.add(codes, list("abcd"), **columns)
    knn.add(codes[:1])
    knn.save(tmp_path / "codes")
    for memory_map in (False, True):
        loaded = make_knn()
        loaded.load(tmp_path / "codes", memory_map=memory_map)
        assert loaded.columns == knn.columns
        found = loaded.get(loaded.ids)
        assert found.ids == ["a", "b", "c", "d", 0]
        assert found.metadata == {name: [*values, None] for name, values in columns.items()}
        assert (
            loaded.search(codes, 2, where={"label": 1})[1]
            == (knn.search(codes, 2, where={"label": 1})[1])
        )


def test_a_file_of_version_2_is_read_as_it_was_written(tmp_path):
    """As written before ids and columns had tensors of their own."""
    codes = pack(make_codes(3, 12))
    for ids in (["a", "b", "c"], [5, 3, 4], ["a", ("b", 1), 2]):
        tensors = {"packed_codes": codes, "ids": json_tensor(ids)}
        metadata = {
            "format": "pml_hashing.HammingKNN",
            "format_version": "2",
            "code_length": "12",
            "count": "3",
        }
        write_tensors(tmp_path / "codes", tensors, metadata)
        knn = HammingKNN(code_length=12)
        knn.load(tmp_path / "codes")
        assert knn.ids == ids
        assert_close(knn(codes, 1)[1][:, 0], torch.arange(3))


@pytest.mark.parametrize("index", [IVF(), HNSW()])
def test_an_approximate_index_is_built_anew(tmp_path, index):
    codes, knn, loaded = make_codes(50), HammingKNN(index=index), HammingKNN(index=index)
    knn.train(codes)
    found = knn(codes, 5)
    knn.save(tmp_path / "codes")
    loaded.train(make_codes())
    loaded(codes, 1)
    loaded.load(tmp_path / "codes")
    assert_close(loaded(codes, 5), found)


def test_vectors_come_back(make_knn, tmp_path):
    codes, knn = make_codes(5).double(), make_knn(rerank="vectors")
    knn.train(codes[:3])
    knn.add(codes[3:])
    knn.save(tmp_path / "codes")
    loaded = make_knn(rerank="vectors")
    loaded.load(tmp_path / "codes")
    assert_close(loaded(codes, 5), knn(codes, 5))
    without = make_knn()
    without.load(tmp_path / "codes")
    assert_close(without(codes, 5), make_knn()(codes, 5, codes))
    without.save(tmp_path / "codes")
    with pytest.raises(ValueError, match=r"vectors to re-rank by in `.*codes`, got codes only"):
        loaded.load(tmp_path / "codes")
    assert_close(loaded(codes, 5), knn(codes, 5))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(1)
    knn = HammingKNN()
    knn.train(make_codes(5, 12), ["a", "b", "c", "d", 5])
    knn.save(tmp_path / "new folder" / "codes.safetensors")
    return tmp_path / "new folder" / "codes.safetensors"


def test_a_file_says_what_it_holds(saved):
    with safe_open(saved, framework="pt") as file:
        metadata, packed_codes = file.metadata(), file.get_tensor("packed_codes")
        ids = file.get_tensor("ids")
    torch.manual_seed(1)
    assert_close(packed_codes, pack(make_codes(5, 12)))
    assert json.loads(ids.numpy().tobytes()) == ["a", "b", "c", "d", 5]
    assert len(metadata.pop("sha256")) == 64
    assert metadata == {
        "format": "pml_hashing.HammingKNN",
        "format_version": "2",
        "code_length": "12",
        "count": "5",
    }
    assert [path.name for path in saved.parent.iterdir()] == ["codes.safetensors"]


def test_any_changed_byte_is_noticed_and_what_was_held_stays(saved):
    content, codes, knn = saved.read_bytes(), make_codes(5), HammingKNN()
    knn.train(codes)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        saved.write_bytes(changed)
        with pytest.raises(ValueError, match=r"a whole file that .*codes\.safetensors"):
            knn.load(saved)
    assert_close(knn(codes, 5), HammingKNN()(codes, 5, codes))


@pytest.mark.parametrize("size", [0, 1, 8, 100, -1])
def test_truncated_file(saved, size):
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"a whole file that HammingKNN.save wrote, got .*codes\."):
        HammingKNN().load(saved)


def write_text(path):
    path.write_text("These are no codes.")


def write_faiss(path):
    faiss.write_index_binary(faiss.IndexBinaryFlat(16), str(path))


def write_foreign(path):
    save_file({"packed_codes": torch.zeros(2, 2, dtype=torch.uint8)}, path)


@pytest.mark.parametrize("write", [write_text, write_faiss, write_foreign])
def test_foreign_file(tmp_path, write):
    write(tmp_path / "foreign")
    with pytest.raises(ValueError, match=r"a whole file that HammingKNN.save wrote, got .*foreign"):
        HammingKNN().load(tmp_path / "foreign")


def rewrite(path, tensors=None, sign=True, **metadata):
    """Change a file and, as whoever wants to deceive would, the checksum: it is no signature."""
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {k: v for k, v in (file.metadata() | metadata).items() if v is not None}
    tensors = found if tensors is None else tensors
    if sign:
        metadata.pop("sha256")
        metadata = _tensor_files.sign(metadata, _tensor_files.summarize(tensors))
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", "1", "'format_version': '1'}, not .*'format_version': '2'}"),
        ("format", "another", "'format': 'another', .* not .*'pml_hashing.HammingKNN'"),
        ("count", "6", r"`packed_codes` are of shape \(5, 2\), not \(6, 2\)"),
        ("count", "many", "invalid literal"),
        ("count", None, "'count'"),
        ("code_length", "20", r"shape \(5, 2\), not \(5, 3\)"),
        ("code_length", "9" * 5000, "4300 digits"),
        ("code_length", "10", "zeros in `packed_codes` after the 10 bits"),
    ],
)
def test_metadata_that_does_not_hold(saved, key, value, message):
    torch.manual_seed(1)
    rewrite(saved, {"packed_codes": pack(make_codes(5, 12))}, **{key: value})
    with pytest.raises(ValueError, match=message):
        HammingKNN().load(saved)


@pytest.mark.parametrize("metadata", [{"sha256": "0"}, {"sha256": None}, {"code_length": "13"}])
def test_metadata_without_its_checksum(saved, metadata):
    rewrite(saved, sign=False, **metadata)
    with pytest.raises(
        ValueError, match=r"got `.*codes.*`: the content does not have the checksum"
    ):
        HammingKNN().load(saved)


def test_codes_of_another_type_are_refused(saved):
    packed_codes = torch.zeros(5, 2, dtype=torch.uint8)
    rewrite(saved, {"packed_codes": packed_codes.view(torch.int8)})
    with pytest.raises(ValueError, match=r"`packed_codes` are torch\.int8"):
        HammingKNN().load(saved)
    rewrite(saved, {"codes": packed_codes})
    with pytest.raises(ValueError, match="tensors are codes, not"):
        HammingKNN().load(saved)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none at `.*nowhere`"):
        HammingKNN().load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (b"no json", "Expecting value"),
        (b"\xff", "utf-8"),
        (b"3", "not iterable"),
        (json.dumps([1, 2]).encode(), "5 `ids`, one for each code, got 2"),
        (json.dumps([1, 2, 3, 4, 1]).encode(), "duplicates, got 1 twice"),
        (json.dumps([1, 2, 3, 4, None]).encode(), "an id is None"),
        (json.dumps([1, 2, 3, 4, {}]).encode(), "an id is {}"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_ids_that_no_index_has(saved, ids, message):
    with safe_open(saved, framework="pt") as file:
        tensors = {"packed_codes": file.get_tensor("packed_codes")}
    rewrite(saved, tensors | {"ids": torch.frombuffer(bytearray(ids), dtype=torch.uint8)})
    with pytest.raises(ValueError, match=message):
        HammingKNN().load(saved)


BAD_TENSORS = {
    "offsets alone": ({"ids": None}, "id_offsets"),
    "twice": ({"ids": "aabcd", "id_offsets": [0, 1, 2, 3, 4, 5]}, "duplicates, got 'a' twice"),
    "too few": ({"ids": "abc", "id_offsets": [0, 1, 2, 3]}, r"shape \(4,\), not \(6,\)"),
    "backwards": ({"ids": "abcde", "id_offsets": [0, 2, 1, 3, 4, 5]}, "do not part"),
    "beyond": ({"ids": "abcde", "id_offsets": [0, 1, 2, 3, 4, 6]}, "do not part"),
    "late": ({"ids": "abcde", "id_offsets": [1, 1, 2, 3, 4, 5]}, "do not part"),
    "half a character": ({"ids": "äbcd", "id_offsets": [0, 1, 2, 3, 4, 5]}, "part a character"),
    "no text": ({"ids": b"\xff\xfebcd", "id_offsets": [0, 1, 2, 3, 4, 5]}, "utf-8"),
    "same integers": ({"ids": torch.tensor([1, 2, 3, 2, 4])}, "duplicates, got 2 twice"),
    "few integers": ({"ids": torch.tensor([1, 2])}, r"`ids` are of shape \(2,\), not \(5,\)"),
    "no values": ({"column.a": torch.zeros(5, dtype=torch.int32)}, "no `values.` for a column"),
    "no column": ({"values.a": "[1]"}, "no `values.` for a column"),
    "beyond values": (
        {"column.a": torch.tensor([0, 0, 3, 0, 0], dtype=torch.int32), "values.a": "[1, 2]"},
        "not numbers of its 3 values",
    ),
    "negative": (
        {"column.a": torch.tensor([0, 0, -1, 0, 0], dtype=torch.int32), "values.a": "[1, 2]"},
        "not numbers of its 3 values",
    ),
    "short": (
        {"column.a": torch.zeros(4, dtype=torch.int32), "values.a": "[]"},
        r"`column.a` are of shape \(4,\), not \(5,\)",
    ),
    **{
        values: (
            {"column.a": torch.zeros(5, dtype=torch.int32), "values.a": values},
            message,
        )
        for values, message in {
            "[1, 1]": "not distinct",
            "[null]": "not distinct",
            "[1, true]": "values of `a` of type int, as those before, got True",
            '["x", 1]': "values of `a` of type str",
            "[[]]": "to hold strings",
            "[NaN]": "without NaN",
            "[9223372036854775808]": "64 bits",
            "3": "no len",
            "[" * 100_000: "recursion",
        }.items()
    },
    "odd name": (
        {"column.a b": torch.zeros(5, dtype=torch.int32), "values.a b": "[]"},
        "identifiers, got 'a b'",
    ),
}


@pytest.mark.parametrize(("tensors", "message"), BAD_TENSORS.values(), ids=map(str, range(25)))
def test_columns_and_ids_that_no_index_has(saved, tensors, message):
    with safe_open(saved, framework="pt") as file:
        found = {"packed_codes": file.get_tensor("packed_codes")}
    for name, value in tensors.items():
        content = value.encode() if isinstance(value, str) else value
        content = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if isinstance(content, bytes)
            else content
        )
        found[name] = torch.tensor(content) if isinstance(content, list) else content
    if found.get("ids", 0) is None:
        found["id_offsets"] = torch.arange(6)
        del found["ids"]
    rewrite(saved, found)
    with pytest.raises(ValueError, match=message):
        HammingKNN().load(saved)


@pytest.mark.parametrize("next_id", ["5", "-1", "x"])
def test_an_automatic_id_that_would_come_twice(saved, next_id):
    rewrite(saved, next_id=next_id)
    with pytest.raises(ValueError, match=r"`next_id` is|invalid literal"):
        HammingKNN().load(saved)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"packed_codes": torch.full((5, 2), 255, dtype=torch.uint8)}, "zeros in `packed_codes`"),
        ({"vectors": torch.full((5, 12), torch.nan)}, "finite values in `vectors`"),
        ({"vectors": torch.zeros(5, 11)}, r"`vectors` are of shape \(5, 11\), not \(5, 12\)"),
        ({"vectors": torch.zeros(5, 12).double()}, r"`vectors` are torch\.float64"),
        ({"more": torch.zeros(1)}, "tensors are ids, more, packed_codes, not"),
        ({"packed_codes": None}, "tensors are ids, not packed_codes"),
    ],
)
def test_tensors_that_no_index_has(saved, tensors, message):
    with safe_open(saved, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = {name: of for name, of in (found | tensors).items() if of is not None}
    rewrite(saved, found)
    with pytest.raises(ValueError, match=message):
        HammingKNN().load(saved)


@pytest.mark.parametrize("make", [lambda: HammingKNN(code_length=16), HammingKNN])
def test_another_code_length(saved, make):
    knn, codes = make(), make_codes(4, 16)
    knn.add(codes)
    with pytest.raises(ValueError, match=r"codes of 16 bits in `.*codes\..*`, got 12 bits"):
        knn.load(saved)
    assert_close(knn(codes, 1), HammingKNN()(codes, 1, codes))


@pytest.mark.parametrize("memory_map", [False, True])
def test_a_copy_stays_as_it_was_while_a_store_changes(tmp_path, memory_map):
    codes, labels = make_codes(5), ["x", None, "y", "x", "z"]
    first = HammingKNN(rerank="vectors")
    first.train(codes, list("abcde"), label=labels)
    first.save(tmp_path / "codes")
    store = MemoryStore()
    knn = HammingKNN(rerank="vectors", store=store)
    knn.load(tmp_path / "codes", memory_map=memory_map)
    table = store.copied()
    knn.add(-codes[:1], ["f"], label=["new"])
    knn.update(["a"], codes[1:2], label=["y"])
    knn.remove(["b"])
    assert list(table.ids.to_array()) == list("abcde")
    assert table.records(table.rows()).metadata == {"label": labels}
    assert torch.equal(table.tensors["packed_codes"], pack(codes))
    assert torch.equal(table.tensors["vectors"], codes)
    changed = store.copied()
    assert list(changed.ids.to_array()) == list("acdef")
    assert changed.records(changed.rows()).metadata == {"label": ["y", "y", "x", "z", "new"]}


def test_nothing_removed_is_nothing_in_the_file(tmp_path):
    codes = torch.randint(256, (3, 2), dtype=torch.uint8)
    knn, loaded = HammingKNN(), HammingKNN()
    knn.train(codes)
    knn.remove([])
    knn.save(tmp_path / "codes")
    loaded.load(tmp_path / "codes")
    assert loaded.ids == [0, 1, 2]
