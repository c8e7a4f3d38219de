"""A save that is killed at any moment leaves the old file or the new one, and little litter."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import run_script
from torch import nn

from pml_hashing import _files
from pml_hashing.code_writer import CodesOf, CodeWriter
from pml_hashing.models import HashingModel
from pml_hashing.models.encoding import fingerprint
from pml_hashing.search import HammingKNN
from pml_hashing.trainers.checkpoints import write_checkpoint

SCRIPT = Path(__file__)
LONGEST = 0.05  # seconds until a kill: several saves
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such kill there")


def make_index(value):
    knn = HammingKNN()
    knn.train(torch.full((20_000, 64), float(value)))
    return knn


def save_index(knn, folder):
    knn.save(folder / "index")


def load_index(folder):
    knn = HammingKNN()
    knn.load(folder / "index")
    (value,) = set(knn(torch.ones(1, 64), len(knn))[0].flatten().tolist())
    return {0: 1, 64: -1}[value]


def make_model(value):
    model = HashingModel(nn.Identity(), 64, num_features=2000)
    nn.init.constant_(model.embedder.head[0].weight, value)
    return model


def save_model(model, folder):
    model.save_pretrained(folder)


def load_model(folder):
    model = HashingModel.from_pretrained(folder, backbone=nn.Identity())
    (value,) = model.embedder.head[0].weight.unique().tolist()
    return value


KINDS = {
    "index": (make_index, save_index, load_index, ["index"]),
    "model": (make_model, save_model, load_model, ["config.json", "model.safetensors"]),
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save_and_be_killed(save, things, folder, seconds):
    """Save in a fork, the second thing first, until it is killed."""
    child = os.fork()
    if child == 0:
        while True:
            for thing in things:
                save(thing, folder)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def kill_saves(kind, count, folder):
    """Kill `count` saves, and return what was found after each: what loads, and the litter."""
    make, save, load, files = KINDS[kind]
    found = {"loaded": [], "unfinished": []}
    things, random_ = [make(1), make(-1)], random.Random(0)
    folder.mkdir()
    save(things[0], folder)
    for _ in range(count):
        save_and_be_killed(save, things, folder, random_.uniform(0, LONGEST))
        found["loaded"].append(load(folder))
        found["unfinished"].append(len(set(names(folder)) - set(files)))
    save(things[0], folder)
    return found | {"left": names(folder), "last": load(folder)}


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_saves(count, tmp_path):
    done = run_script(SCRIPT, count, tmp_path)
    assert done.returncode == 0, done.stderr
    for kind, found in json.loads(done.stdout).items():
        files = KINDS[kind][3]
        assert set(found["loaded"]) <= {-1, 1}
        assert len(found["loaded"]) == count
        # One folder a file can be there: that of the last kill. Those before it were removed.
        assert max(found["unfinished"]) <= len(files)
        if count > 50:  # the kills came at all moments, in the middle of saves too
            assert set(found["loaded"]) == {-1, 1}
            assert max(found["unfinished"]) > 0
        assert found["left"] == files
        assert found["last"] == 1


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def test_disk_full(kind, tmp_path):
    """A limit of the size of a file stands for it: the same writes fail, for root too."""
    import resource  # noqa: PLC0415 - Windows has none

    make, save, load, files = kind
    save(make(1), tmp_path)
    limits, other = resource.getrlimit(resource.RLIMIT_FSIZE), make(-1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{tmp_path}/{files[-1]}'"):
            save(other, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load(tmp_path) == 1
    assert names(tmp_path) == files


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 800 kB that fills up, where one may be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave(folder, room):
    """Fill a disk but for so many bytes."""
    (folder / "other").write_bytes(bytes(shutil.disk_usage(folder).free - room))


def test_a_disk_that_fills_up(kind, small_disk):
    make, save, load, files = kind
    save(make(1), small_disk)
    leave(small_disk, 50_000)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save(make(-1), small_disk)
    assert (caught.value.errno, caught.value.filename) == (28, str(small_disk / files[-1]))
    assert load(small_disk) == 1
    assert names(small_disk) == sorted([*files, "other"])


@pytest.mark.parametrize("room", range(0, 40_000, 4096))
def test_a_checkpoint_on_a_disk_that_fills_up(room, small_disk):
    leave(small_disk, room)
    path = small_disk / "state.pt"
    with pytest.raises(OSError, match=r"write a checkpoint .*No space left on device") as caught:
        write_checkpoint(path, {"weights": torch.zeros(3, 4000)})
    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert names(small_disk) == ["other"]


def test_an_encoding_on_a_disk_that_fills_up_goes_on_where_there_is_room(small_disk):
    model = HashingModel(nn.Identity(), 64, num_features=4)
    values, path = torch.randn(20_000, 4), small_disk / "codes"
    expected = model.encode(values, batch_size=500, progress=False)
    leave(small_disk, 100_000)
    with pytest.raises(OSError, match="No space left on device") as caught:
        model.encode(values, path=path, batch_size=500, progress=False)
    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert names(small_disk) == ["codes.partial", "codes.progress", "other"]
    with CodeWriter(path, CodesOf(64, len(values), fingerprint(model))) as writer:
        assert 0 < writer.num_done < len(values)
    (small_disk / "other").unlink()
    assert torch.equal(model.encode(values, path=path, batch_size=500, progress=False), expected)
    assert names(small_disk) == ["codes"]


def test_no_space_left(kind, tmp_path, monkeypatch):
    """Where a full disk is noticed last: when the file is written out to it."""
    make, save, load, files = kind
    save(make(1), tmp_path)

    def fail(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "fsync", fail)
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}"):
            save(make(-1), tmp_path)
    assert load(tmp_path) == 1
    assert names(tmp_path) == files


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(kind, tmp_path):
    make, save, load, files = kind
    save(make(1), tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=str(tmp_path)):
            save(make(-1), tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert load(tmp_path) == 1
    assert names(tmp_path) == files


def test_read_only_file_system(kind, tmp_path, monkeypatch):
    make, save, load, files = kind
    save(make(1), tmp_path)

    def fail(**options):
        raise OSError(30, "Read-only file system", str(options["dir"]))

    with monkeypatch.context() as patch:
        patch.setattr(_files.tempfile, "mkdtemp", fail)
        with pytest.raises(OSError, match=f"Read-only file system: '{tmp_path}"):
            save(make(-1), tmp_path)
    assert load(tmp_path) == 1
    assert names(tmp_path) == files


if __name__ == "__main__":
    number, root = int(sys.argv[1]), Path(sys.argv[2])
    print(json.dumps({kind: kill_saves(kind, number, root / kind) for kind in KINDS}))  # noqa: T201
