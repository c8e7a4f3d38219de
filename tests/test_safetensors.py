"""Files of tensors are those of the safetensors package, and say what is wrong before they load."""

import io
import json
import resource

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from pml_hashing import _safetensors
from pml_hashing._safetensors import DTYPES, read, write

TENSORS = {
    "matrix": torch.arange(6.0).view(2, 3),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "number": torch.tensor(3),
    "none": torch.empty(0, 4, dtype=torch.int32),
    "ä\udc80": torch.tensor([True, False]),
}
METADATA = {"format": "test", "ü": "\n"}


def save(path, tensors=TENSORS, metadata=METADATA):
    with path.open("wb") as file:
        write(file, tensors, metadata)


def load(path):
    with path.open("rb") as file:
        return read(file)


def equal(tensors, others):
    return tensors.keys() == others.keys() and all(
        tensor.dtype == others[name].dtype and torch.equal(tensor, others[name])
        for name, tensor in tensors.items()
    )


def test_what_was_written_is_read(tmp_path):
    save(tmp_path / "file")
    tensors, metadata = load(tmp_path / "file")
    assert equal(tensors, TENSORS)
    assert metadata == METADATA
    save(tmp_path / "file", {}, {})
    assert load(tmp_path / "file") == ({}, {})


def of_all_dtypes():
    """Return a few tensors of each dtype."""
    numbers = torch.arange(24, dtype=torch.uint8)
    return {str(t): numbers.to(torch.int64).to(t) for t in DTYPES.values()} | {
        f"{t} 2": numbers.view(2, 3, 4).to(torch.int32).to(t) for t in DTYPES.values()
    }


def test_the_package_reads_it(tmp_path):
    tensors = of_all_dtypes()
    save(tmp_path / "file", tensors)
    found = safetensors.torch.load_file(tmp_path / "file")
    assert equal(
        {n: t.view(torch.uint8) for n, t in found.items()},
        {n: t.view(torch.uint8) for n, t in tensors.items()},
    )
    with safe_open(tmp_path / "file", "pt") as file:
        assert file.metadata() == METADATA


def test_the_package_s_files_are_read(tmp_path):
    tensors = of_all_dtypes()
    safetensors.torch.save_file(tensors, tmp_path / "file", METADATA)
    found, metadata = load(tmp_path / "file")
    assert {n: (t.dtype, t.shape, bytes(_safetensors.bytes_of(t))) for n, t in found.items()} == {
        n: (t.dtype, t.shape, bytes(_safetensors.bytes_of(t))) for n, t in tensors.items()
    }
    assert metadata == METADATA


def test_tensors_that_are_not_aligned_are_read(tmp_path):
    text = json.dumps({"a": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}}).encode()
    text += b" " * (-len(text) % 8 + 3)
    content = len(text).to_bytes(8, "little") + text + bytes(torch.tensor([7, 8]).numpy().data)
    (tmp_path / "file").write_bytes(content)
    assert load(tmp_path / "file")[0]["a"].tolist() == [7, 8]


def test_what_is_changed_stays_in_memory(tmp_path):
    save(tmp_path / "file")
    before = (tmp_path / "file").read_bytes()
    tensors, _ = load(tmp_path / "file")
    tensors["matrix"].fill_(9)
    assert (tmp_path / "file").read_bytes() == before
    (tmp_path / "file").unlink()  # what was opened stays
    assert tensors["bytes"].tolist() == [0, 1, 2, 3, 4]


def entry(dtype="U8", shape=(4,), place=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


def with_header(header, rest=b"1234"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


BAD = {
    "empty": (b"", "too short"),
    "short": (b"1234567", "too short"),
    "cut": (with_header({"a": entry()})[:30], "bytes is cut or too long"),
    "endless": (b"\xff" * 8 + b"{}", "bytes is cut or too long"),
    "no json": (with_header(b"{nothing}"), "Expecting property name"),
    "no text": (with_header(b"\xff\xfe"), "utf-8"),
    "list": (with_header([]), "header is no dict"),
    "metadata": (with_header({"__metadata__": {"a": 1}}, b""), "metadata are no strings"),
    "more metadata": (with_header({"__metadata__": ["a"]}, b""), "metadata are no strings"),
    "dtype": (with_header({"a": entry("F3")}), "entry for a is"),
    "list of dtypes": (with_header({"a": entry([])}), "entry for a is"),
    "missing": (with_header({"a": {"dtype": "U8"}}), "entry for a is"),
    "no entry": (with_header({"a": 3}), "entry for a is 3"),
    "three ends": (with_header({"a": entry(place=(0, 2, 4))}), "entry for a is"),
    "negative": (with_header({"a": entry(shape=(-4,))}), "entry for a is"),
    "fraction": (with_header({"a": entry(shape=(4.0,))}), "entry for a is"),
    "truth": (with_header({"a": entry(shape=(True, 4))}), "entry for a is"),
    "huge": (with_header({"a": entry(shape=(2**70,))}), "entry for a is"),
    "many dimensions": (with_header({"a": entry(shape=(1,) * 65 + (4,))}), "entry for a is"),
    "too large": (with_header({"a": entry(shape=(2**40,))}), "4 bytes, too few or too many"),
    "behind": (with_header({"a": entry(shape=(2**40,), place=(0, 2**40))}), "should have"),
    "backwards": (with_header({"a": entry(place=(4, 0))}), "-4 bytes, too few"),
    "hole": (with_header({"a": entry(shape=(3,), place=(1, 4))}), "does not begin where"),
    "overlap": (with_header({"a": entry(), "b": entry()}), "does not begin where"),
    "more": (with_header({"a": entry()}, b"12345"), "should have .*, and has"),
    "fewer": (with_header({"a": entry()}, b"123"), "should have .*, and has"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "file")


def test_many_names_of_one_place_take_no_memory(tmp_path):
    """As of a bomb: every tensor is the whole file."""
    names = {f"{i}": entry(shape=(10**6,), place=(0, 10**6)) for i in range(2000)}
    (tmp_path / "file").write_bytes(with_header(names, bytes(10**6)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="does not begin where"):
        load(tmp_path / "file")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_dtype_that_the_format_lacks():
    with pytest.raises(ValueError, match=r"safetensors has, got torch\.complex128"):
        write(io.BytesIO(), {"a": torch.zeros(1, dtype=torch.complex128)}, {})
