"""Whatever is cut from or changed in half-written files, the finished one is the same."""

import json
import os
import sys
import zlib

import numpy as np
import pytest
import torch

from pml_hashing._tensor_files import write_tensors
from pml_hashing.code_file import read_code_file
from pml_hashing.code_writer import CodesOf, CodeWriter, check_item_ids, read_finished
from pml_hashing.datasets import UnreadableImageError

CODES_OF = CodesOf(code_length=12, num_items=9, model="abc")


def batch_of(start):
    """Return two of nine items: codes, how many, and the fourth item as unreadable."""
    places = list(range(start, min(start + 2, 9)))
    codes = torch.tensor([[7 * i, i] for i in places if i != 3], dtype=torch.uint8).view(-1, 2)
    unreadable = [UnreadableImageError("no image", path="3.jpg", index=3)] if 3 in places else []
    return codes, len(places), unreadable


def write(path, *, until=9):
    """Write up to an item, or finish; return where it began."""
    with CodeWriter(path, CODES_OF) as writer:
        begin = writer.num_done
        while writer.num_done < until:
            writer.append(*batch_of(writer.num_done))
        if until == 9:
            writer.finish()
    return begin


@pytest.fixture
def whole(tmp_path):
    write(tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


@pytest.fixture
def stopped(tmp_path):
    """Return the files of an encoding that was stopped after six items, by name."""
    write(tmp_path / "stopped", until=6)
    return {path.suffix: (path, path.read_bytes()) for path in sorted(tmp_path.glob("stopped.*"))}


def test_what_is_read_is_what_was_written(tmp_path, whole):
    codes, (unreadable,) = read_finished(tmp_path / "whole", CODES_OF)
    assert codes.tolist() == [[7 * i, i] for i in range(9) if i != 3]
    assert (unreadable.path, unreadable.index, str(unreadable)) == ("3.jpg", 3, "no image")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert b"packed_codes" in whole


def restore(stopped):
    for path, content in stopped.values():
        path.write_bytes(content)


@pytest.mark.parametrize("suffix", [".partial", ".progress"])
def test_cut_files_are_continued(suffix, stopped, whole, tmp_path):
    begins = set()
    path, content = stopped[suffix]
    sizes = range(len(content)) if suffix == ".progress" else [0, 9, *range(4090, len(content))]
    for size in sizes[:: 3 if suffix == ".progress" else 1]:
        restore(stopped)
        path.write_bytes(content[:size])
        begins.add(write(tmp_path / "stopped"))
        assert (tmp_path / "stopped").read_bytes() == whole
        assert not path.exists()
        (tmp_path / "stopped").unlink()
    assert begins >= {0, 2, 4}
    assert 6 not in begins


def test_changed_codes_are_written_again(stopped, whole, tmp_path):
    path, content = stopped[".partial"]
    begins = []
    for place in range(4096, len(content)):
        restore(stopped)
        changed = bytearray(content)
        changed[place] ^= 16
        path.write_bytes(changed)
        begins.append(write(tmp_path / "stopped"))
        assert (tmp_path / "stopped").read_bytes() == whole
        (tmp_path / "stopped").unlink()
    assert begins == [0] * 4 + [2] * 2 + [4] * 4


def test_changed_progress_is_made_again_or_refused(stopped, whole, tmp_path):
    path, content = stopped[".progress"]
    first = content.index(b"\n")
    for place in {*range(0, len(content), 7), first, first + 1, len(content) - 1}:
        restore(stopped)
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        if place <= first:
            with pytest.raises(ValueError, match=r"`.*stopped\.progress` to be begun for CodesOf"):
                write(tmp_path / "stopped")
            assert path.read_bytes() == changed
        else:
            assert write(tmp_path / "stopped") in {0, 2, 4}
            assert (tmp_path / "stopped").read_bytes() == whole
            (tmp_path / "stopped").unlink()


def test_killed_while_finishing(stopped, whole, tmp_path):
    path, content = stopped[".partial"]
    # The rest of the codes and the other tensors are there, and half of the header.
    path.write_bytes(whole[:50] + content[50:] + b"more")
    assert write(tmp_path / "stopped") == 6
    assert (tmp_path / "stopped").read_bytes() == whole


def test_changed_finished_files_are_refused(whole, tmp_path):
    for place in range(0, 4096, 37):
        changed = bytearray(whole)
        changed[place] ^= 1
        (tmp_path / f"changed at {place}").write_bytes(changed)
        with pytest.raises(ValueError, match=rf"file.*changed at {place}\b"):
            read_finished(tmp_path / f"changed at {place}", CODES_OF)


FORGED = {
    "no rows": {"rows": None},
    "rows of text": {"rows": "6"},
    "half a row": {"rows": 6.0},
    "fewer rows": {"rows": 4},
    "more rows": {"rows": 9},
    "rows gone": {"rows": -1},
    "fewer items": {"items": 5},
    "no new items": {"items": 6, "rows": 5},
    "more items than there are": {"items": 10, "rows": 9},
    "one item more than there are": {"items": 10, "rows": 8},
    "very many": {"items": 2**70, "rows": 2**70 - 1},
    "unreadable before": {"rows": 6, "unreadable": [["no image", "0.jpg", 0]]},
    "unreadable behind": {"rows": 6, "unreadable": [["no image", "8.jpg", 8]]},
    "unreadable twice": {"rows": 5, "unreadable": [["no", "6.jpg", 6]] * 2},
    "unreadable in disorder": {"rows": 5, "unreadable": [["", "", 7], ["", "", 6]]},
    "unreadable of another kind": {"rows": 6, "unreadable": [["no image", 3, 6]]},
    "unreadable without words": {"rows": 6, "unreadable": [[3, "6.jpg", 6]]},
    "unreadable at no place": {"rows": 6, "unreadable": [["no image", "6.jpg", "6"]]},
    "unreadable of too few": {"rows": 6, "unreadable": [["no image", "6.jpg"]]},
    "nothing unreadable": {"unreadable": None},
}


def lines_of(content, change):
    """Return the lines of a progress, the last changed and its checksum right."""
    *before, last = content.splitlines(keepends=True)
    record = json.loads(last.rpartition(b" ")[0]) if isinstance(change, dict) else None
    text = json.dumps(record | change).encode() if record else change
    return b"".join([*before, b"%s %08x\n" % (text, zlib.crc32(text))])


@pytest.mark.parametrize(
    "change",
    [*FORGED.values(), b"no json", b"3", b"[3]", b"[" * 100_000],
    ids=[*FORGED, "no json", "number", "list", "deep"],
)
def test_forged_progress_is_an_error(change, tmp_path):
    """A line with its checksum that no writer writes: codes would belong to other items."""
    write(tmp_path / "stopped", until=8)
    path = tmp_path / "stopped.progress"
    path.write_bytes(lines_of(path.read_bytes(), change))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"`.*stopped\.progress` to hold lines that .*delete it"):
        write(tmp_path / "stopped")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_line_of_a_stream_may_claim_any_number_of_items(tmp_path):
    """The codes are not there: it is passed over, as one whose codes were lost."""
    path, stream = tmp_path / "stopped.progress", CODES_OF._replace(num_items=None)
    with CodeWriter(tmp_path / "stopped", stream) as writer:
        writer.append(*batch_of(0))
    path.write_bytes(lines_of(path.read_bytes(), {"items": 2**70, "rows": 2**70}))
    with CodeWriter(tmp_path / "stopped", stream) as writer:
        assert writer.num_done == 0


