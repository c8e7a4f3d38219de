"""A collection over a cluster of databases: one of one shard, and the statements for any."""

import pytest
from pictures import all_of, save, states_of

pytest.importorskip("clickhouse_connect", reason="the extra [clickhouse] is not installed")
pytest.importorskip("chdb", reason="the extra [clickhouse] is not installed")

from pml_hashing import Collection
from pml_hashing.collection import database_sql as sql
from pml_hashing.search import _clickhouse_sql as store_sql
from pml_hashing.search._clickhouse_client import Connection
from pml_hashing.search._clickhouse_sql import Schema

QUIET = {"progress": False}


def test_over_a_cluster(cluster_bridge, tmp_path, folder, model):
    """Of one shard, in one process: what stands for the shards is that of a cluster."""
    dsn, where = cluster_bridge[0](), {"model_folder": tmp_path / "photos.model"}
    photos = Collection.create(dsn, model, cluster="shops", vectors=True, **where)
    beside = Collection.create(tmp_path / "codes", model, vectors=True)
    reader = Collection.open(dsn, **where)
    assert (photos.cluster, reader.cluster, beside.cluster) == ("shops", "shops", None)
    for number, labels in enumerate(["folders", {"1.png": {"price": 2.5}}, "keep"]):
        save(folder / f"new{number}.png", 50 + number)
        if number == 2:
            (folder / "1.png").unlink()  # the only one with a price: its column has no type again
        assert str(photos.sync(folder, labels=labels, **QUIET)) == str(
            beside.sync(folder, labels=labels, **QUIET)
        )
        assert reader.refresh()
        assert all_of(photos) == all_of(reader) == all_of(beside)
    assert reader.similar("3.png", 3, rerank="vectors") == beside.similar(
        "3.png", 3, rerank="vectors"
    )
    names = states_of(photos)
    assert len(names) == 4
    assert sum(name.endswith("_shard") for name in names) == 2
    with pytest.raises(FileExistsError, match="Expected no collection at"):
        Collection.create(dsn, model, cluster="shops", **where)


def test_a_cluster_that_cannot_be(database, cluster_bridge, tmp_path, model):
    with pytest.raises(ValueError, match=r"`cluster` with a server, .* engine in this process"):
        database.create(model, cluster="shops")
    with pytest.raises(ValueError, match="`cluster` with a database"):
        Collection.create(tmp_path / "codes", model, cluster="shops")
    where = {"model_folder": tmp_path / "photos.model"}
    dsn = cluster_bridge[0]()
    with pytest.raises(ValueError, match="`cluster` of letters"):
        Collection.create(dsn, model, cluster="a'b", **where)
    with pytest.raises(ValueError, match=r"`cluster` that .* knows, one of shops, got 'other'"):
        Collection.create(dsn, model, cluster="other", **where)
    Connection(dsn).run(sql.create("images"))  # and was killed
    with pytest.raises(FileExistsError, match="to be new or spread over shops, got tables spread"):
        Collection.create(dsn, model, cluster="shops", **where)
    assert len(Collection.create(dsn, model, **where)) == 0


def test_statements_for_a_cluster(database):
    present, writers, shard, spread = sql.create("images", "shops", "db")
    whole = "ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}', '{shard}-{replica}', "
    for statement, name, version in (
        (present, "images", "number"),
        (writers, "images_writers", "step"),
    ):
        assert f"create table if not exists {name} on cluster shops (" in statement
        assert f"{whole}{version})" in statement
    assert "number UInt64 comment 'shops'" in present
    assert "images_encoded_shard on cluster shops (" in shard
    assert "Replicated" in shard
    assert "Distributed('shops', 'db', 'images_encoded_shard', cityHash64(digest))" in spread
    schema = Schema(64, with_vectors=False, cluster="shops")
    state, of_all = sql.create_state("images_state_1", schema, "db")
    assert "index by_digest digest" in state
    assert "index" not in of_all
    emptied = sql.forget_encoded("images_encoded", "shops")
    assert emptied == "truncate table images_encoded_shard on cluster shops"
    waits = [*store_sql.wait("images_state_1", "shops"), *sql.caught_up("images_writers", "shops")]
    assert waits == [
        "system sync replica on cluster shops images_state_1_shard",
        "system sync replica images_writers lightweight",
    ]
    untyped = sql.without_type("images_state_1", "shops", "price")
    parse = Connection(database.place)
    every = [present, writers, shard, spread, state, of_all, emptied, *waits, *untyped]
    for statement in every:  # the engine understands each
        assert parse.one("select formatQuery({sql:String})", {"sql": statement})
