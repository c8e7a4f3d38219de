"""What a store in ClickHouse does beyond what all stores do."""

import os
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path
from signal import SIGKILL

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.search import HNSW, HammingKNN

pytest.importorskip("clickhouse_connect", reason="the extra [clickhouse] is not installed")
pytest.importorskip("chdb", reason="the extra [clickhouse] is not installed")

from pml_hashing.search import (
    ClickHouseStore,
    _clickhouse_search,
)
from pml_hashing.search._clickhouse_client import Connection
from pml_hashing.search._clickhouse_rows import next_version, to_ids

NAMES = ["a'b", 'a"b', "a\\b", "a\nb", "a\tb", "nul\0", "ä", "\udc80", "", "'; drop table x; --"]


@pytest.fixture
def statements(monkeypatch):
    """All queries that were sent."""
    sent, rows = [], Connection.rows

    def noted(self, sql, *args, **options):
        sent.append(sql)
        return rows(self, sql, *args, **options)

    monkeypatch.setattr(Connection, "rows", noted)
    return sent


def filled(codes, *knns, **columns):
    for knn in knns:
        knn.add(codes, **columns)


@pytest.mark.skipif(
    not os.environ.get("PML_HASHING_CLICKHOUSE"), reason="no PML_HASHING_CLICKHOUSE"
)
def test_a_server_takes_part(tables):
    store = tables["server"]()
    store.prepare(8, with_vectors=False)
    assert store.code_length == 8


def test_what_exists_is_opened_without_loading_it(make_clickhouse, statements):
    store, codes = make_clickhouse(), torch.randn(30, 12)
    first = HammingKNN(store=store)
    first.add(codes, [f"i{i}" for i in range(30)], label=[i % 3 for i in range(30)])
    first.remove(["i3"])
    first.update(["i4"], -codes[4:5])
    statements.clear()
    second = HammingKNN(store=make_clickhouse(store.table))
    assert not [sql for sql in statements if f"from {store.table}" in sql]
    assert (len(second), second.code_length, second.columns) == (29, 12, {"label": int})
    assert second.search(codes, 29)[1] == first.search(codes, 29)[1]
    second.add(codes[3:4], ["i3"], label=[0])
    assert first.search(codes[3:4], 30, where=None)[1] == second.search(codes[3:4], 30)[1]
    assert [id_ for batch in first.batches() for id_ in batch.ids][-1] == "i3"


def test_nothing_but_clear_drops_a_table(make_clickhouse):
    store, codes = make_clickhouse(), torch.randn(3, 12)
    knn = HammingKNN(store=store)
    knn.add(codes)
    for change in (lambda: knn.train(codes), lambda: store.prepare(16, with_vectors=False)):
        with pytest.raises(ValueError, match="Expected"):
            change()
    assert len(knn) == 3
    other = HammingKNN(store=make_clickhouse())
    other.train(codes[:2])
    store.clear()
    assert (len(knn), store.code_length, len(other)) == (0, None, 2)
    store.clear()


def test_an_empty_table_takes_codes_of_another_length(make_clickhouse):
    store = make_clickhouse()
    knn = HammingKNN(store=store)
    knn.add(torch.ones(2, 12), label=[1, 2])
    knn.remove([0, 1])
    knn.train(torch.ones(3, 20))
    assert (store.code_length, len(store), store.columns) == (20, 3, {})


@pytest.mark.parametrize("length", [1, 8, 9, 64, 65, 128, 129, 256, 257, 520, 2056])
def test_distances_of_any_length(make_clickhouse, length):
    knn, memory = HammingKNN(store=make_clickhouse()), HammingKNN()
    codes = torch.cat([torch.ones(1, length), -torch.ones(1, length), torch.randn(8, length)])
    filled(codes, knn, memory)
    for found, expected in zip(knn.search(codes, 10), memory.search(codes, 10), strict=True):
        assert torch.is_tensor(found) or found == expected
    assert_close(knn.search(codes, 10)[0], memory.search(codes, 10)[0])
    assert knn.range_search(codes, length)[1] == memory.range_search(codes, length)[1]