@pytest.mark.parametrize("content", [b"no json", b"[3]"])
def test_a_forged_first_line_is_an_error(content, stopped, tmp_path):
    path, _ = stopped[".progress"]
    path.write_bytes(b"%s %08x\n" % (content, zlib.crc32(content)))
    with pytest.raises(ValueError, match=r"progress` to be begun for CodesOf.*delete it"):
        write(tmp_path / "stopped")


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"items": 9, "rows": 8}])
def test_lines_for_other_codes_are_not_believed(change, tmp_path, whole):
    """The rows are as many as they should be, but not there, or others."""
    write(tmp_path / "stopped", until=8)
    path = tmp_path / "stopped.progress"
    path.write_bytes(lines_of(path.read_bytes(), change))
    assert write(tmp_path / "stopped") == 6
    assert (tmp_path / "stopped").read_bytes() == whole


def test_a_second_writer_is_refused_at_once_and_destroys_nothing(tmp_path, whole):
    path, writer = tmp_path / "codes", CodeWriter(tmp_path / "codes", CODES_OF)
    (tmp_path / "link").symlink_to("codes")
    with writer:
        while writer.num_done < 9:
            for name in (path, f"{tmp_path}/./codes", tmp_path / "link"):
                with pytest.raises(ValueError, match=r"nothing else encodes to, got .*, to which"):
                    CodeWriter(name, CODES_OF)
            writer.append(*batch_of(writer.num_done))
        writer.finish()
    assert path.read_bytes() == whole
    with CodeWriter(path, CODES_OF) as other:  # who is late begins anew, beside what is finished
        other.append(*batch_of(0))
    assert path.read_bytes() == whole
    assert len(read_finished(path, CODES_OF)[0]) == 8


