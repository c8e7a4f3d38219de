"""The file of a `HammingKNN`: all that is held, which nothing in it can make execute."""

import os
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_finite
from pml_hashing._tensor_files import write_tensors
from pml_hashing.code_file import (
    COLUMN,
    VALUES,
    column_names,
    describe,
    from_json_tensor,
    json_tensor,
    read_code_file,
)
from pml_hashing.search._arguments import to_ids, to_metadata, to_packed
from pml_hashing.search._ids import CountedIds, Ids, IntegerIds, StringIds, pack_ids
from pml_hashing.search._table import Column, Table
from pml_hashing.search.memory_store import MemoryStore, empty_table
from pml_hashing.search.store import CodeStore

BATCH = 2**16  # codes that are read from a store, or appended to it, at a time


class Content(NamedTuple):
    """What a file holds."""

    code_length: int
    table: Table
    next_id: int


def save_store(store: CodeStore, path: str | os.PathLike[str]) -> None:
    """Write all of a store to a safetensors file, atomically.

    Raises:
        OSError: If the folder cannot be written, or is full.
    """
    with store.frozen():
        code_length, next_id = store.code_length or 0, store.next_id
        table = empty_table(code_length, with_vectors=store.with_vectors, room=len(store))
        ids = []
        for batch in store.batches(BATCH):
            table.append(batch.packed_codes, None, len(table), batch.vectors, batch.metadata)
            ids.append(pack_ids(batch.ids))
    tensors = {"packed_codes": table.codes.values} | _id_tensors(ids)
    if table.vectors is not None:
        tensors["vectors"] = table.vectors.values
    for name, column in table.columns.items():
        tensors[COLUMN + name] = column.numbers.values
        tensors[VALUES + name] = json_tensor(column.values[1:])
    metadata = describe(code_length, len(table))
    if next_id != _next_id(ids):  # the ids do not tell it
        metadata["next_id"] = str(next_id)
    write_tensors(path, tensors, metadata)


def read_content(path: str | os.PathLike[str], *, memory_map: bool) -> Content:
    """Return what a file holds after checking all that it says, in the file or in memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `save_store` did not write it, or it is not whole.
    """
    tensors, metadata = read_code_file(path)
    if not memory_map:
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        return _to_content(tensors, metadata)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected a whole file that HammingKNN.save wrote, got `{path}`: {error}"
        ) from error


def fill_store(store: CodeStore, content: Content) -> None:
    """Put what a file holds into an empty store, one that is not in memory batch by batch."""
    table = content.table
    if isinstance(store, MemoryStore):
        store.adopt(content.code_length, table, content.next_id)
        return
    with_vectors = table.vectors is not None
    store.prepare(content.code_length, with_vectors=with_vectors, next_id=content.next_id)
    for start in range(0, len(table), BATCH):
        batch = table.records(table.kept_rows_from(start, BATCH))
        store.append(batch.packed_codes, batch.ids, vectors=batch.vectors, metadata=batch.metadata)


def _to_content(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Content:
    code_length, count = int(metadata["code_length"]), int(metadata["count"])
    packed_codes, vectors = tensors["packed_codes"], tensors.get("vectors")
    to_packed(packed_codes, "packed_codes", code_length)
    if vectors is not None:
        check_finite(vectors, "vectors")
    ids = _to_ids(tensors, count)
    columns = {
        name: _to_column(name, tensors[COLUMN + name], tensors[VALUES + name])
        for name in sorted(column_names(tensors))
    }
    least = _next_id([ids])
    next_id = int(metadata.get("next_id", least))
    if next_id < least:
        raise ValueError(f"`next_id` is {next_id}, and an id is {least - 1}.")
    return Content(code_length, Table(packed_codes, Ids(ids), vectors, columns), next_id)


def _to_column(name: str, numbers: Tensor, values: Tensor) -> Column:
    loaded = from_json_tensor(values)
    distinct = (None, *to_metadata({name: loaded}, len(loaded))[name])
    if len(set(distinct)) < len(distinct):
        raise ValueError(f"the values of `{name}` are not distinct.")
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(distinct):
        raise ValueError(f"`{COLUMN}{name}` are not numbers of its {len(distinct)} values.")
    return Column(numbers, distinct)


AnyIds = CountedIds | IntegerIds | StringIds | list[Hashable]


def _to_ids(tensors: dict[str, Tensor], count: int) -> AnyIds:
    if "id_offsets" in tensors:
        return StringIds(tensors["id_offsets"].numpy(), tensors["ids"].numpy())
    if "ids" not in tensors:
        return CountedIds(0, count)
    if tensors["ids"].dtype == torch.int64:
        return IntegerIds(tensors["ids"].numpy())
    loaded = from_json_tensor(tensors["ids"])
    return pack_ids(to_ids([_from_json(id_) for id_ in loaded], count))


def _id_tensors(parts: Sequence[AnyIds]) -> dict[str, Tensor]:
    """Return ids as tensors: none where they count from 0."""
    integers = [part.values for part in parts if isinstance(part, IntegerIds)]
    strings = [part for part in parts if isinstance(part, StringIds)]
    if len(integers) == len(parts):
        values = np.concatenate(integers)
        counts = bool((values == np.arange(len(values))).all())
        return {} if counts else {"ids": torch.from_numpy(values)}
    if len(strings) == len(parts):
        text = np.concatenate([part.text for part in strings])
        sizes = np.concatenate([np.diff(part.offsets) for part in strings])
        offsets = np.append(0, np.cumsum(sizes, dtype=np.int64))
        return {"ids": torch.from_numpy(text), "id_offsets": torch.from_numpy(offsets)}
    return {"ids": json_tensor([_to_json(id_) for part in parts for id_ in _to_list(part)])}


def _to_list(ids: AnyIds) -> list[Hashable]:
    return ids if isinstance(ids, list) else ids.take(np.arange(len(ids)))


def _next_id(parts: Sequence[AnyIds]) -> int:
    """Return one more than the largest integer id."""
    largest = -1
    for part in parts:
        if isinstance(part, CountedIds):
            largest = max(largest, part.stop - 1)
        elif isinstance(part, IntegerIds):
            largest = max(largest, int(part.values.max()))
        elif isinstance(part, list):
            largest = max([largest, *(id_ for id_ in part if isinstance(id_, int))])
    return largest + 1


def _to_json(id_: Hashable) -> Any:
    """Return what JSON gives back unchanged: a tuple as a list, as no list is an id."""
    return [_to_json(part) for part in id_] if isinstance(id_, tuple) else id_


def _from_json(id_: object) -> Hashable:
    if isinstance(id_, list):
        return tuple(_from_json(part) for part in id_)
    if type(id_) not in (str, int):
        raise ValueError(f"an id is {id_!r}, which is no string, integer or list of these.")
    return id_  # pyright: ignore[reportReturnType] - its type was checked