@pytest.mark.parametrize("rerank", [None, "asymmetric", "vectors"])
def test_large_tables_and_many_neighbours(make_clickhouse, monkeypatch, rerank):
    """A sample that bounds the distances, one scan for many queries, and one for each."""
    store, memory = make_clickhouse(), HammingKNN(rerank=rerank)
    knn = HammingKNN(store=store, rerank=rerank)
    codes = torch.randn(3000, 10)
    filled(codes, knn, memory, label=[i % 7 for i in range(3000)])
    monkeypatch.setattr(_clickhouse_search, "SAMPLED_FROM", 1)
    monkeypatch.setattr(_clickhouse_search, "SORTING_COST", 1)
    monkeypatch.setattr(_clickhouse_search, "MAX_QUERIES", 4)
    for limit in (1, 10**6):
        monkeypatch.setattr(_clickhouse_search, "MAX_SORTED", limit)
        for k, where in ((1, None), (20, None), (200, {"label": [1, 2]})):
            expected = memory.search(codes[:7], k, where)
            found = knn.search(codes[:7], k, where)
            assert_close(found[0], expected[0])
            assert found[1] == expected[1]


def test_one_scan_serves_many_queries(make_clickhouse, statements):
    knn = HammingKNN(store=make_clickhouse())
    knn.add(torch.randn(200, 16))
    counts = []
    for num_queries in (3, 100):
        statements.clear()
        knn.search(torch.randn(num_queries, 16), 5)
        counts.append(len(statements))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("rerank", ["asymmetric", "vectors"])
def test_reranking_fetches_what_the_candidates_hold(make_clickhouse, statements, rerank):
    knn = HammingKNN(store=make_clickhouse(), rerank=rerank, num_candidates=9)
    knn.add(torch.randn(200, 16))
    statements.clear()
    knn.search(torch.randn(1, 16), 5)
    fetched = {"asymmetric": "code", "vectors": "vector"}[rerank]
    (fetch,) = [sql for sql in statements if " where place in (" in sql]
    assert f"id, {fetched} from" in fetch
    assert len(fetch.partition(" in (")[2].split(",")) == 9
    assert not [sql for sql in statements if "vector" in sql and sql != fetch]


def test_an_approximate_index_is_refused(make_clickhouse):
    with pytest.raises(TypeError, match=r"no `index` with a ClickHouseStore, got HNSW: .*memory"):
        HammingKNN(index=HNSW(), store=make_clickhouse())


def test_values_are_bound_and_any_name_is_a_column(make_clickhouse):
    knn, codes = HammingKNN(store=make_clickhouse()), torch.randn(len(NAMES), 8)
    numbers = [2**63 - 1, -(2**63), 0, 1, 2, 3, 4, 5, 6, None]
    floats = [float("inf"), -float("inf"), -0.0, 1e-300, 0.1, 1, 2, 3, 4, None]
    named = {"id": numbers, "code": floats, "größe": NAMES, "select": [True] * 10, "place": NAMES}
    knn.add(codes, NAMES, **named)
    assert knn.get(NAMES).metadata == named
    for row, name in enumerate(NAMES):
        assert name in knn
        for column, values in named.items():
            if column != "select":
                assert knn.search(codes[:1], 1, {column: values[row]})[1] == [[name]]
    assert knn.count({"code": [0.0, 2**53 + 1]}) == 1
    assert knn.count({"place": NAMES, "select": True, "größe": []}) == 0
    assert knn.count({"größe": NAMES}) == len(NAMES)


def test_a_column_without_values_gets_its_type_later(make_clickhouse):
    knn, codes = HammingKNN(store=make_clickhouse()), torch.randn(2, 8)
    knn.add(codes, label=[None, None])
    assert knn.columns == {"label": None}
    assert (knn.count({"label": None}), knn.count({"label": "x"})) == (2, 0)
    knn.add(codes, label=["x", None])
    assert knn.columns == {"label": str}
    assert knn.get(range(4)).metadata == {"label": [None, None, "x", None]}


