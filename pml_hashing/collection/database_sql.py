"""What a collection says to a database, as text. Values are bound or sent beside a statement."""

import re
from collections.abc import Sequence

from pml_hashing.search import _clickhouse_sql as store_sql

RESERVED = re.compile(r".*_(state_\w*|encoded(_shard)?|writers)")

PRESENT = ("number", "state", "before", "manifest", "unreadable")
"""Of the table of states: the number of the writer, the table of its images and that of the state
before, what the collection is and the files without a code, as JSON. The largest number is that of
the present state."""
TYPES_OF_PRESENT = ("number UInt64", *(f"{name} String" for name in PRESENT[1:]))

FILE = ("file_size", "mtime_ns", "ctime_ns", "inode")
CONTENT = ("digest", "bytes", "width", "height")

FILE_COLUMNS = """,
    file_size Int64 codec(ZSTD(1)),
    mtime_ns Int64 codec(ZSTD(1)),
    ctime_ns Int64 codec(ZSTD(1)),
    inode Int64 codec(ZSTD(1)),
    digest FixedString(32) codec(NONE),
    bytes Int64 codec(ZSTD(1)),
    width Int64 codec(ZSTD(1)),
    height Int64 codec(ZSTD(1))"""
"""Of an image, beside the columns of a store: the state of its file, and its content."""
BY_DIGEST = "index by_digest digest type bloom_filter(0.01) granularity 1"

OF_MODEL = "model = {model:String}"
RUNS = ("start Int64", "stop Int64", "shift Int64", "zero UInt8")

IS_TABLE = (
    "select name from system.columns where database = currentDatabase() "
    "and table = {table:String} order by position"
)
CLUSTER_OF = (
    "select comment from system.columns where database = currentDatabase() "
    "and table = {table:String} and name = 'number'"
)
"""The cluster over which a collection is spread: no text if there is none."""
STATE_TABLES = (
    "select name from system.tables where database = currentDatabase() "
    "and startsWith(name, {prefix:String})"
)


def check_table(table: str) -> None:
    """Raise unless this can be the name of a collection.

    Raises:
        ValueError: If it is none of a table, or ends as the names of a collection's own tables.
    """
    store_sql.check_name(table, "table")
    if RESERVED.fullmatch(table):
        raise ValueError(
            "Expected `table` that does not end as the tables of a collection do, _encoded, "
            f"_writers or _state_1, got {table!r}."
        )


def create(table: str, cluster: str | None = None, database: str = "") -> list[str]:
    """Return the statements that make the tables of a collection, where there are none.

    Args:
        table: Its name.
        cluster: That over which it is spread, if it is.
        database: Where a cluster keeps it.
    """
    head, on = "create table if not exists", "" if cluster is None else f" on cluster {cluster}"
    number, *others = TYPES_OF_PRESENT
    present = ", ".join([f"{number} comment '{cluster or ''}'", *others])
    encoded = (
        "(digest FixedString(32), model String, bytes Int64, width Int64, height Int64, "
        "code String)"
    )
    kept = [
        f"{head} {table}{on} ({present}) engine = {_whole('number', cluster)} order by tuple()",
        f"{head} {table}_writers{on} (number UInt64, token String, step UInt32, owner String, "
        "process String, released UInt8, until DateTime64(3)) "
        f"engine = {_whole('step', cluster)} order by (number, token) "
        "ttl toDateTime(until) + interval 1 day",
    ]
    order = "order by (digest, model)"
    if cluster is None:
        return [*kept, f"{head} {table}_encoded {encoded} engine = ReplacingMergeTree {order}"]
    spread = store_sql.distributed(cluster, database, f"{table}_encoded", "digest")
    engine = "ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')"
    return [
        *kept,
        f"{head} {table}_encoded_shard{on} {encoded} engine = {engine} {order}",
        f"{head} {table}_encoded{on} {encoded} engine = {spread}",
    ]


def _whole(version: str, cluster: str | None) -> str:
    """Return the engine of a table that each server has wholly."""
    if cluster is None:
        return f"ReplacingMergeTree({version})"
    return (
        "ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}', '{shard}-{replica}', "
        f"{version})"
    )


