"""Files of checkpoints: whole or not there, checked before they are read, the newest kept."""

import collections
import errno
import os
import resource
import stat

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import CONTEXT

from pml_hashing.trainers import checkpoints
from pml_hashing.trainers.checkpoints import CheckpointFolder, read_checkpoint, write_checkpoint

STATE = {"weights": torch.arange(6.0).view(2, 3), "step": 3, "betas": (0.9, [1, None]), 7: "text"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "state.pt"
    write_checkpoint(path, STATE)
    return path.read_bytes()


def test_what_was_written_is_read(tmp_path):
    write_checkpoint(tmp_path / "new" / "state.pt", STATE)
    state = read_checkpoint(tmp_path / "new" / "state.pt")
    assert state.keys() == STATE.keys()
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {key: value for key, value in STATE.items() if key != "weights"}
    assert names(tmp_path / "new") == ["state.pt"]


def test_torch_reads_it_too(tmp_path):
    write_checkpoint(tmp_path / "state.pt", STATE)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_cut_file_is_refused(tmp_path, whole, data):
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=r"a whole checkpoint at .*cut\.pt, got a file that is"):
        read_checkpoint(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_is_seen(tmp_path, whole, data):
    content = bytearray(whole)
    content[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "flipped.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a whole checkpoint at .*flipped\.pt"):
        read_checkpoint(tmp_path / "flipped.pt")


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_refused(tmp_path, whole):
    generator, path = torch.Generator().manual_seed(0), tmp_path / "damaged.pt"
    for case in range(10_000):
        content = bytearray(whole)
        place = int(torch.randint(len(whole), (), generator=generator))
        if case % 2:
            content[place] ^= 1 << int(torch.randint(8, (), generator=generator))
        else:
            del content[place:]
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a whole checkpoint at"):
            read_checkpoint(path)


def test_another_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "VERSION", checkpoints.VERSION + 1)
    write_checkpoint(tmp_path / "state.pt", STATE)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"got version {checkpoints.VERSION + 1} with"):
        read_checkpoint(tmp_path / "state.pt")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "load", lambda *_, **__: None)  # so that it can be written
    write_checkpoint("state.pt", {"state": Harmful()})
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"a checkpoint at state\.pt, got another file"):
        read_checkpoint("state.pt")
    assert names(tmp_path) == ["state.pt"]


def test_what_could_not_be_read_is_not_written(tmp_path):
    path = tmp_path / "state.pt"
    write_checkpoint(path, STATE)
    with pytest.raises(TypeError, match="made of tensors, numbers, strings"):
        write_checkpoint(path, {"state": collections.UserDict()})
    assert read_checkpoint(path)["step"] == 3
    assert names(tmp_path) == ["state.pt"]


