"""Records of codes as tables of Arrow, and back."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pml_hashing.search._clickhouse_sql import METADATA, Schema, to_bytes
from pml_hashing.search._ids import ENCODING, id_from_json
from pml_hashing.search.store import Records, Value

ARROW: dict[type, pa.DataType] = {
    str: pa.binary(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}


def to_text(id_: Hashable) -> bytes:
    """Return an id as JSON: a string in quotes, an integer, or a list for a tuple."""
    return (str(id_) if isinstance(id_, int) else json.dumps(id_)).encode("ascii")


def to_ids(texts: Iterable[bytes]) -> list[Hashable]:
    """Return ids that `to_text` has written.

    Raises:
        ValueError: If others have written one.
    """
    try:
        found = json.loads(b"[" + b",".join(texts) + b"]")
        plain = set(map(type, found)) <= {str, int}
        return found if plain else list(map(id_from_json, found))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected ids that a ClickHouseStore wrote, got others: {error}"
        ) from error


def columns_of(schema: Schema) -> list[str]:
    """Return the columns in which records are kept."""
    metadata = [f"`{METADATA}{name}`" for name, _ in schema.columns]
    return ["id", "code", *(["vector"] if schema.with_vectors else []), *metadata]


def to_columns(
    records: Records, kinds: Mapping[str, type | None], *, with_vectors: bool
) -> dict[str, pa.Array]:
    """Return codes, vectors and metadata of records, without those that are `None` throughout.

    Args:
        records: From any device.
        kinds: The types of columns.
        with_vectors: Whether the table keeps vectors.
    """
    codes = np.ascontiguousarray(records.packed_codes.cpu().numpy())
    kind, buffer = pa.binary(codes.shape[1]), pa.py_buffer(codes)
    columns: dict[str, pa.Array] = {
        "code": pa.FixedSizeBinaryArray.from_buffers(kind, len(codes), [None, buffer])
    }
    if with_vectors and records.vectors is not None:
        vectors = records.vectors.cpu().float().numpy()
        offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
        columns["vector"] = pa.ListArray.from_arrays(offsets, vectors.ravel())
    for name, values in records.metadata.items():
        kind = kinds[name]
        if kind is not None:
            kept = [_to_kept(value, kind) for value in values]
            columns[METADATA + name] = pa.array(kept, ARROW[kind])
    return columns


def _to_kept(value: Value, kind: type) -> Any:
    if value is None:
        return None
    if kind is float:
        return float(value) + 0.0  # -0.0 becomes 0.0, which it equals
    return to_bytes(value) if isinstance(value, str) else value


def to_records(rows: pa.Table, schema: Schema) -> Records:
    """Return what rows hold of `columns_of` a schema."""
    return Records(
        to_ids(rows["id"].to_pylist()),
        to_codes(rows["code"]),
        to_vectors(rows["vector"]) if schema.with_vectors else None,
        to_metadata(rows, dict(schema.columns)),
    )


def to_metadata(rows: pa.Table, kinds: Mapping[str, type | None]) -> dict[str, list[Value]]:
    """Return the values of columns of these types."""
    metadata = {name: rows[METADATA + name].to_pylist() for name in kinds}
    for name, kind in kinds.items():
        if kind is str:
            texts = (value and str(value, *ENCODING) for value in metadata[name])
            metadata[name] = ["" if text == b"" else text for text in texts]
    return metadata


def to_codes(column: pa.ChunkedArray) -> Tensor:
    """Return packed codes, `(n, width)`."""
    codes = np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint8)
    return torch.from_numpy(codes.reshape(-1, column.type.byte_width).copy())


def to_vectors(column: pa.ChunkedArray) -> Tensor:
    """Return real-valued codes, `(n, code_length)`."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.astype(np.float32).reshape(len(column), -1))


def next_version(held: pa.Table, *, gone: bool) -> dict[str, pa.Array]:
    """Return the columns that make rows newer than those that are held."""
    versions = held["version"].to_numpy() + np.uint32(1)
    return {"version": pa.array(versions), "gone": pa.array(np.full(len(held), gone, np.uint8))}


def new_rows(ids: Sequence[Hashable], places: np.ndarray, batch: int) -> dict[str, pa.Array]:
    """Return the columns of rows that are new.

    Args:
        ids: One for each.
        places: Where they are in database order, int64.
        batch: The number of the call that adds them.
    """
    count = len(ids)
    return {
        "place": pa.array(places),
        "batch": pa.array(np.full(count, batch, np.uint64)),
        "version": pa.array(np.ones(count, np.uint32)),
        "gone": pa.array(np.zeros(count, np.uint8)),
        "id": pa.array([to_text(id_) for id_ in ids], pa.binary()),
    }