def test_a_writer_that_is_refused_can_follow(tmp_path, whole):
    other = CODES_OF._replace(model="another")
    write(tmp_path / "codes", until=4)
    with pytest.raises(ValueError, match="to be begun for"):
        CodeWriter(tmp_path / "codes", other)
    assert write(tmp_path / "codes") == 4
    assert (tmp_path / "codes").read_bytes() == whole


def test_a_link_stays_and_its_file_is_written(tmp_path, whole):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/codes")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "codes").read_bytes() == whole
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["codes"]


@pytest.mark.parametrize("suffix", ["", ".partial", ".progress"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_an_error_and_not_waited_for(tmp_path, suffix, make):
    make(tmp_path / f"codes{suffix}")
    with pytest.raises(OSError, match=f"codes{suffix}"):
        read_finished(tmp_path / "codes", CODES_OF) if not suffix else write(tmp_path / "codes")


def test_a_finished_file_of_fewer_items_is_refused(tmp_path, whole):
    tensors, metadata = read_code_file(tmp_path / "whole")
    del tensors["unreadable"]
    write_tensors(tmp_path / "changed", tensors, metadata)
    with pytest.raises(ValueError, match=r"changed`: it is of 8 items, not 9"):
        read_finished(tmp_path / "changed", CODES_OF)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder cannot be opened there")
def test_file_and_folder_reach_the_disk_before_the_progress_is_gone(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def record(descriptor):
        names = sorted(path.name for path in tmp_path.iterdir())
        synced.append((os.fstat(descriptor).st_ino, names))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write(tmp_path / "codes")
    assert synced == [
        ((tmp_path / "codes").stat().st_ino, ["codes.partial", "codes.progress"]),
        (tmp_path.stat().st_ino, ["codes", "codes.progress"]),
    ]


@pytest.fixture
def limited():
    """Let files have so many bytes and no more, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 50, 300, 4097, 4103, 4111])
def test_a_full_disk_loses_nothing(size, whole, tmp_path, limited):
    limited(size)
    with pytest.raises(OSError, match=rf"File too large: '{tmp_path}/stopped'"):
        write(tmp_path / "stopped")
    limited(-1)
    assert write(tmp_path / "stopped") == {4103: 4, 4111: 8}.get(size, 0)
    assert (tmp_path / "stopped").read_bytes() == whole


@pytest.mark.parametrize("content", [b"no json", b"3", b"[3]", b"[[1, 2]]", b"[" * 100_000])
def test_unreadable_items_that_nobody_wrote(content, whole, tmp_path):
    tensors, metadata = read_code_file(tmp_path / "whole")
    tensors["unreadable"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    write_tensors(tmp_path / "changed", tensors, metadata)
    with pytest.raises(ValueError, match=r"a whole file that HashingModel.encode wrote, .*changed"):
        read_finished(tmp_path / "changed", CODES_OF)


def test_nothing_to_finish(tmp_path):
    with CodeWriter(tmp_path / "codes", CODES_OF) as writer:
        writer.append(torch.empty(0, 2, dtype=torch.uint8), 1, batch_of(3)[2])
        with pytest.raises(ValueError, match="one readable item, got 1 unreadable ones"):
            writer.finish()


def test_times_are_no_ids():
    """In nanoseconds numpy makes integers of them."""
    with pytest.raises(TypeError, match=r"strings or integers, got .*datetime64"):
        check_item_ids(np.array([1, 2], "datetime64[ns]"), 2)
    assert check_item_ids(np.array([1, 2]), 2) == [1, 2]
