"""The file of a `HammingKNN`: all that is held, which nothing in it can make execute."""

import os
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

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
from pml_hashing.search._ids import IdArray, Ids, id_from_json, joined, to_array
from pml_hashing.search._table import Column, Table
from pml_hashing.search.approximate import ApproximateIndex
from pml_hashing.search.graph import Graph
from pml_hashing.search.memory_store import MemoryStore
from pml_hashing.search.store import CodeStore, Records

BATCH = 2**16  # codes that are read from a store, or appended to it, at a time


class Read(NamedTuple):
    """What a file holds.

    Attributes:
        table: Codes, ids and metadata.
        graph: That of an HNSW index over the codes, if one was written.
        model: The fingerprint of the model whose codes they are, if `encode` wrote them.
    """

    table: Table
    graph: Graph | None
    model: str | None


def save_store(
    store: CodeStore, path: str | os.PathLike[str], index: ApproximateIndex | None = None
) -> None:
    """Write all of a store to a safetensors file, atomically.

    Args:
        store: The store.
        path: The file.
        index: An index over it, whose graph is written if it has one.

    Raises:
        OSError: If the folder cannot be written, or is full.
    """
    with store.frozen():
        if isinstance(store, MemoryStore):
            table, graph = store.copied(), index and index.graph(store.table)
        else:
            table, graph = _copied(store), None
    ids = table.ids.to_array()
    tensors = table.tensors | _id_tensors(ids)
    for name, column in table.columns.items():
        tensors[VALUES + name] = json_tensor(column.values[1:])
    metadata = describe(table.code_length, len(table))
    if table.ids.next_id != Ids(ids).next_id:  # the ids do not tell it
        metadata["next_id"] = str(table.ids.next_id)
    if graph is not None:
        of_graph = graph.to_file()
        tensors, metadata = tensors | of_graph[0], metadata | of_graph[1]
    write_tensors(path, tensors, metadata)


def read_table(
    path: str | os.PathLike[str], *, memory_map: bool, with_vectors: bool = True
) -> Read:
    """Return what a file holds after checking all that it says, in the file or in memory.

    Args:
        path: The file.
        memory_map: Whether tensors are left in the file.
        with_vectors: Whether vectors are kept, if there are any.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `save_store` did not write it, or it is not whole.
    """
    tensors, metadata = read_code_file(path)
    if not memory_map:
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        code_length, count = int(metadata["code_length"]), int(metadata["count"])
        to_packed(tensors["packed_codes"], "packed_codes", code_length)
        if "vectors" in tensors:
            check_finite(tensors["vectors"], "vectors")
        ids = Ids(_to_ids(tensors, count))
        next_id = int(metadata.get("next_id", ids.next_id))
        if next_id < ids.next_id:
            raise ValueError(f"`next_id` is {next_id}, and an id is {ids.next_id - 1}.")
        ids.skip_to(next_id)
        columns = {
            name: _to_column(name, tensors[COLUMN + name], tensors[VALUES + name])
            for name in sorted(column_names(tensors))
        }
        names = ["packed_codes", *(COLUMN + name for name in columns)]
        names += ["vectors"] if with_vectors and "vectors" in tensors else []
        graph = Graph.of_file(tensors, metadata)
        table = Table(code_length, {name: tensors[name] for name in names}, ids, columns)
        return Read(table, graph, metadata.get("model"))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected a whole file that HammingKNN.save wrote, got `{path}`: {error}"
        ) from error


def fill_store(store: CodeStore, table: Table) -> None:
    """Put what a file holds into an empty store, one that is not in memory batch by batch."""
    if isinstance(store, MemoryStore):
        store.adopt(table)
        return
    store.prepare(
        table.code_length or 0, with_vectors=table.with_vectors, next_id=table.ids.next_id
    )
    for records in _batches(table):
        store.append(records)


def _batches(table: Table) -> Iterator[Records]:
    """Yield what a file holds, of which nothing is removed, batch by batch."""
    for start in range(0, len(table), BATCH):
        yield table.records(table.rows(start=start, stop=start + BATCH))


def _copied(store: CodeStore) -> Table:
    """Return all that is held, which is read batch by batch."""
    table = Table.empty(store.code_length, with_vectors=store.with_vectors, room=len(store))
    parts = []
    for batch in store.batches(BATCH):
        table.append(batch)
        parts.append(to_array(batch.ids))
    table.ids = Ids(joined(parts))
    table.ids.skip_to(store.next_id)
    return table


