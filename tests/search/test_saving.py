"""Files of HammingKNN: what they hold, and what is refused."""

import json

import faiss
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from pml_hashing import _tensor_files
from pml_hashing.codes import pack
from pml_hashing.search import HNSW, IVF, HammingKNN


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


@pytest.mark.parametrize("id_", [1.5, None, True, b"a", frozenset(), ("a", None)])
def test_ids_that_cannot_be_saved(tmp_path, id_):
    knn = HammingKNN()
    knn.train(make_codes(2), ["a", id_])
    assert id_ in knn
    with pytest.raises(TypeError, match=r"strings, integers or tuples of these, .* got .* of type"):
        knn.save(tmp_path / "codes")
    assert not list(tmp_path.iterdir())


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


def test_vectors_come_back(tmp_path):
    codes, knn = make_codes(5).double(), HammingKNN(rerank="vectors")
    knn.train(codes[:3])
    knn.add(codes[3:])
    knn.save(tmp_path / "codes")
    loaded = HammingKNN(rerank="vectors")
    loaded.load(tmp_path / "codes")
    assert_close(loaded(codes, 5), knn(codes, 5))
    without = HammingKNN()
    without.load(tmp_path / "codes")
    assert_close(without(codes, 5), HammingKNN()(codes, 5, codes))
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


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"packed_codes": torch.full((5, 2), 255, dtype=torch.uint8)}, "zeros in `packed_codes`"),
        ({"vectors": torch.full((5, 12), torch.nan)}, "finite values in `vectors`"),
        ({"vectors": torch.zeros(5, 11)}, r"`vectors` are of shape \(5, 11\), not \(5, 12\)"),
        ({"vectors": torch.zeros(5, 12).double()}, r"`vectors` are torch\.float64"),
        ({"more": torch.zeros(1)}, "tensors are ids, more, packed_codes, not"),
    ],
)
def test_tensors_that_no_index_has(saved, tensors, message):
    with safe_open(saved, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    rewrite(saved, found | tensors)
    with pytest.raises(ValueError, match=message):
        HammingKNN().load(saved)


@pytest.mark.parametrize("make", [lambda: HammingKNN(code_length=16), HammingKNN])
def test_another_code_length(saved, make):
    knn, codes = make(), make_codes(4, 16)
    knn.add(codes)
    with pytest.raises(ValueError, match=r"codes of 16 bits in `.*codes\..*`, got 12 bits"):
        knn.load(saved)
    assert_close(knn(codes, 1), HammingKNN()(codes, 1, codes))
