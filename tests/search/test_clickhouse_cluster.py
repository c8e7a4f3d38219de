"""A store over a cluster: one of one shard, and the statements for any."""

import pytest
import torch

pytest.importorskip("clickhouse_connect", reason="the extra [clickhouse] is not installed")
pytest.importorskip("chdb", reason="the extra [clickhouse] is not installed")

from pml_hashing.search import ClickHouseStore, HammingKNN, _clickhouse_sql
from pml_hashing.search._clickhouse_sql import Schema


def test_tables_over_a_cluster(tables):
    schema = Schema(64, with_vectors=False, cluster="shops")
    shard, spread = _clickhouse_sql.create("codes", schema, database="images")
    assert "create table if not exists codes_shard on cluster shops (" in shard
    assert "ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}'" in shard
    assert "order by (place, batch)" in shard
    assert "create table if not exists codes on cluster shops (" in spread
    assert "Distributed('shops', 'images', 'codes_shard', cityHash64(id))" in spread
    assert "index" not in spread
    added = _clickhouse_sql.add_columns(
        "codes", "shops", {"label": int, "new": None}, {"new": None}
    )
    assert added == [
        "alter table codes_shard on cluster shops add column if not exists "
        "`meta_label` Nullable(Int64)",
        "alter table codes on cluster shops add column if not exists `meta_label` Nullable(Int64)",
    ]
    dropped = _clickhouse_sql.drop("codes", "shops")
    assert dropped[0] == "drop table if exists codes on cluster shops sync"
    optimized = _clickhouse_sql.optimize("codes", "shops")
    assert optimized == "optimize table codes_shard on cluster shops final cleanup"
    noted = _clickhouse_sql.note("codes", schema)
    parse = tables["chdb"]("kept")._connection
    for sql in (shard, spread, *added, *dropped, optimized, *noted):  # the engine understands each
        assert parse.one("select formatQuery({sql:String})", {"sql": sql})


def test_over_a_cluster(cluster_bridge):
    """Of one shard, in one process: what stands for the shards is that of a cluster."""
    dsn, codes = cluster_bridge[0](), torch.randn(60, 12)
    store = ClickHouseStore(dsn, cluster="shops")
    knn, memory = HammingKNN(store=store), HammingKNN()
    for each in (knn, memory):
        each.add(codes, [f"i{i}" for i in range(60)], label=[i % 2 for i in range(60)])
    other = HammingKNN(store=ClickHouseStore(dsn))  # finds out by itself that there is a cluster
    for each in (other, memory):
        each.update(["i4"], -codes[4:5], place=["x"])
        each.remove([f"i{i}" for i in range(10, 20)])
    store.optimize()
    for where in (None, {"label": 1}, {"place": "x"}):
        k = memory.count(where)
        for each in (knn, other):
            assert each.search(codes[:5], k, where)[1] == memory.search(codes[:5], k, where)[1]
    assert store._connection.one("select count() from codes_shard") == 50
    store.clear()
    assert not store._connection.rows("show tables").num_rows
