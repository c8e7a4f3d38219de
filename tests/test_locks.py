"""A file has one holder, whatever process or thread it is, and a dead one holds nothing."""

import errno
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from pml_hashing import _locks
from pml_hashing._locks import LockedError, locked_file, remove

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")

HOLD = """
import sys, time
from pathlib import Path
from pml_hashing._locks import locked_file
with locked_file(Path(sys.argv[1])) as file:
    file.write(b"mine")
    print("held", flush=True)
    time.sleep(60)
"""


def is_locked(path):
    try:
        with locked_file(path):
            return False
    except LockedError:
        return True


def test_another_process_is_kept_out_until_it_dies(tmp_path):
    path = tmp_path / "file"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(path)
        holder.kill()
    assert not is_locked(path)
    assert path.read_bytes() == b"mine"


def test_a_thread_is_kept_out_and_takes_no_lock_away(tmp_path):
    path, seen = tmp_path / "file", []
    (tmp_path / "link").symlink_to(path)
    with locked_file(path):
        for other in (path, tmp_path / "link"):
            thread = threading.Thread(target=lambda name=other: seen.append(is_locked(name)))
            thread.start()
            thread.join()
        code = HOLD.split("with", maxsplit=1)[0] + f"with locked_file(Path({str(path)!r})): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert b"LockedError" in done.stderr
    assert seen == [True, True]
    assert not is_locked(path)


class Slow(dict):
    """A table that another thread can change while it is looked up."""

    def get(self, key):
        found = super().get(key)
        time.sleep(0.05)
        return found


def test_of_two_threads_that_ask_at_once_one_is_kept_out(tmp_path, monkeypatch):
    monkeypatch.setattr(_locks, "_held", Slow())
    asked, seen = threading.Barrier(2), []

    def hold():
        try:
            with locked_file(tmp_path / "file"):
                asked.wait(60)
                seen.append("held")
        except LockedError:
            asked.wait(60)
            seen.append("kept out")

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == ["held", "kept out"]


def lock_later(event, path):
    event.wait(60)
    sys.exit(is_locked(path))


def test_a_fork_does_not_hold_what_its_parent_held(tmp_path):
    context = multiprocessing.get_context("fork")
    event, path = context.Event(), tmp_path / "file"
    with locked_file(path):
        child = context.Process(target=lock_later, args=(event, path))
        child.start()
    assert not is_locked(path)
    event.set()
    child.join()
    assert child.exitcode == 0  # nor does it take the file for its own


def test_an_error_unlocks(tmp_path):
    def fail():
        with locked_file(tmp_path / "file"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not is_locked(tmp_path / "file")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_locks.fcntl, "lockf", fail)
    with locked_file(tmp_path / "file"):
        assert is_locked(tmp_path / "file")  # by this process


def test_a_file_that_its_holder_just_removed_is_made_anew(tmp_path, monkeypatch):
    lock, path, removed = _locks.fcntl.lockf, tmp_path / "file", []

    def remove_first(file, operation):
        if not removed:
            path.unlink()
            removed.append(1)
        lock(file, operation)

    monkeypatch.setattr(_locks.fcntl, "lockf", remove_first)
    with locked_file(path) as file:
        assert os.path.samestat(os.fstat(file.fileno()), path.stat())
        remove(file, path)
        remove(file, path)  # as somebody else may have
    assert removed
    assert not path.exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_locked(tmp_path, make):
    make(tmp_path / "other")
    with pytest.raises(OSError, match="other"), locked_file(tmp_path / "other"):
        pass
