"""A collection and several processes: killed ones, and one that writes while another does."""

import errno
import re
import sys
import threading
import zlib
from pathlib import Path

import pytest
import torch
from pictures import fresh_codes, held_codes, save
from processes import CONTEXT, run_script

from pml_hashing import Collection
from pml_hashing._files import to_line
from pml_hashing.collection import folder_storage
from pml_hashing.collection.folder_journal import FolderJournal as Journal

FORKS = pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
QUIET = {"progress": False}


@pytest.fixture
def folder(tmp_path):
    for seed in range(6):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    return tmp_path / "photos"


def run_kills(folder, kills):
    script = Path(__file__).with_name("killed_sync.py")
    done = run_script(script, folder, kills)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in re.findall(r"\d+", done.stdout)]


@FORKS
def test_killed_syncs_lose_nothing(tmp_path):
    assert run_kills(tmp_path, 15)[0] == 15


@FORKS
@pytest.mark.slow
def test_many_killed_syncs_lose_nothing(tmp_path):
    kills, _, resumed = run_kills(tmp_path, 300)
    assert kills == 300
    assert resumed > 0  # of few kills, none may come between two batches


STEPS = ["commit", "Files.write", "HammingKNN.save", "write_manifest", "Journal.remove"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_done", [False, True])
def test_stopped_at_every_step_of_a_commit(tmp_path, folder, model, step, is_done, monkeypatch):
    photos = Collection.create(tmp_path / "codes", model)
    photos.sync(folder, **QUIET)
    before = held_codes(photos)
    (folder / "0.png").rename(folder / "x")
    (folder / "1.png").rename(folder / "0.png")
    (folder / "x").rename(folder / "1.png")
    save(folder / "new.png", 7)
    after = fresh_codes(model, folder, sorted(path.name for path in folder.iterdir()))

    def stop(*arguments, **options):
        if is_done:
            original(*arguments, **options)
        raise KeyboardInterrupt

    owners = {
        "commit": (folder_storage.FolderStorage, "commit"),
        "Files.write": (folder_storage.Files, "write"),
        "HammingKNN.save": (folder_storage.HammingKNN, "save"),
        "write_manifest": (folder_storage, "write_manifest"),
        "Journal.remove": (Journal, "remove"),
    }
    owner, name = owners[step]
    original = getattr(owner, name)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            photos.sync(**QUIET)
    is_committed = step == "Journal.remove" or (is_done and step in {"commit", "write_manifest"})
    opened = Collection.open(photos.folder)
    assert held_codes(opened) == (after if is_committed else before)
    for each in (opened, photos):
        assert each.sync(**QUIET).encoded == 0  # its code was kept
        assert held_codes(each) == after
    assert sorted(path.name for path in photos.folder.iterdir())[1:] == [
        f"codes-{photos.generation}.safetensors",
        "collection.json",
        f"files-{photos.generation}.safetensors",
        "model",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders there")
@pytest.mark.parametrize("name", ["collection.json", "codes-2.safetensors", "files-2.safetensors"])
def test_what_a_kill_left_is_removed_where_nothing_has_changed(tmp_path, folder, model, name):
    photos = Collection.create(tmp_path / "codes", model)
    photos.sync(folder, **QUIET)
    assert photos.generation == 1
    before = sorted(photos.folder.iterdir())
    (photos.folder / f".{name}.ab12cd34.unfinished").mkdir()  # by a commit, or just after it
    assert photos.sync(**QUIET).encoded == 0
    assert sorted(photos.folder.iterdir()) == before


def test_an_interrupted_encoding_is_continued(tmp_path, folder, model, monkeypatch):
    photos = Collection.create(tmp_path / "codes", model)
    append = Journal.append
    calls = []

    def stop(self, encoded):
        append(self, encoded)
        calls.append(encoded)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            photos.sync(folder, batch_size=2, **QUIET)
    assert len(Collection.open(photos.folder)) == 0
    (folder / "0.png").rename(folder / "9.png")  # what was encoded is known by its content
    journal = photos.folder / "encoded.journal"
    content = journal.read_bytes()
    journal.write_bytes(content[:-3])  # a line that is cut, as by a power failure
    assert photos.sync(folder, **QUIET).encoded == 3
    names = sorted(path.name for path in folder.iterdir())
    assert held_codes(photos) == fresh_codes(model, folder, names)


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path, folder, model):
    photos = Collection.create(tmp_path / "codes", model)
    resource = pytest.importorskip("resource")  # which Windows has not
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError, match=r"encoded\.journal") as caught:
            photos.sync(folder, **QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert not torch.is_inference_mode_enabled()  # while the error holds what was under way
    photos.sync(folder, **QUIET)
    assert len(photos) == 6


def test_a_journal_of_another_model_is_left_aside(tmp_path, folder, model):
    photos = Collection.create(tmp_path / "codes", model)
    (photos.folder / "encoded.journal").write_bytes(b'{"model": "another"} 00000000\nrest\n')
    assert photos.sync(folder, **QUIET).encoded == 6
    assert not (photos.folder / "encoded.journal").exists()


RECORD = {"size": 3, "width": 2, "height": 1, "digest": "ab" * 32, "code": "ab" * 2}
MADE_UP = [
    {},
    [],
    3,
    RECORD | {"code": "no hex"},
    RECORD | {"code": "ab"},
    RECORD | {"digest": "ab"},
    RECORD | {"digest": 3},
    RECORD | {"size": -1},
    RECORD | {"width": 2.5},
    RECORD | {"height": True},
    RECORD | {"more": 1},
]


def test_a_made_up_line_of_a_journal_is_told(tmp_path):
    path = tmp_path / "encoded.journal"
    first = to_line({"model": "this"})
    path.write_bytes(first + to_line(RECORD))
    journal = Journal(path, "this", 2)
    (known,) = journal.known([bytes.fromhex(RECORD["digest"])]).values()
    assert (known.code, known.content[1:]) == (b"\xab\xab", (3, 2, 1))
    deep = b"[" * 10**5
    for line in [*map(to_line, MADE_UP), b"%s %08x\n" % (deep, zlib.crc32(deep))]:
        path.write_bytes(first + line)
        message = r"encoded\.journal` to hold lines that Collection.sync wrote, got .*: delete it"
        with pytest.raises(ValueError, match=message):
            Journal(path, "this", 2).known([])
        with pytest.raises(ValueError, match=message):
            Journal(path, "this", 2).__enter__()
        assert path.read_bytes() == first + line


SYNC = """
import torch
from pml_hashing import Collection
torch.set_num_threads(1)
photos = Collection.open(place)
pipe.send("open")
timeout = pipe.recv()
try:
    pipe.send(str(photos.sync(folder, timeout=timeout, progress=False)))
except TimeoutError as error:
    pipe.send(str(error))
"""


def start(photos, folder):
    """Return a pipe to a process that has opened a collection, and the process."""
    pipe, far = CONTEXT.Pipe()
    given = {"place": photos.folder, "folder": folder, "pipe": far}
    process = CONTEXT.Process(target=exec, args=(SYNC, given))
    process.start()
    assert told_by(pipe) == "open"
    return pipe, process


def told_by(pipe):
    assert pipe.poll(60)
    return pipe.recv()


def test_a_second_process_is_refused_or_waits(tmp_path, folder, model, monkeypatch):
    photos = Collection.create(tmp_path / "codes", model)
    (refused, _), (waiting, process) = (start(photos, folder) for _ in range(2))
    outcomes = []
    append = Journal.append

    def append_while_others_come(self, encoded):
        if not outcomes:
            refused.send(0)
            outcomes.append(told_by(refused))
            waiting.send(60)
        append(self, encoded)

    monkeypatch.setattr(Journal, "append", append_while_others_come)
    assert photos.sync(folder, **QUIET).encoded == 6
    assert f"Expected {photos.folder} free to write" in outcomes[0]
    assert "6 unchanged, 0 encoded" in told_by(waiting)
    process.join(60)
    assert process.exitcode == 0


def test_another_process_is_followed(tmp_path, folder, model):
    photos = Collection.create(tmp_path / "codes", model)
    reader = Collection.open(photos.folder)
    photos.sync(folder, **QUIET)
    assert len(reader) == 0
    assert reader.refresh()
    assert held_codes(reader) == held_codes(photos)
    assert not reader.refresh()
    save(folder / "new.png", 9)
    reader.sync(**QUIET)  # goes on from what the other one wrote
    (folder / "0.png").unlink()
    assert photos.sync(**QUIET).removed == ["0.png"]
    assert "new.png" in photos


def test_threads_search_while_one_syncs(tmp_path, folder, model):
    photos = Collection.create(tmp_path / "codes", model)
    photos.sync(folder, **QUIET)
    states, failures, stopped = [], [], threading.Event()
    torch.set_num_threads(1)

    def look():
        while not stopped.is_set():
            try:
                found = photos.similar("0.png", k=50)
                states.append(len(found))
                assert len({match.name for match in found}) == len(found)
            except Exception as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(5):
        for place in range(3):
            save(folder / f"{number}_{place}.png", 100 + 10 * number + place)
        photos.sync(**QUIET)
    stopped.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(states) <= {5 + 3 * number for number in range(6)}