def merge_files(
    paths: Iterable[str | os.PathLike[str]], into: str | os.PathLike[str] | CodeStore
) -> int:
    """Put the codes of several files into one file or store, in order, and return how many.

    Files are read batch by batch; a new file is put together in memory. In a store, codes are
    appended to what it holds. A batch that it holds already is left out, so that the same call goes
    on where another was stopped.

    Args:
        paths: Files of `HashingModel.encode` with `ids`, or of `HammingKNN.save`, whose codes are
            of one length and of one model. Vectors are left out.
        into: A file to write, atomically, or a store.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If `paths` is a single path, or values of a column are of another type in a file.
        ValueError: If there are no `paths`, a file is not whole, lengths or models differ, or an id
            comes twice.
    """
    store = into if isinstance(into, CodeStore) else MemoryStore()
    model_of, num_counted = dict[str, object](), 0
    for path in _to_paths(paths):
        found = read_table(path, memory_map=True, with_vectors=False)
        if found.model is not None:
            model_of.setdefault(found.model, path)
        _check_one_model(list(model_of.values()))
        num_counted += found.table.ids.are_counted
        _prepare(store, found.table.code_length or 0, path)
        for records in _batches(found.table):
            _append_once(store, records, path, is_new=num_counted > 1)
    if not isinstance(into, CodeStore):
        save_store(store, into)
    return len(store)


def _to_paths(paths: object) -> list[str | os.PathLike[str]]:
    if isinstance(paths, (str, bytes, os.PathLike)) or not isinstance(paths, Iterable):
        raise TypeError(f"Expected `paths` to be a list of files, got {paths!r}.")
    found = list(paths)
    if not found:
        raise ValueError("Expected `paths` of at least one file, got none.")
    return found


def _check_one_model(paths: list[object]) -> None:
    """Raise if there are files of several models, of which one is given for each."""
    if len(paths) > 1:
        raise ValueError(
            f"Expected codes of one model, as others are not comparable, got `{paths[1]}` of other "
            f"weights than `{paths[0]}`: encode one of the parts again."
        )


def _prepare(store: CodeStore, code_length: int, path: object) -> None:
    try:
        store.prepare(code_length, with_vectors=False)
    except ValueError as error:
        raise ValueError(
            f"Expected files with codes as those that are held, of {store.code_length} bits "
            f"{'with' if store.with_vectors else 'without'} vectors, got codes of {code_length} "
            f"bits in `{path}`."
        ) from error


def _append_once(store: CodeStore, records: Records, path: object, *, is_new: bool) -> None:
    """Append records, unless the same are held already.

    Args:
        store: The store.
        records: What to append.
        path: Their file, for messages.
        is_new: Whether what has the same ids is another's, even if it has the same codes.

    Raises:
        TypeError: If a value is not of the type of its column.
        ValueError: If an id is held, and not all of them with these codes.
    """
    try:
        store.append(records)
    except TypeError as error:
        raise TypeError(f"Expected files with columns that fit, got `{path}`: {error}") from error
    except ValueError as error:
        if is_new or not _holds(store, records):
            raise ValueError(
                f"Expected files with ids of their own, as `encode` takes them, got `{path}`: "
                f"{error}"
            ) from error


def _holds(store: CodeStore, records: Records) -> bool:
    try:
        return torch.equal(store.get(records.ids).packed_codes, records.packed_codes)
    except ValueError:  # one of them is missing
        return False


def _to_column(name: str, numbers: Tensor, values: Tensor) -> Column:
    loaded = from_json_tensor(values)
    column = Column(to_metadata({name: loaded}, len(loaded))[name])
    if len(set(column.values)) < len(column.values):
        raise ValueError(f"the values of `{name}` are not distinct.")
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(column.values):
        raise ValueError(f"`{COLUMN}{name}` are not numbers of its {len(column.values)} values.")
    return column


def _to_ids(tensors: dict[str, Tensor], count: int) -> range | IdArray | list[Hashable]:
    if "ids" not in tensors:
        return range(count)
    ids, offsets = tensors["ids"], tensors.get("id_offsets")
    if offsets is None and ids.dtype == torch.uint8:
        return to_array(to_ids([id_from_json(id_) for id_ in from_json_tensor(ids)], count))
    array = IdArray(ids.numpy(), None if offsets is None else offsets.numpy())
    array.check()
    return array


def _id_tensors(ids: IdArray | list[Hashable]) -> dict[str, Tensor]:
    """Return ids as tensors: none where they count from 0."""
    if isinstance(ids, list):
        return {"ids": json_tensor(ids)}
    tensors = {"ids": torch.from_numpy(ids.values)}
    if ids.offsets is not None:
        return tensors | {"id_offsets": torch.from_numpy(ids.offsets)}
    return {} if (ids.values == np.arange(len(ids))).all() else tensors
