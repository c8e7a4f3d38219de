"""What a collection says to a database, as text. Values are bound or sent beside a statement."""

import re
from collections.abc import Sequence

from pml_hashing.search import _clickhouse_sql as store_sql

RESERVED = re.compile(r".*_(state_\w*|encoded|writers)")

PRESENT = ("number", "state", "manifest", "unreadable")
"""Of the table of states: the number of the writer, the table of its images, what the collection is
and the files without a code, as JSON. The largest number is that of the present state."""

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
    height Int64 codec(ZSTD(1)),
    index by_digest digest type bloom_filter(0.01) granularity 1"""
"""Of an image, beside the columns of a store: the state of its file, and its content."""

OF_MODEL = "model = {model:String}"
RUNS = ("start Int64", "stop Int64", "shift Int64", "zero UInt8")

IS_TABLE = (
    "select name from system.columns where database = currentDatabase() "
    "and table = {table:String} order by position"
)
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


def create(table: str) -> list[str]:
    """Return the statements that make the tables of a collection, where there are none."""
    head = "create table if not exists"
    return [
        f"{head} {table} (number UInt64, state String, manifest String, unreadable String) "
        "engine = ReplacingMergeTree(number) order by tuple()",
        f"{head} {table}_writers (number UInt64, token String, step UInt32, owner String, "
        "process String, released UInt8, until DateTime64(3)) "
        "engine = ReplacingMergeTree(step) order by (number, token) "
        "ttl toDateTime(until) + interval 1 day",
        f"{head} {table}_encoded (digest FixedString(32), model String, bytes Int64, width Int64, "
        "height Int64, code String) engine = ReplacingMergeTree order by (digest, model)",
    ]


def create_state(table: str, schema: store_sql.Schema) -> list[str]:
    """Return the statements that make the table of a state: that of a store, and files."""
    return store_sql.create(table, schema, more=FILE_COLUMNS)


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


def without_type(table: str, column: str) -> list[str]:
    """Return the statements that make a column one without values, whose type is not known."""
    name = f"`{store_sql.METADATA}{column}`"
    dropped = store_sql.alter(table, None, f"drop column {name}")
    return dropped + store_sql.add_columns(table, None, {column: None}, {})


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