@pytest.fixture
def disk_of():
    """Let files have so many bytes and no more, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, disk_of, size):
    path = tmp_path / "state.pt"
    write_checkpoint(path, STATE)
    disk_of(size)
    with pytest.raises(OSError, match=r"write a checkpoint .* got: File too large: .*state\.pt"):
        write_checkpoint(path, STATE | {"more": torch.zeros(10_000)})
    disk_of(-1)
    assert read_checkpoint(path)["step"] == 3
    assert names(tmp_path) == ["state.pt"]


def test_a_disk_that_fails_at_the_end_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "state.pt"
    write_checkpoint(path, STATE)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_checkpoint(path, STATE | {"step": 4})
    assert caught.value.errno == errno.ENOSPC
    assert read_checkpoint(path)["step"] == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_an_error(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PermissionError, match="write a checkpoint"):
        write_checkpoint(tmp_path / "state.pt", STATE)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="write a checkpoint"):
        write_checkpoint(tmp_path / "file" / "state.pt", STATE)


def test_the_newest_and_the_one_before_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path)
    assert folder.load() is None
    for round_, step in [(1, 5), (1, 10), (2, 3)]:
        folder.save({"at": (round_, step)}, round_, step)
    assert names(tmp_path) == [
        "checkpoint-000001-000000010.pt",
        "checkpoint-000002-000000003.pt",
    ]
    assert CheckpointFolder(tmp_path).load() == {"at": (2, 3)}


def test_what_a_kill_left_is_removed_and_what_is_not_ours_is_not(tmp_path):
    (tmp_path / ".checkpoint-000001-000000001.pt.abc").mkdir()
    (tmp_path / ".checkpoint-000001-000000001.pt.abc" / "half").touch()
    (tmp_path / "checkpoint-of-mine.txt").touch()
    CheckpointFolder(tmp_path).save(STATE, 1, 2)
    assert names(tmp_path) == ["checkpoint-000001-000000002.pt", "checkpoint-of-mine.txt"]


def test_a_round_that_is_done_again_takes_over(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save({"at": 1}, 1, 4)
    folder.save({"at": 2}, 2, 4)
    folder.save({"at": 3}, 1, 5)  # trained again from an earlier round
    assert CheckpointFolder(tmp_path).load() == {"at": 3}


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    folder = CheckpointFolder(tmp_path)
    first, second = (folder.save({"at": step}, 1, step) for step in (1, 2))
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="whole checkpoint .* The one before is taken"):
        assert CheckpointFolder(tmp_path).load() == {"at": 1}
    first.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="is taken"),
        pytest.raises(ValueError, match="got a file that is too short"),
    ):
        CheckpointFolder(tmp_path).load()


def take(folder):
    with folder.in_use():
        assert (folder.folder / ".lock").exists()


def test_checkpoints_of_another_training_are_not_overwritten(tmp_path):
    folder = CheckpointFolder(tmp_path)
    take(folder)
    folder.save(STATE, 1, 1)
    take(folder)
    assert names(tmp_path) == ["checkpoint-000001-000000001.pt"]
    other = CheckpointFolder(tmp_path)
    with pytest.raises(ValueError, match=r"or `resume` before `train`, got .*-000000001\.pt"):
        take(other)
    other.load()
    take(other)
    folder.save(STATE, 1, 2)  # meanwhile, by the first one
    with pytest.raises(ValueError, match=r"or `resume` before `train`, got .*-000000002\.pt"):
        take(other)


HOLD = """
import time
from pml_hashing.trainers.checkpoints import CheckpointFolder
with CheckpointFolder(folder).in_use():
    held.set()
    time.sleep(60)
"""


def test_another_process_that_trains_into_a_folder_is_named(tmp_path):
    held = CONTEXT.Event()
    holder = CONTEXT.Process(target=exec, args=(HOLD, {"folder": tmp_path / "runs", "held": held}))
    holder.start()
    assert held.wait(60)
    with pytest.raises(ValueError, match=r"one training, got .*runs, into which another"):
        take(CheckpointFolder(tmp_path / "runs"))
    holder.kill()
    holder.join()
    take(CheckpointFolder(tmp_path / "runs"))  # what is dead holds nothing
    assert names(tmp_path / "runs") == []


def test_a_thread_that_trains_into_a_folder_is_named_too(tmp_path):
    folder = CheckpointFolder(tmp_path)
    with folder.in_use():
        with pytest.raises(ValueError, match=r"one training, got .*, into which another"):
            take(CheckpointFolder(f"{tmp_path}/."))
        assert (tmp_path / ".lock").exists()
    take(folder)


def test_a_checkpoint_that_a_living_training_removed_is_passed_over(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    first, second = (folder.save({"at": step}, 1, step) for step in (1, 2))
    paths = [first, second, tmp_path / "checkpoint-000001-000000003.pt"]
    monkeypatch.setattr(CheckpointFolder, "paths", lambda _: paths)
    with pytest.warns(UserWarning, match="got none at .* The one before is taken"):
        assert CheckpointFolder(tmp_path).load() == {"at": 2}