def caught_up(table: str, cluster: str | None) -> list[str]:
    """Return the statements after which a server has what the others have of a small table."""
    return [] if cluster is None else [f"system sync replica {table} lightweight"]


def create_state(table: str, schema: store_sql.Schema, database: str = "") -> list[str]:
    """Return the statements that make the table of a state: that of a store, and files."""
    return store_sql.create(
        table, schema, database=database, more=FILE_COLUMNS, indices=[BY_DIGEST]
    )


def make_present(table: str, row: str, number: int, images: str) -> str:
    """Return the statement that makes a state the present one.

    It does so only if no other writer has come, and if the table of the images is there: else
    nothing is inserted, or there is an error of a table that is gone.

    Args:
        table: The collection.
        row: Where the row of the state is.
        number: Of the writer.
        images: The table of the images, or nothing if there are none.
    """
    conditions = [
        f"(select count() from {table}_writers where number > {number}) = 0",
        f"(select max(number) from {table}) < {number}",
    ]
    if images:
        conditions.append(f"(select count() from {images}) > 0")
    columns = ", ".join(PRESENT)
    return (
        f"insert into {table} ({columns}) select {columns} from {row} "
        f"where {' and '.join(conditions)}"
    )


def forget_encoded(table: str, cluster: str | None) -> str:
    """Return the statement that empties the table of codes of a sync that is under way."""
    return f"truncate table {store_sql.on_cluster(table, cluster)[-1]}"


def present(table: str, columns: Sequence[str]) -> str:
    """Return what the present state is."""
    return f"select {', '.join(columns)} from {table} order by number desc limit 1"


def copy(new: str, old: str, runs: str, columns: Sequence[str]) -> str:
    """Return the statement that takes runs of rows over, each moved by as much as it says."""
    own = [f"`{column}`" for column in columns]
    names = ", ".join(["place", "batch", "version", "gone", *own])
    values = ", ".join(["t.place + r.shift", "0", "1", "0", *(f"t.{column}" for column in own)])
    return (
        f"insert into {new} ({names}) select {values} from {old} as t "
        f"asof inner join {runs} as r on t.gone = r.zero and t.place >= r.start "
        "where t.place < r.stop"
    )


def without_type(table: str, cluster: str | None, column: str) -> list[str]:
    """Return the statements that make a column one without values, whose type is not known."""
    name = f"`{store_sql.METADATA}{column}`"
    dropped = store_sql.alter(table, cluster, f"drop column {name}")
    return dropped + store_sql.add_columns(table, cluster, {column: None}, {})


def last_writers(table: str) -> str:
    """Return all that was said by those who wrote last."""
    return (
        "select number, token, owner, process, released, until > now64(3) as alive "
        f"from {table}_writers where number = (select max(number) from {table}_writers) "
        "order by step"
    )


def last_number(table: str) -> str:
    """Return the number of the last writer: what it said itself is forgotten after a day."""
    return f"select greatest((select max(number) from {table}_writers), max(number)) from {table}"


def later_writers(table: str, number: int) -> str:
    """Return other writers that came at the same time or later, as a condition tells."""
    return (
        f"select owner from {table}_writers where number >= {number} and token != {{token:String}} "
        "limit 1"
    )


def write_lease(table: str, number: int, step: int, seconds: float, *, released: bool) -> str:
    """Return the statement by which a writer says that it is alive for so long, or done."""
    milliseconds = round(seconds * 1000)
    return (
        f"insert into {table}_writers select {number}, {{token:String}}, {step}, {{owner:String}}, "
        f"{{process:String}}, {int(released)}, "
        f"now64(3) + toIntervalMillisecond({milliseconds})"
    )


def known(table: str, columns: Sequence[str], wanted: str, condition: str = "1") -> str:
    """Return what is known of contents, each once."""
    return (
        f"select {', '.join(columns)} from {table} "
        f"where {condition} and digest in (select digest from {wanted}) limit 1 by digest"
    )


def sizes_among(table: str, sizes: Sequence[int], condition: str = "1") -> str:
    """Return those of some sizes of contents that there are."""
    wanted = ", ".join(map(str, sizes)) or "-1"
    return f"select distinct bytes from {table} where {condition} and bytes in ({wanted})"
