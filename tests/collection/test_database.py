"""A collection in a database: what it has beyond one in a folder, and what is refused."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import all_of, fresh_codes, held_codes, make_model, save, states_of
from processes import run_script

pytest.importorskip("clickhouse_connect", reason="the extra [clickhouse] is not installed")
pytest.importorskip("chdb", reason="the extra [clickhouse] is not installed")

from pml_hashing import Collection, HashingModel
from pml_hashing.collection import lease
from pml_hashing.collection.database_draft import DatabaseDraft
from pml_hashing.collection.database_journal import DatabaseJournal
from pml_hashing.collection.database_storage import DatabaseStorage
from pml_hashing.search import ClickHouseStore
from pml_hashing.search._clickhouse_client import Connection

QUIET = {"progress": False}
KILLS = 5


def test_the_same_as_in_a_folder(database, tmp_path, folder, model):
    both = [database.create(model), Collection.create(tmp_path / "codes", model)]
    steps = [
        {"labels": "folders"},
        {"labels": {"1.png": {"price": 2.5, "label": "a|b"}, "3.png": "b"}},
        {"labels": {"hat/0.png": {"price": 7.0}}},
        {"labels": "keep"},
        {"labels": "folders"},
    ]
    for number, options in enumerate(steps):
        save(folder / f"new{number}.png", 50 + number // 2)  # some are copies
        if number == 2:
            (folder / "1.png").rename(folder / "00.png")
            (folder / "hat" / "bad.png").write_bytes(b"no image")
        reports = [vars(photos.sync(folder, **options, **QUIET)) for photos in both]
        for report in reports:
            report["unreadable"] = list(map(str, report["unreadable"]))
        assert reports[0] == reports[1]
        assert all_of(both[0]) == all_of(both[1])
        assert all_of(database.open()) == all_of(both[1])
        assert both[0].generation == both[1].generation


NAMES = ["1.png", "3.png", "5.png", "hat/0.png", "hat/2.png", "hat/4.png"]
GIVEN = {
    "a value that is none": [[float("nan")], [2**63], [Decimal("1.5")], [date(2026, 1, 1)], [b"x"]],
    "of numpy and torch": [[np.int64(3)], [torch.tensor(4)], [np.float32(0.5), np.int64(1)]],
    "floats after integers": [[1, 2], [1.5], [None, 3]],
    "floats among integers": [[1, 2.5, None, 4]],
    "other types after all": [list("abcdef"), [1], list(range(6)), [0.5] * 6, [True] * 6],
    "several types": [[1, "a"], [True, 1], ["a", 1.5]],
    "extremes": [[-(2**63), 2**63 - 1], [float("inf"), 0.0]],
    "texts": [["", "a\0b", "'; --", "{x:String}", "\udce9", "😀"], [None]],
    "no value": [[None] * 6, [None, 1]],
}


@pytest.mark.parametrize("steps", GIVEN.values(), ids=GIVEN)
def test_the_same_values_and_errors_as_in_a_folder(database, tmp_path, folder, model, steps):
    both = [database.create(model), Collection.create(tmp_path / "codes", model)]
    for values in steps:
        rows = {n: {"price": v, "a": "x"} for n, v in zip(NAMES, values, strict=False)}
        found = [_tried(photos.sync, folder, labels=rows, **QUIET) for photos in both]
        assert found[0] == found[1]
        if len(both[0]):
            assert all_of(both[0]) == all_of(both[1])
            assert list(both[0].columns) == list(both[1].columns) == ["a", "price"]
            assert list(both[0].counts("price")) == list(both[1].counts("price"))
    for asked in ({"start": -1}, {"start": 0, "count": -1}, {"start": 1.0}, {"start": 9}):
        found = [_tried(photos.names_from, **asked) for photos in both]
        assert found[0] == found[1]


def _tried(call, *arguments, **options):
    try:
        return call(*arguments, **options)
    except (TypeError, ValueError) as error:
        return type(error), str(error)


def test_a_column_whose_values_are_gone_has_no_type(database, folder, model):
    photos = database.create(model)
    photos.sync(folder, labels={"1.png": {"price": 2.5}}, **QUIET)
    (folder / "1.png").unlink()
    photos.sync(**QUIET)
    assert photos.columns == {"price": None}
    with pytest.raises(TypeError, match="Expected values of `price` of type float"):
        photos.sync(labels={"3.png": {"price": 2.5}, "5.png": {"price": "x"}}, **QUIET)
    assert photos.columns == {"price": None}


def test_only_what_changed_is_sent(database, folder, model, monkeypatch):
    photos, sent = database.create(model), []
    photos.sync(folder, **QUIET)
    add = DatabaseDraft.add

    def noted(self, images):
        sent.extend(images.names)
        add(self, images)

    monkeypatch.setattr(DatabaseDraft, "add", noted)
    monkeypatch.setattr("pml_hashing.collection.files.UNSETTLED_NS", 0)
    photos.sync(**QUIET)
    sent.clear()
    save(folder / "2.png", 77)
    photos.sync(**QUIET)
    assert sent == ["2.png"]


def test_a_search_reads_its_own_rows_only(database, folder, model, monkeypatch):
    photos, most, rows = database.create(model), [], Connection.rows
    photos.sync(folder, labels="folders", **QUIET)

    def counted(self, *args, **options):
        found = rows(self, *args, **options)
        most.append(found.num_rows)
        return found

    monkeypatch.setattr("pml_hashing.search._clickhouse_client.Connection.rows", counted)
    opened = database.open()
    asked = [sql for sql in most if sql > 2]
    assert max(asked, default=0) <= 40  # the columns of a table
    most.clear()
    assert len(opened.similar("1.png", 2)) == 2
    assert sum(number <= 3 for number in most) >= len(most) - 1


def test_what_is_refused(database, folder, model, tmp_path):
    photos = database.create(model)
    with pytest.raises(FileExistsError, match="Expected no collection at table 'collection"):
        database.create(model)
    with pytest.raises(FileNotFoundError, match="Expected a collection at table 'nothing'"):
        Collection.open(database.place, table="nothing")
    with pytest.raises(ValueError, match="`table` that does not end as"):
        Collection.open(database.place, table="a_state_1")
    with pytest.raises(ValueError, match="`table` of letters"):
        Collection.open(database.place, table="a; drop table b")
    with pytest.raises(ValueError, match="`table` with a database"):
        Collection.open(tmp_path, table="a")
    HashingModel("test_resnet", 16, img_size=32).save_pretrained(tmp_path / "other.model")
    with pytest.raises(ValueError, match=r"Expected the model that table 'coll.* other weights"):
        Collection.open(
            database.place, table=database.options["table"], model_folder=tmp_path / "other.model"
        )
    with pytest.raises(FileExistsError, match="`model_folder` to be new, empty or of this model"):
        Collection.create(
            database.place, model, table="another", model_folder=tmp_path / "other.model"
        )
    store = ClickHouseStore(database.place, "plain_store")
    store.prepare(16, with_vectors=False)
    with pytest.raises(FileExistsError, match="`table` of no other kind"):
        Collection.create(database.place, model, table="plain_store")
    store.clear()
    with pytest.raises(ValueError, match="`images` in the first sync of table 'collection"):
        photos.sync(**QUIET)


def test_one_writer(database, folder, model):
    photos, other = database.create(model), database.open()
    with DatabaseStorage(database.place, **database.options).writing(0):
        message = r"Expected table 'coll.* free to write within 0 .*, process \d+ of "
        with pytest.raises(TimeoutError, match=message):
            photos.sync(folder, **QUIET)
        waiting = threading.Thread(target=other.sync, args=(folder,), kwargs={"timeout": 60})
        waiting.start()
    waiting.join()
    assert len(other) == 6


def test_a_writer_of_a_process_that_is_gone(database, folder, model, monkeypatch):
    photos = database.create(model)
    monkeypatch.setattr(lease, "PROCESS", "another")
    lease.Lease(photos._storage._connection, database.options["table"], "")._taken()
    monkeypatch.undo()
    assert len(photos.sync(folder, **QUIET).added) == 6


def test_who_was_taken_for_dead_changes_nothing(database, folder, model, monkeypatch):
    photos, other, added = database.create(model), database.open(), []
    photos.sync(folder, **QUIET)
    save(folder / "x.png", 9)
    finish = DatabaseDraft.finish

    def late(self, count):
        finish(self, count)
        if not added:
            added.append(True)
            monkeypatch.setattr(lease, "PROCESS", "another")  # for which this one is dead
            save(folder / "y.png", 10)
            assert other.sync(**QUIET).added == ["x.png", "y.png"]

    monkeypatch.setattr(DatabaseDraft, "finish", late)
    with pytest.raises(TimeoutError, match="took over because this process was not heard of"):
        photos.sync(**QUIET)
    assert "y.png" not in photos
    assert photos.refresh()
    assert len(photos) == 8


@pytest.mark.parametrize("drops_draft", [False, True])
def test_who_was_taken_for_dead_makes_nothing_the_present_state(
    database, folder, model, drops_draft, monkeypatch
):
    """Another writer comes at the last moment, before the row that tells of the new state."""
    photos, beside = database.create(model), Connection.beside
    photos.sync(folder, **QUIET)
    before = held_codes(photos)
    save(folder / "x.png", 9)

    def late(self, rows, structure):
        if "manifest" not in rows.column_names:
            return beside(self, rows, structure)
        monkeypatch.setattr(Connection, "beside", beside)
        monkeypatch.setattr(lease, "PROCESS", "another")  # for which this one is dead
        drafts = set(states_of(photos)) - {photos._state.images}
        if not drops_draft:
            monkeypatch.setattr(DatabaseStorage, "_drop_others", lambda *_: None)
        with DatabaseStorage(database.place, **database.options).writing(0):
            assert drafts.isdisjoint(states_of(photos)) is drops_draft
        return beside(self, rows, structure)

    monkeypatch.setattr(Connection, "beside", late)
    with pytest.raises(TimeoutError, match="took over because this process was not heard of"):
        photos.sync(**QUIET)
    assert held_codes(database.open()) == before


STEPS = [
    (DatabaseDraft, "add"),
    (DatabaseDraft, "finish"),
    (DatabaseStorage, "_make_present"),
    (DatabaseStorage, "_state"),
    (DatabaseJournal, "remove"),
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_done", [False, True])
def test_stopped_at_every_step(database, folder, model, step, is_done, monkeypatch):
    photos = database.create(model)
    photos.sync(folder, **QUIET)
    before, (owner, name) = held_codes(photos), step
    (folder / "1.png").rename(folder / "x.png")
    save(folder / "new.png", 7)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    after, original = fresh_codes(model, folder, names), getattr(owner, name)

    def stop(*arguments):
        if is_done:
            original(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            photos.sync(**QUIET)
    is_committed = STEPS.index(step) > 2 or (is_done and name == "_make_present")
    assert held_codes(database.open()) == (after if is_committed else before)
    assert photos.sync(**QUIET).encoded == 0  # its code was kept
    assert held_codes(photos) == after
    assert len(states_of(photos)) == 2


def test_a_state_that_is_gone_is_read_anew(database, folder, model):
    photos, reader = database.create(model), database.open()
    photos.sync(folder, **QUIET)
    assert reader.refresh()
    for number in range(3):
        save(folder / f"new{number}.png", 90 + number)
        photos.sync(**QUIET)
    assert len(reader.similar("1.png", 20)) == 8
    assert all_of(reader) == all_of(photos)
    assert len(states_of(photos)) == 2


KILLED = """
import os, signal, sys
from pml_hashing import Collection
from pml_hashing.collection import lease
from pml_hashing.collection.database_draft import DatabaseDraft
lease.LEASE_SECONDS = 1.0
photos = Collection.open(sys.argv[1], model_folder=sys.argv[2])
DatabaseDraft.finish = lambda self, count: os.kill(os.getpid(), signal.SIGKILL)
photos.sync(sys.argv[3], progress=False)
"""


def test_the_draft_of_a_killed_sync(bridge, tmp_path, folder, model, monkeypatch):
    """Nobody minds it, and the next one that may write drops it, also if it changes nothing."""
    monkeypatch.setattr("pml_hashing.collection.files.UNSETTLED_NS", 0)
    dsn, where = bridge[0](), {"model_folder": tmp_path / "photos.model"}
    photos, script = Collection.create(dsn, model, **where), tmp_path / "killed.py"
    photos.sync(folder, **QUIET)
    before, names = held_codes(photos), states_of(photos)
    save(folder / "x.png", 9)
    script.write_text(KILLED)
    assert run_script(script, dsn, where["model_folder"], folder).returncode == -signal.SIGKILL
    assert len(states_of(photos)) == 2
    assert not photos.refresh()
    opened = Collection.open(dsn, **where)
    assert held_codes(opened) == before
    assert len(opened.similar("1.png", 9)) == 5
    with pytest.raises(FileExistsError, match="Expected no collection at"):
        Collection.create(dsn, model, **where)
    (folder / "x.png").unlink()
    assert photos.sync(timeout=60, **QUIET).unchanged == 6
    assert states_of(photos) == names


def test_over_the_network(bridge, tmp_path, folder, model):
    """Two clients share a collection; the server goes away and comes back."""
    start, stop = bridge
    dsn = start()
    with pytest.raises(ValueError, match="Expected `model_folder`"):
        Collection.create(dsn, model)
    where = {"model_folder": tmp_path / "photos.model"}
    photos = Collection.create(dsn, model, **where)
    reader = Collection.open(dsn, **where)
    photos.sync(folder, labels="folders", **QUIET)
    assert (len(reader), reader.refresh(), len(reader)) == (0, True, 6)
    save(folder / "new.png", 8)
    assert photos.sync(**QUIET).added == ["new.png"]
    reader.refresh()
    beside = Collection.create(tmp_path / "codes", model)
    beside.sync(folder, labels="folders", **QUIET)
    assert all_of(reader) == all_of(photos) == all_of(beside)
    stop()
    for use in (reader.refresh, lambda: reader.similar("1.png"), photos.sync):
        with pytest.raises(ConnectionError, match="server that answers at") as error:
            use()
        assert "secret" not in str(error.value)
    start()
    assert all_of(reader) == all_of(beside)
    assert photos.sync(**QUIET).unchanged == 7
    assert "secret" not in repr(photos) + photos.place


SYNC = """
import sys
from pml_hashing import Collection
from pml_hashing.collection import lease
lease.LEASE_SECONDS = float(sys.argv[4])
photos = Collection.open(sys.argv[1], model_folder=sys.argv[2])
print("open", flush=True)
photos.sync(sys.argv[3], batch_size=2, timeout=60, progress=False)
"""


@pytest.mark.parametrize("engine_of", ["server", "chdb"])
@pytest.mark.slow
def test_killed_syncs_lose_nothing(request, tmp_path, folder, model, engine_of):
    """Each reader sees the state before or after, and the next sync ends in the right one."""
    rng, where = random.Random(0), tmp_path / "photos.model"
    server = engine_of == "server"
    dsn = request.getfixturevalue("bridge")[0]() if server else f"chdb://{tmp_path / 'own'}"
    run = [sys.executable, "-c", MAKE, dsn, str(where), str(folder)]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": f"{root}:{Path(__file__).parent}"}
    make_model().save_pretrained(where)
    states = [None]
    said = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    states.append(said)
    for number in range(KILLS):
        for place in range(4):
            save(folder / f"n{number}_{place}.png", 1000 + 10 * number + place)
        process = subprocess.Popen(
            [sys.executable, "-c", SYNC, dsn, str(where), str(folder), "3"],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout.readline() == "open\n"
        time.sleep(rng.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        read = [sys.executable, "-c", READ, dsn, str(where), str(folder)]
        seen = subprocess.run(read, env=environment, capture_output=True, text=True, check=True)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
        after = repr(sorted(fresh_codes(model, folder, names).items()))
        assert seen.stdout.strip() in (states[-1].strip(), after)
        said = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == after
        states.append(said.stdout)


READ = """
import sys
from pictures import held_codes
from pml_hashing import Collection
photos = Collection.open(sys.argv[1], model_folder=sys.argv[2])
print(repr(sorted(held_codes(photos).items())))
"""

MAKE = """
import sys
from pictures import held_codes
from pml_hashing import Collection, HashingModel
try:
    photos = Collection.open(sys.argv[1], model_folder=sys.argv[2])
except FileNotFoundError:
    model = HashingModel.from_pretrained(sys.argv[2])
    photos = Collection.create(sys.argv[1], model, model_folder=sys.argv[2])
photos.sync(sys.argv[3], timeout=60, progress=False)
print(repr(sorted(held_codes(photos).items())))
"""
