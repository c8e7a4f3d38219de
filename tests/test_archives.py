"""What torch.save wrote is loaded; what claims more than it is takes no memory."""

import collections
import io
import json
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from processes import run_script

from pml_hashing._archives import check_checksums, load_archive
from pml_hashing.models import HashingModel
from pml_hashing.trainers import checkpoints

SCRIPT = Path(__file__)
LARGE = 2**26  # numbers, of 256 MiB, a hundred times what a file has
LIMIT = 60_000  # kilobytes


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file


def test_what_was_saved_is_loaded():
    shared = torch.arange(6.0)
    content = {
        "tensors": [shared, shared[2:4], torch.zeros(3).expand(4, 3), torch.tensor(True)],
        "numbers": (1, 2.5, None, 3j, 2**70),
        7: collections.Counter({3: 1}),
        "names of what is refused": ["bytearray", "torch.Tensor"],
        "more": collections.OrderedDict(a={1, 2}, b=[torch.Size([1]), torch.float16]),
    }
    found = load_archive(saved(content))
    assert [t.tolist() for t in found.pop("tensors")] == [
        t.tolist() for t in content.pop("tensors")
    ]
    assert found == content


def test_on_the_meta_device_no_value_is_read():
    found = load_archive(saved({"a": torch.zeros(3)}), "meta")
    assert found["a"].is_meta


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        load_archive(saved([Harmful()]))
    assert not (tmp_path / "harmed").exists()


def test_a_list_that_holds_itself():
    content = [torch.zeros(1)]
    content.append(content)
    assert load_archive(saved(content))[0].item() == 0


def test_what_is_no_archive():
    legacy = io.BytesIO()
    torch.save([1], legacy, _use_new_zipfile_serialization=False)
    for file in (io.BytesIO(b"nothing"), io.BytesIO(), legacy):
        with pytest.raises(zipfile.BadZipFile):
            load_archive(file)


def test_checksums_of_parts():
    file = saved({"a": torch.full((50,), 7.0)})
    check_checksums(file)
    content = bytearray(file.getvalue())
    content[content.index(torch.full((3,), 7.0).numpy().tobytes())] ^= 1
    with pytest.raises(ValueError, match="does not have its checksum"):
        check_checksums(io.BytesIO(content))


def compressed():
    """256 MiB of zeros in less than one."""
    numbers = torch.zeros(1).expand(3)
    file = saved({"a": numbers})
    made = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):  # the size of the storage, and the tensor's
                content = content.replace(b"K\x01t", b"J" + LARGE.to_bytes(4, "little") + b"t")
                content = content.replace(
                    b"K\x03\x85", b"J" + LARGE.to_bytes(4, "little") + b"\x85"
                )
            if not entry.filename.endswith("data/0"):
                new.writestr(entry.filename, content)
                continue
            with new.open(entry.filename, "w", force_zip64=True) as part:
                for _ in range(LARGE * 4 // 2**22):
                    part.write(bytes(2**22))
    return made


def overlapping():
    """Two hundred parts that are the same 2 MB."""
    file = saved([torch.full((500_000,), 1.0), *(torch.full((1,), float(i)) for i in range(200))])
    with zipfile.ZipFile(file, "a") as archive:
        entries = {Path(entry.filename).name: entry for entry in archive.infolist()}
        for i in range(1, 201):
            for name in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(entries[f"{i}"], name, getattr(entries["0"], name))
        archive._didModify = True
    return file


def expanded():
    """A stride of 0 makes very much of one number."""
    return saved({"a": torch.zeros(1).expand(LARGE)})


@pytest.mark.parametrize("hide", [lambda t: {t}, lambda t: {t: 0}, lambda t: [({0: t},)]])
def test_a_tensor_that_claims_more_is_found_wherever_it_is(hide):
    with pytest.raises(ValueError, match=r"a tensor claims 268,435,456 bytes"):
        load_archive(saved(hide(torch.zeros(1).expand(LARGE))))


class Bytes:
    def __reduce__(self):
        return bytearray, (LARGE * 4,)


def called():
    """Bytes of a number, not of content."""
    return saved({"a": Bytes()})


class Numbers:
    def __reduce__(self):
        return torch.FloatTensor, (LARGE,)


def constructed():
    """A tensor of a number, not of content."""
    return saved({"a": Numbers()})


BOMBS = {
    "compressed": (compressed, "archive is compressed"),
    "overlapping": (overlapping, "archive claims more than its"),
    "expanded": (expanded, "a tensor claims 268,435,456 bytes"),
    "called": (called, "calls .*bytearray"),
    "constructed": (constructed, "calls torch FloatTensor"),
}


def read_as_weights(path):
    return HashingModel("test_resnet", 8, checkpoint_path=path)


READERS = {"checkpoint": checkpoints.read_checkpoint, "weights": read_as_weights}


@pytest.mark.parametrize("reader", READERS)
def test_a_small_file_takes_little_memory(reader, tmp_path):
    """In a process of its own, whose highest use of memory is this."""
    done = run_script(SCRIPT, reader, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == BOMBS.keys()
    for name, (message, memory) in found.items():
        assert memory < LIMIT, name
        assert str(tmp_path) in message
        if reader == "checkpoint":
            assert re.search(BOMBS[name][1], message)


def sign(path, content):
    """Write a file with the checksum of a checkpoint, as whoever made it can."""
    footer = checkpoints.FOOTER.pack(
        checkpoints.MAGIC,
        checkpoints.VERSION,
        len(content),
        checkpoints.hashlib.sha256(content).digest(),
    )
    path.write_bytes(content + footer)


def main(reader, folder):
    import resource  # noqa: PLC0415 - Windows has none

    def use():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    path, found = Path(folder) / "state.pt", {}
    checkpoints.write_checkpoint(path, {"a": torch.zeros(3)})
    checkpoints.read_checkpoint(path)  # what the libraries take
    for name, (make, _) in BOMBS.items():
        sign(path, make().getvalue())
        before = use()
        try:
            READERS[reader](path)
        except ValueError as error:
            found[name] = str(error), use() - before
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
