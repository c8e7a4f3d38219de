"""What `ClickHouseStore` says to ClickHouse: tables, conditions and scans, as text.

Nothing that a caller passes becomes part of a statement, but checked names of tables and columns,
and numbers. Values are bound.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pml_hashing.codes import BITS_OF_A_BYTE, packed_length
from pml_hashing.search._ids import ENCODING
from pml_hashing.search.store import Value, Where

KIND = "packed codes of pml-hashing"
METADATA = "meta_"  # before the names of columns of metadata, which may be any identifier

TYPES: dict[type, str] = {str: "String", int: "Int64", float: "Float64", bool: "Bool"}
NO_VALUES = "no values yet"  # the comment of a column whose type is not known

# A code is compared as one integer where there is one so wide: a third of the time of bytes.
INTEGERS = {8: "UInt64", 16: "UInt128", 32: "UInt256"}

COLUMNS = """
    place Int64 codec(Delta, ZSTD(1)),
    batch UInt64 codec(ZSTD(1)),
    version UInt32 codec(ZSTD(1)),
    gone UInt8 codec(ZSTD(1)),
    id String codec(ZSTD(1)),
    number Int64 materialized toInt64OrDefault(id, toInt64(-1)) codec(Delta, ZSTD(1)),
    code FixedString({width}) comment '{comment}' codec(NONE),
    vector Array(Float32) codec(NONE)"""
"""Of a row: its place in database order; a random number of the call that added it, so that two
clients that take the same places at once do not replace each other's rows; the version of the row,
whose largest counts; whether it is removed; its id as JSON, and as a number if it is one."""

MAX_FIELD = 2**16  # characters of bound values: a server refuses more than twice as many

INDEX = "index by_id id type bloom_filter(0.01) granularity 1"
ENGINE = "ReplacingMergeTree(version, gone)"
REPLICATED = (
    "ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', version, gone)"
)
ORDER = "(place, batch)"
SETTINGS = "settings allow_experimental_replacing_merge_with_cleanup = 1"


@dataclass(frozen=True)
class Schema:
    """What a table holds, as its columns and a comment on one of them tell.

    Attributes:
        code_length: Number of bits.
        with_vectors: Whether real-valued codes are kept.
        next_id: The next automatic id, at least.
        cluster: The name of the cluster over which the table is spread, if it is.
        columns: Columns of metadata and the types of their values, `None` while they hold none.
    """

    code_length: int
    with_vectors: bool
    next_id: int = 0
    cluster: str | None = None
    columns: tuple[tuple[str, type | None], ...] = ()

    @property
    def comment(self) -> str:
        """All but the columns, as the comment on the column of codes."""
        told = {"kind": KIND, "code_length": self.code_length, "vectors": self.with_vectors}
        return json.dumps(told | {"next_id": self.next_id, "cluster": self.cluster})

    @classmethod
    def of(cls, columns: Sequence[tuple[str, str, str]]) -> "Schema":
        """Return the schema of a table.

        Args:
            columns: Name, type and comment of each column.

        Raises:
            ValueError: If there is no such comment.
        """
        kind, comment = {name: each for name, *each in columns}.get("code", ("", ""))
        told = json.loads(comment or "{}")
        if not isinstance(told, dict) or told.get("kind") != KIND:
            raise ValueError("it has no column `code` with a comment that says so")
        code_length = int(told["code_length"])
        if kind != f"FixedString({packed_length(code_length)})":
            raise ValueError(f"its codes of {code_length} bits are of type {kind}")
        found = tuple(
            (name.removeprefix(METADATA), _type_of_column(name, kind, comment))
            for name, kind, comment in columns
            if name.startswith(METADATA)
        )
        vectors, next_id = bool(told["vectors"]), int(told["next_id"])
        return cls(code_length, vectors, next_id, told["cluster"], found)


def _type_of_column(name: str, kind: str, comment: str) -> type | None:
    if comment == NO_VALUES:
        return None
    kinds = {f"Nullable({each})": type_ for type_, each in TYPES.items()}
    if kind not in kinds:
        raise ValueError(f"its column `{name}` is of type {kind}, not of {', '.join(kinds)}")
    return kinds[kind]


class Condition(NamedTuple):
    """Which rows match.

    Attributes:
        sql: A condition, with names for values.
        bound: The values.
    """

    sql: str
    bound: dict[str, Sequence[Value]]


SCHEMA = (
    "select name, type, comment from system.columns where database = currentDatabase() "
    "and table = {table:String} order by position"
)


def check_name(name: str, argument: str) -> None:
    """Raise unless this is a plain name of a table or cluster."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(
            f"Expected `{argument}` of letters, digits and underscores, beginning with none of the "
            f"digits, got {name!r}."
        )


