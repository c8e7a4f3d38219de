"""A file is written whole or not at all."""

import os
import socket
import stat
import sys
import threading
from functools import partial

import pytest

from pml_hashing import _files
from pml_hashing._files import open_file, write_atomically


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


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions there")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_a_file_keeps_the_permissions_of_the_one_it_replaces(tmp_path, mode):
    path = tmp_path / "codes.bin"
    path.touch()
    path.chmod(mode)
    write_atomically(path, lambda temporary: temporary.write_bytes(b"new"))
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root may give away")
def test_a_file_keeps_its_owner_and_group_where_that_may_be(tmp_path, monkeypatch):
    path = tmp_path / "codes.bin"
    path.touch()
    os.chown(path, 1234, 2345)
    write_atomically(path, lambda temporary: temporary.write_bytes(b"new"))
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)

    def fail(*_):
        raise PermissionError

    monkeypatch.setattr(os, "chown", fail)
    write_atomically(path, lambda temporary: temporary.write_bytes(b"newer"))
    assert path.read_bytes() == b"newer"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("target", ["there", "gone", "chained"])
def test_a_link_stays_and_its_file_is_replaced(tmp_path, target):
    path, file = tmp_path / "link", tmp_path / "elsewhere" / "file"
    file.parent.mkdir()
    if target != "gone":
        file.write_bytes(b"old")
    path.symlink_to("second" if target == "chained" else "elsewhere/file")
    (tmp_path / "second").symlink_to(file)
    write_atomically(path, lambda temporary: temporary.write_bytes(b"new"))
    assert path.is_symlink()
    assert path.read_bytes() == file.read_bytes() == b"new"
    assert names(file.parent) == ["file"]


def link_to_itself(path):
    os.symlink(path, path)  # noqa: PTH211


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (os.mkdir, IsADirectoryError, "got a folder: .*other"),
        (os.mkfifo, OSError, "got a pipe: .*other"),
        (partial(os.symlink, "/dev/null"), OSError, "got a device: .*null"),
        (link_to_itself, OSError, "levels of symbolic links: .*other"),
    ],
)
def test_what_is_no_file_is_not_replaced(tmp_path, make, error, message):
    make(tmp_path / "other")
    before, written = (tmp_path / "other").lstat(), []
    with pytest.raises(error, match=message):
        write_atomically(tmp_path / "other", written.append)
    assert os.path.samestat((tmp_path / "other").lstat(), before)
    assert names(tmp_path) == ["other"]
    assert not written  # it is noticed before the work, not after


@pytest.mark.parametrize("name", [None, "temporary"])
def test_an_error_has_the_name_of_the_file_not_of_what_is_temporary(tmp_path, name):
    def fail(temporary):
        raise OSError(28, "No space left on device", name and str(temporary))

    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "codes.bin", fail)
    assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "codes.bin"))


def test_a_file_is_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_file(tmp_path / name, "codes") as file:
            assert file.read() == b"content"


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (os.mkdir, "a folder"),
        (os.mkfifo, "a pipe"),
        (partial(os.symlink, "/dev/zero"), "a device"),
        (link_to_itself, "none"),
        (make_socket, "none"),
        (lambda path: None, "none"),
    ],
)
def test_only_ordinary_files_are_opened(tmp_path, make, found, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    make("other")
    with pytest.raises(FileNotFoundError, match=f"^Expected codes, got {found} at `.*other`"):
        open_file(tmp_path / "other", "codes")


def test_a_name_that_no_file_has(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected codes, got none"):
        open_file(f"{tmp_path}/\0", "codes")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"^Expected codes, got none"):
        open_file(tmp_path / "file" / "other", "codes")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "file").touch(0o200)
    with pytest.raises(PermissionError, match="file"):
        open_file(tmp_path / "file", "codes")
