"""What tells that a file of an image is the same, and which codes of contents are known."""

import os
from types import SimpleNamespace

import pytest

from pml_hashing.collection import files
from pml_hashing.collection.encoded import CodesInMemory, Encoded
from pml_hashing.collection.files import NEVER, Content, FileState, read_state_and_bytes, states_of

SECOND = 10**9


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.png").write_bytes(b"image")
    return tmp_path / "a.png"


def test_what_has_no_time_is_never_the_same():
    settled, unsettled = FileState(5, 7, 8, 9), FileState(5, NEVER, 8, 9)
    assert settled.is_same(FileState(5, 7, 8, 9))
    assert not unsettled.is_same(unsettled)


def test_any_change_a_moment_ago_takes_the_time(path, monkeypatch):
    os.utime(path, (1, 1))  # also that of the time itself
    assert FileState.of(path).mtime_ns == NEVER
    monkeypatch.setattr(files, "UNSETTLED_NS", 0)
    assert FileState.of(path)[:2] == (5, SECOND)


def test_the_clock_is_read_before_the_files(monkeypatch):
    """The second is changed while the first is looked at, on a slow disk."""
    clock = [100 * SECOND]

    def look_slowly(_):
        clock[0] += 10 * SECOND
        return 5, clock[0], clock[0], 9

    monkeypatch.setattr(files, "_state_of", look_slowly)
    monkeypatch.setattr(files.time, "time_ns", lambda: clock[0])
    assert states_of(["a", "b"])[:, 1].tolist() == [NEVER] * 2


def test_files_that_are_not_there_and_none_at_all(path):
    nowhere = [0, NEVER, 0, 0]
    states = states_of([str(path), str(path) + "x", "a\0b"])
    assert states[1:].tolist() == [nowhere] * 2
    assert states_of([]).shape == (0, 4)


def test_two_files_of_one_size_and_time_are_told_apart(path, monkeypatch):
    other = path.with_name("b.png")
    other.write_bytes(b"IMAGE")
    assert FileState.of(path).inode != FileState.of(other).inode
    found = {"st_size": 5, "st_mtime_ns": 1, "st_ctime_ns": 1, "st_ino": 2**64 - 1}
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "stat", lambda _: SimpleNamespace(**found))
        state = FileState.of("of Windows, where it has 64 bits")
    assert state.inode == 2**63 - 1


def test_what_changes_while_it_is_read_is_read_again(path, monkeypatch):
    def read_and_change(path, _):
        path.write_bytes(b"another")
        return b"image"

    monkeypatch.setattr(files, "UNSETTLED_NS", 0)
    monkeypatch.setattr(files, "read_bytes", read_and_change)
    state, content = read_state_and_bytes(path, None)
    assert content == b"image"
    assert not state.is_same(FileState.of(path))


def test_codes_in_memory():
    first, second = (
        Encoded(Content(digest, size, 1, 1), b"x") for digest, size in ((b"a", 3), (b"b", 5))
    )
    codes = CodesInMemory([first])
    codes.add([second])
    assert list(codes) == [first, second]
    assert [digest in codes for digest in (b"a", b"b", b"c")] == [True, True, False]
    assert codes.sizes_among([3, 4, 5]) == {3, 5}
    assert codes.known([b"b", b"c"]) == {b"b": second}