def create(
    table: str,
    schema: Schema,
    *,
    database: str = "default",
    replace: bool = False,
    more: str = "",
    indices: Sequence[str] = (),
) -> list[str]:
    """Return the statements that make a table, spread over a cluster if the schema names one.

    Spread, `TABLE_shard` is a replicated table on each shard, and `TABLE` stands for all of them.
    A code's shard follows from its id, so that all versions of a code meet there.

    Args:
        table: Its name.
        schema: What it is to hold.
        database: Where a cluster keeps it.
        replace: Whether to put it in the place of an empty one.
        more: Columns beside those of a store.
        indices: Indices beside that of a store.
    """
    head = "create or replace table" if replace else "create table if not exists"
    columns = COLUMNS.format(width=packed_length(schema.code_length), comment=schema.comment) + more
    kept = ",\n    ".join([columns, INDEX, *indices])
    end = f"order by {ORDER} {SETTINGS}"
    if schema.cluster is None:
        return [f"{head} {table} ({kept}\n) engine = {ENGINE} {end}"]
    of_all, of_shard = on_cluster(table, schema.cluster)
    spread = distributed(schema.cluster, database, table, "id")
    return [
        f"{head} {of_shard} ({kept}\n) engine = {REPLICATED} {end}",
        f"{head} {of_all} ({columns}\n) engine = {spread}",
    ]


def distributed(cluster: str, database: str, table: str, column: str) -> str:
    """Return the engine of a table that stands for its parts on the shards, by a column."""
    return f"Distributed('{cluster}', '{database}', '{table}_shard', cityHash64({column}))"


def drop(table: str, cluster: str | None) -> list[str]:
    """Return the statements that drop a table."""
    return [f"drop table if exists {name} sync" for name in on_cluster(table, cluster)]


def add_columns(
    table: str, cluster: str | None, kinds: Mapping[str, type | None], known: Mapping[str, object]
) -> list[str]:
    """Return the statements that add columns of metadata, or give a type to those without.

    Args:
        table: Its name.
        cluster: That over which it is spread.
        kinds: The types of values that come, `None` where there are none.
        known: The columns that there are, and their types.
    """
    dropped, added = [], []
    for name, kind in kinds.items():
        column = f"column if not exists `{METADATA}{name}`"
        if kind is None and name not in known:
            added.append(f"add {column} Nullable(Bool) comment '{NO_VALUES}'")
        elif kind is not None and known.get(name) is None:
            added.append(f"add {column} Nullable({TYPES[kind]})")
            if name in known:
                dropped.append(f"drop column if exists `{METADATA}{name}`")
    changes = [", ".join(each) for each in (dropped, added) if each]
    return [statement for change in changes for statement in alter(table, cluster, change)]


def note(table: str, schema: Schema) -> list[str]:
    """Return the statements that write down what a table is."""
    return alter(table, schema.cluster, f"comment column code '{schema.comment}'")


def alter(table: str, cluster: str | None, change: str) -> list[str]:
    """Return the statements that change a table, first on the shards."""
    return [f"alter table {name} {change}" for name in reversed(on_cluster(table, cluster))]


def optimize(table: str, cluster: str | None) -> str:
    """Return the statement that merges all versions of codes, and drops those removed."""
    return f"optimize table {on_cluster(table, cluster)[-1]} final cleanup"


def wait(table: str, cluster: str | None) -> list[str]:
    """Return the statements that wait until all servers of a cluster have what was inserted."""
    return [] if cluster is None else [f"system sync replica on cluster {cluster} {table}_shard"]


def on_cluster(table: str, cluster: str | None) -> list[str]:
    """Return the tables that a change is for: that of all, and on a cluster those of its shards."""
    if cluster is None:
        return [table]
    return [f"{table} on cluster {cluster}", f"{table}_shard on cluster {cluster}"]


def condition(where: Where, columns: Mapping[str, type | None]) -> Condition:
    """Return a condition of SQL, and the values to bind in it.

    Args:
        where: For each column values, one of which a row must have.
        columns: The types of columns.
    """
    parts, bound = ["1"], {}
    for number, (name, wanted) in enumerate(where.items()):
        kind, column = columns[name], f"`{METADATA}{name}`"
        values = _comparable(wanted, kind)
        any_of = ["0"]
        if kind is not None:
            parts_of = {f"where{number}_{n}": part for n, part in enumerate(_parts(values))}
            any_of += [f"{column} in {_bound(part, kind)}" for part in parts_of]
            bound |= parts_of
        if None in wanted:
            any_of.append(f"isNull({column})")
        parts.append(f"({' or '.join(any_of)})")
    return Condition(" and ".join(parts), bound)