def test_any_id(make_clickhouse):
    knn = HammingKNN(store=make_clickhouse())
    ids = [*NAMES, 1, "1", -5, 2**63 - 1, 2**70, ("a", 1, ("b",)), (), "[1]"]
    knn.add(torch.randn(len(ids), 8), ids)
    assert [id_ for batch in knn.batches(4) for id_ in batch.ids] == ids
    assert knn.get(ids[::-1]).ids == ids[::-1]
    knn.add(torch.randn(1, 8))
    assert 2**70 + 1 in knn
    knn.remove(ids)
    assert len(knn) == 1


def test_many_ids_at_once(make_clickhouse):
    knn, ids = HammingKNN(store=make_clickhouse()), [f"image {i}" for i in range(3000)]
    codes = torch.randn(3000, 8)
    knn.add(codes, ids)
    assert knn.get(ids[::-1]).ids == ids[::-1]
    with pytest.raises(ValueError, match="got 'image 5', which is held"):
        knn.add(codes, [f"new {i}" for i in range(2999)] + ["image 5"])
    knn.update(ids[:1000], codes[1000:2000])
    assert_close(knn.get(ids[:1000]).packed_codes, knn.get(ids[1000:2000]).packed_codes)
    knn.remove(ids[1:])
    assert [batch.ids for batch in knn.batches()] == [["image 0"]]


def test_what_is_gone_leaves_the_disk(make_clickhouse):
    store, codes = make_clickhouse(), torch.randn(20, 8)
    knn = HammingKNN(store=store)
    store.optimize()
    knn.add(codes)
    knn.update([1, 2], codes[3:5])
    knn.remove(range(10, 20))
    before = knn.search(codes, 10)
    store.optimize()
    after = knn.search(codes, 10)
    assert_close(after[0], before[0])
    assert after[1] == before[1]
    assert store._connection.one(f"select count() from {store.table}") == 10
    knn.add(codes[:1])
    assert 20 in knn


def test_half_of_a_search_is_not_of_another_state(make_clickhouse, monkeypatch):
    """Between the scan and what is fetched, another client changes what was found."""
    store, codes = make_clickhouse(), torch.randn(6, 16).sign()
    knn = HammingKNN(store=store, rerank="asymmetric", num_candidates=1)
    knn.add(codes)
    fetch, changes = _clickhouse_search.Search._fetch, [True]

    def changed(self, *args):
        if changes.pop():
            changes.append(False)
            rows = store._rows_of([0], ["*"])
            kept = {name: rows[name] for name in rows.column_names}
            store._insert(store._held_schema(), kept | next_version(rows, gone=False))
            store._connection.run([f"optimize table {store.table} final"])
        else:
            changes.append(False)
        return fetch(self, *args)

    monkeypatch.setattr(_clickhouse_search.Search, "_fetch", changed)
    assert knn.search(codes[:1], 1)[1] == [[0]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda dsn: ClickHouseStore(dsn, "a b"), ValueError, "`table` of letters, .* got 'a b'"),
        (lambda dsn: ClickHouseStore(dsn, cluster="c'"), ValueError, "`cluster` of letters"),
        (lambda dsn: ClickHouseStore(dsn, cluster="c"), ValueError, "`cluster` with a server"),
        (lambda _: ClickHouseStore("sqlite:///x"), ValueError, "begins with 'sqlite'"),
        (
            lambda _: ClickHouseStore("clickhouse://h:99999/x"),
            ValueError,
            "port from 0 to 65535, got",
        ),
        (
            lambda _: ClickHouseStore(f"chdb://{__file__}"),
            NotADirectoryError,
            "^Expected `dsn` of a folder, got a file at .*test_clickhouse.py",
        ),
        (lambda _: ClickHouseStore("chdb://"), ValueError, "`dsn` of a folder"),
        (lambda _: ClickHouseStore("chdb:///a?b"), ValueError, "`dsn` of a folder"),
    ],
)
def test_wrong_arguments(tables, make, error, message):
    with pytest.raises(error, match=message):
        make(tables["chdb"].dsn)


