"""A file is written whole or not at all."""

import os
import sys
import threading

import pytest

from pml_hashing import _files
from pml_hashing._files import write_atomically


def test_file_is_written(tmp_path):
    path = tmp_path / "new" / "folder" / "codes.bin"
    write_atomically(path, lambda temporary: temporary.write_bytes(b"new"))
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["codes.bin"]  # noqa: PTH208 (with hidden files)
    write_atomically(str(path), lambda temporary: temporary.write_bytes(b"newer"))
    assert path.read_bytes() == b"newer"


def test_temporary_file_has_the_name_and_is_beside(tmp_path):
    def write(temporary):
        assert temporary.name == "model.safetensors"  # formats may go by the ending
        assert temporary.parent.parent == tmp_path
        temporary.write_bytes(b"")

    write_atomically(tmp_path / "model.safetensors", write)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "codes.bin"
    path.write_bytes(b"old")

    def fail(temporary):
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["codes.bin"]


def test_a_function_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "codes.bin"
    path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        write_atomically(path, lambda _: None)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["codes.bin"]


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file" / "codes.bin", lambda t: t.write_bytes(b""))


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions there")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "atomic", lambda temporary: temporary.write_bytes(b""))
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(before)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(sys.platform == "win32", reason="an open file is not replaced there")
def test_readers_see_the_old_file_or_the_new(tmp_path):
    path, size, seen, done = tmp_path / "codes.bin", 100_000, set(), threading.Event()
    path.write_bytes(b"0" * size)

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    def write_slowly(content):
        def write(temporary):
            with temporary.open("wb") as file:
                for _ in range(size // 1000):
                    file.write(content * 1000)
                    file.flush()

        return write

    reader = threading.Thread(target=read)
    reader.start()
    for content in (b"1", b"2", b"3"):
        write_atomically(path, write_slowly(content))
    done.set()
    reader.join()
    assert seen <= {content * size for content in (b"0", b"1", b"2", b"3")}
    assert path.read_bytes() == b"3" * size


def test_permissions_do_not_depend_on_the_writer(tmp_path):
    def write_for_the_owner_only(temporary):
        temporary.write_bytes(b"new")
        temporary.chmod(0o600)

    write_atomically(tmp_path / "atomic", write_for_the_owner_only)
    (tmp_path / "plain").touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders there")
def test_what_a_killed_writer_left_is_removed(tmp_path):
    kept = [".codes.bin.backup", ".codes.unfinished", ".other.bin.ab12cd34.unfinished"]
    for name in (*kept, ".codes.bin.ab12cd34.unfinished", ".codes.bin.ef56gh78.unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "codes.bin").write_bytes(b"half")
    write_atomically(tmp_path / "codes.bin", lambda temporary: temporary.write_bytes(b"new"))
    assert names(tmp_path) == [*kept, "codes.bin"]


def test_what_a_living_writer_writes_is_left_alone(tmp_path):
    path = tmp_path / "codes[1].bin"

    def write_while_another_does(temporary):
        temporary.write_bytes(b"slow")
        write_atomically(path, lambda other: other.write_bytes(b"fast"))
        assert path.read_bytes() == b"fast"
        assert temporary.read_bytes() == b"slow"

    write_atomically(path, write_while_another_does)
    assert path.read_bytes() == b"slow"
    assert names(tmp_path) == ["codes[1].bin"]


def test_a_folder_that_was_removed_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    made, mkdtemp = [], _files.tempfile.mkdtemp

    def make_and_lose_the_first(**options):
        made.append(mkdtemp(**options))
        if len(made) == 1:
            os.rmdir(made[0])  # noqa: PTH106
        return made[-1]

    monkeypatch.setattr(_files.tempfile, "mkdtemp", make_and_lose_the_first)
    write_atomically(tmp_path / "codes.bin", lambda temporary: temporary.write_bytes(b"new"))
    assert len(made) == 2
    assert names(tmp_path) == ["codes.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders there")
def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(_files.fcntl, "flock", fail)
    (tmp_path / ".codes.bin.ab12cd34.unfinished").mkdir()
    write_atomically(tmp_path / "codes.bin", lambda temporary: temporary.write_bytes(b"new"))
    assert names(tmp_path) == [".codes.bin.ab12cd34.unfinished", "codes.bin"]  # whose may it be?


@pytest.mark.skipif(sys.platform == "win32", reason="a folder cannot be opened there")
def test_file_and_folder_reach_the_disk_in_order(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def record(descriptor):
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / "codes.bin").exists()))
        fsync(descriptor)

    monkeypatch.setattr(_files.os, "fsync", record)
    write_atomically(tmp_path / "codes.bin", lambda temporary: temporary.write_bytes(b"new"))
    inode = (tmp_path / "codes.bin").stat().st_ino
    assert synced == [(inode, False), (tmp_path.stat().st_ino, True)]


def test_an_error_without_a_name_gets_one(tmp_path):
    def fail(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*codes\.bin'"):
        write_atomically(tmp_path / "codes.bin", fail)
