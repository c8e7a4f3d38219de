"""Whatever is cut from or changed in half-written files, the finished one is the same."""

import errno

import pytest
import torch

from pml_hashing._tensor_files import write_tensors
from pml_hashing.code_file import read_code_file
from pml_hashing.code_writer import CodesOf, CodeWriter, read_finished
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


@pytest.mark.parametrize("place", range(0, 4096, 37))
def test_changed_finished_files_are_refused_or_the_same(place, whole, tmp_path):
    changed = bytearray(whole)
    changed[place] ^= 1
    (tmp_path / "changed").write_bytes(changed)
    with pytest.raises(ValueError, match=r"file"):
        read_finished(tmp_path / "changed", CODES_OF)


def test_a_full_disk_loses_nothing(stopped, whole, tmp_path, monkeypatch):
    writer = CodeWriter(tmp_path / "stopped", CODES_OF)

    class Full:
        def write(self, content):
            codes.write(content[:1])
            codes.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            codes.close()

    with writer:
        codes = writer._codes
        monkeypatch.setattr(writer, "_codes", Full())
        with pytest.raises(OSError, match="No space left"):
            writer.append(*batch_of(6))
    assert write(tmp_path / "stopped") == 6
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