def test_one_folder_for_one_process(tables, tmp_path):
    knn = HammingKNN(store=ClickHouseStore(f"chdb://{tmp_path}"))
    with pytest.raises(OSError, match="no other folder open in this process"):
        knn.add(torch.ones(1, 8))
    (tmp_path / "metadata").mkdir()  # as the engine does for a table
    with pytest.raises(OSError, match="no other folder open in this process"):
        ClickHouseStore(f"chdb://{tmp_path}")


def test_to_look_makes_nothing(tmp_path):
    """No engine starts: this process has that of another folder open already."""
    knn = HammingKNN(store=ClickHouseStore(f"chdb://{tmp_path}/none"))
    assert (len(knn), list(knn.batches(2)), "a" in knn) == (0, [], False)
    with pytest.raises(ValueError, match="'a'"):
        knn.remove(["a"])
    knn.close()
    assert not list(tmp_path.iterdir())


def test_a_table_of_another_kind_is_left_alone(make_clickhouse):
    store = make_clickhouse()
    store._connection.run([f"create table {store.table} (a Int64) engine = MergeTree order by a"])
    with pytest.raises(
        ValueError, match="`table` to be one that a ClickHouseStore made, got 'test"
    ):
        make_clickhouse(store.table)
    store._connection.run([f"drop table {store.table}"])


def test_ids_that_others_wrote_are_told():
    assert to_ids([b"3", b'"a"', b'["b", [2]]']) == [3, "a", ("b", (2,))]
    for text in (b"null", b"{}", b'[{"a": 1}]', b"1.5", b"true", b"word", b"\xff", b"[" * 10**5):
        with pytest.raises(ValueError, match="Expected ids that a ClickHouseStore wrote, got"):
            to_ids([b"3", text])


def test_a_comment_that_others_wrote_is_told(make_clickhouse):
    store = make_clickhouse()
    for comment in ("[]", "3", "word", '{"kind": 3}', "[" * 10**4):
        store._connection.run(
            [
                f"create table {store.table} (code Int64 comment '{comment}') "
                "engine = MergeTree order by code"
            ]
        )
        with pytest.raises(ValueError, match="`table` to be one that a ClickHouseStore made"):
            make_clickhouse(store.table)
        store._connection.run([f"drop table {store.table}"])


def test_a_password_that_looks_like_a_port_is_not_told():
    with pytest.raises(ValueError, match=r"`dsn` with a port .* %2F for /") as caught:
        ClickHouseStore("clickhouse://user:sec/ret@host/x")
    assert "sec" not in str(caught.value)
    assert caught.value.__suppress_context__  # nor in the error before it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("comment column code '[]'", "no column `code` with a comment"),
        (
            "modify column meta_label Nullable(Int32)",
            "`meta_label` is of type Nullable.Int32., not",
        ),
        ("add column meta_more Int64", "`meta_more` is of type Int64, not of Nullable"),
        ("modify column code String", "codes of 8 bits are of type String"),
    ],
)
def test_a_table_that_others_have_changed_is_refused(make_clickhouse, change, message):
    store = make_clickhouse()
    HammingKNN(store=store).add(torch.ones(1, 8), label=[1])
    try:
        store._connection.run([f"alter table {store.table} {change}"])
        store._state.forget()
        with pytest.raises(ValueError, match=f"that a ClickHouseStore made, .*{message}"):
            make_clickhouse(store.table)
    finally:
        store._connection.run([f"drop table {store.table}"])
        store._state.forget()