def _parts(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """Yield values in parts, each of which a server takes as one field of a form."""
    start = size = 0
    for place, value in enumerate(values):
        length = len(str(value)) + len("'',")
        if size and size + length > MAX_FIELD:
            yield values[start:place]
            start, size = place, 0
        size += length
    if size:
        yield values[start:]


def _bound(name: str, kind: type) -> str:
    """Return the expression for bound values. Strings come as hexadecimal digits of their bytes."""
    bound = f"{{{name}:Array({TYPES[kind]})}}"
    return f"arrayMap(x -> unhex(x), {bound})" if kind is str else bound


def _comparable(wanted: Sequence[Value], kind: type | None) -> Sequence[Value]:
    """Return the values that a column can equal, as they are bound."""
    values = [value for value in wanted if value is not None]
    if kind is str:
        return [to_bytes(str(value)).hex() for value in values]
    if kind is not float:
        return values
    numbers = [(value, float(value)) for value in values]
    return [number + 0.0 for value, number in numbers if number == value]  # -0.0 + 0.0 is 0.0


def to_bytes(text: str) -> bytes:
    """Return a string as ClickHouse keeps it: any that Python has, as some names of files are."""
    return text.encode(*ENCODING)


def distance(query: bytes) -> str:
    """Return the Hamming distance of a packed code to `word`."""
    width = len(query)
    kind = _integer(width)
    if kind is None:
        return f"bitHammingDistance(word, toFixedString(unhex('{query.hex()}'), {width}))"
    return f"bitHammingDistance(word, to{kind}('{int.from_bytes(query, 'little')}'))"


def rows(table: str, matching: str, columns: Sequence[str], queries: Sequence[bytes]) -> str:
    """Return the rows that match, with their distances `d0`, `d1` ... to packed codes."""
    kind = _integer(len(queries[0]))
    word = "code" if kind is None else f"reinterpretAs{kind}(code)"
    distances = [f"{distance(query)} as d{number}" for number, query in enumerate(queries)]
    chosen = ", ".join([f"{word} as word", *distances, *columns])
    return f"(select {chosen} from {table} final where {matching})"


def _integer(width: int) -> str | None:
    return next((name for size, name in INTEGERS.items() if width <= size), None)


def one_of(step: int) -> str:
    """Return the condition of a sample: of so many rows, as they came, one."""
    return f"place % {step} = 0"


def sample(source: str, k: int, count: int) -> str:
    """Return the scan of a sample: of each query the `k` smallest distances in it."""
    return f"select {_each(f'groupArraySorted({k})(d#)', count)} from {source}"


def nearest(source: str, k: int, bounds: Sequence[int]) -> str:
    """Return one scan for many queries: of each the `k` nearest rows, ties in database order.

    Args:
        source: Rows with distances, `place`, `batch` and `version`.
        k: How many.
        bounds: For each query a distance beyond which no row is among them.
    """
    columns = [
        f"groupArraySortedIf({k})((d{number}, place, batch, version), d{number} <= {bound})"
        for number, bound in enumerate(bounds)
    ]
    return f"select {', '.join(columns)} from {source}"


def within(source: str, radius: int, count: int) -> str:
    """Return one scan for many queries: of each all rows within a radius, the nearest first."""
    found = f"arraySort(groupArrayIf((d#, place, batch, id), d# <= {radius}))"
    return f"select {_each(found, count)} from {source}"


def ordered(source: str, k: int, columns: Sequence[str]) -> str:
    """Return the scan for one query with many neighbors."""
    chosen = ", ".join(["d0", "place", *columns])
    return f"select {chosen} from {source} order by d0, place, batch limit {k}"


def at_places(table: str, places: Sequence[int], columns: Sequence[str]) -> str:
    """Return all versions of rows at places: what a scan has seen, if it is not merged away."""
    chosen, wanted = ", ".join(["place", "batch", "version", *columns]), ", ".join(map(str, places))
    return f"select {chosen} from {table} where place in ({wanted or -1})"


def of_ids(table: str, columns: Sequence[str], wanted: str) -> str:
    """Return the rows of ids."""
    return f"select {', '.join(columns)} from {table} final where id in {wanted}"


def taken(table: str, wanted: str, batch: int) -> str:
    """Return one of the ids that another call has added too."""
    return f"select id from {table} final where id in {wanted} and batch != {batch} limit 1"


def last_place(table: str) -> str:
    """Return the last place that was ever taken."""
    return f"select place from {table} order by place desc limit 1"


def page(table: str, columns: Sequence[str], place: int, batch: int, size: int) -> str:
    """Return so many rows behind a place, in database order."""
    behind = f"place >= {place} and (place > {place} or batch > {batch})"
    chosen = ", ".join(columns)
    return f"select {chosen} from {table} final where {behind} order by place, batch limit {size}"


def _each(column: str, count: int) -> str:
    return ", ".join(column.replace("#", str(number)) for number in range(count))


def farthest(code_width: int) -> int:
    """Return the largest distance that there is."""
    return code_width * BITS_OF_A_BYTE