def test_values_that_no_field_of_a_form_holds(bridge):
    """A server takes 128 KiB of a parameter, and of a statement beside long parameters."""
    knn, length = HammingKNN(store=ClickHouseStore(bridge[0]())), 8 * 500
    codes, ids = torch.randn(100, length), [f"{number}" + "é" * 500 for number in range(100)]
    knn.add(codes, ids, label=range(100))
    assert knn.get(ids).metadata["label"] == list(range(100))
    where = {"label": range(1, 20_000)}
    assert knn.count(where) == 99
    assert knn.search(codes[1:], 1, where=where)[1] == [[id_] for id_ in ids[1:]]


def test_over_the_network(bridge, monkeypatch):
    """Two clients share a table; the server goes away and comes back."""
    start, stop = bridge
    dsn, codes = start(), torch.randn(300, 12)
    stores = [ClickHouseStore(dsn), ClickHouseStore(dsn)]
    first, second = (HammingKNN(store=store) for store in stores)
    first.add(codes, [f"i{i}" for i in range(300)], label=[i % 2 for i in range(300)])
    assert (
        second.search(codes[:2], 3, {"label": 1})[1] == first.search(codes[:2], 3, {"label": 1})[1]
    )
    check_races(monkeypatch, stores, codes)
    expected = first.search(codes[:2], 5)[1]
    stop()
    for use in (
        lambda: second.search(codes, 1),
        lambda: first.add(codes[:1]),
        lambda: ClickHouseStore(dsn),
    ):
        with pytest.raises(
            ConnectionError, match=r"server that answers at 127\.0\.0\.1:[0-9]+, got"
        ) as error:
            use()
        assert "secret" not in str(error.value)
    start()
    assert first.search(codes[:2], 5)[1] == expected
    first.add(codes[:1], ["back"])
    assert "back" in second
    for store in stores:
        store.close()


def check_races(monkeypatch, stores, codes):
    """One client adds what another has looked for and not found."""
    first, second = (HammingKNN(store=store) for store in stores)
    insert, raced = Connection.insert, []

    def late(self, *args):
        if self is stores[0]._connection and not raced:
            raced.append(True)
            second.add(codes[:2], *raced_ids)
        return insert(self, *args)

    monkeypatch.setattr(Connection, "insert", late)
    count = len(first)
    raced_ids = [["x", "y"]]
    with pytest.raises(ValueError, match="'x', which is held"):
        first.add(codes[:2], ["w", "x"])
    assert ("w" in first, "x" in first, len(first)) == (False, True, count + 2)
    raced.clear()
    raced_ids = []
    first.add(codes[:2])
    assert sorted(id_ for b in first.batches() for id_ in b.ids if isinstance(id_, int)) == [
        0,
        1,
        2,
        3,
    ]
    monkeypatch.setattr(Connection, "insert", insert)


def test_nobody_listens(caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError, match=r"server that answers at 127\.0\.0\.1"):
            ClickHouseStore(f"clickhouse://127.0.0.1:{free.getsockname()[1]}")
    names = [record.name.partition(".")[0] for record in caplog.records]
    assert "clickhouse_connect" not in names  # its own line says less than the error


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_while_it_adds(tmp_path, kills):
    """What was told to be there is there, and no batch is there in part."""
    rng, told = random.Random(kills), 0
    script, folder = Path(__file__).with_name("crashing.py"), tmp_path / "folder"
    with subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(kills):
            process.stdin.write(f"{told}\n")
            process.stdin.flush()
            said, left = {}, rng.randint(1, 5)
            for what, number in map(str.split, process.stdout):
                said[what] = int(number)
                left -= what == "told"
                if what == "told" and not left:
                    delay = rng.uniform(0, 0.1)  # into the next batch, or the update of this one
                    threading.Timer(delay, os.kill, (said["child"], SIGKILL)).start()
                if what == "ended":
                    break
            assert "told" in said, "a child found less than was told, or a part of a batch"
            told = said["told"]
        process.stdin.close()
    assert told >= kills
