"""The file of a `HammingKNN`: codes, ids and vectors, which nothing in it can make execute."""

import os
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_hashing._checks import check_finite
from pml_hashing._tensor_files import write_tensors
from pml_hashing.code_file import describe, from_json_tensor, json_tensor, read_code_file
from pml_hashing.search._arguments import to_ids, to_packed
from pml_hashing.search.store import CodeStore


class Content(NamedTuple):
    """What a file holds. `ids` is `None` where the id of every code is its row."""

    code_length: int
    packed_codes: Tensor
    ids: list[Hashable] | None
    vectors: Tensor | None


def save_store(store: CodeStore, path: str | os.PathLike[str], *, with_vectors: bool) -> None:
    """Write all of a store to a safetensors file, atomically.

    Raises:
        OSError: If the folder cannot be written, or is full.
        TypeError: If an id is neither a string, nor an integer, nor a tuple of these.
    """
    rows = torch.arange(len(store))
    tensors = {"packed_codes": store.packed_codes().contiguous()}
    ids = store.ids(rows)
    if ids != list(range(len(store))):
        tensors["ids"] = json_tensor([_to_json(id_) for id_ in ids])
    if with_vectors:
        tensors["vectors"] = store.vectors(rows).contiguous()
    write_tensors(path, tensors, describe(store.code_length, len(store)))


def read_content(path: str | os.PathLike[str]) -> Content:
    """Return what a file holds after checking all that it says.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `save_store` did not write it, or it is not whole.
    """
    tensors, metadata = read_code_file(path)
    try:
        return _to_content(tensors, int(metadata["code_length"]), int(metadata["count"]))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected a whole file that HammingKNN.save wrote, got `{path}`: {error}"
        ) from error


def _to_content(tensors: dict[str, Tensor], code_length: int, count: int) -> Content:
    to_packed(tensors["packed_codes"], "packed_codes", code_length)
    ids, vectors = None, tensors.get("vectors")
    if "ids" in tensors:
        loaded = from_json_tensor(tensors["ids"])
        ids = to_ids([_from_json(id_) for id_ in loaded], count)
    if vectors is not None:
        check_finite(vectors, "vectors")
    return Content(code_length, tensors["packed_codes"], ids, vectors)


def _to_json(id_: Hashable) -> str | int | list[Any]:
    """Return what JSON gives back unchanged: a tuple as a list, as no list is hashable."""
    if isinstance(id_, tuple):
        return [_to_json(part) for part in id_]
    if type(id_) in (str, int):
        return id_  # pyright: ignore[reportReturnType]
    raise TypeError(
        "Expected `ids` that are strings, integers or tuples of these, as only they can be saved, "
        f"got {id_!r} of type {type(id_).__name__}."
    )


def _from_json(id_: object) -> Hashable:
    if isinstance(id_, list):
        return tuple(_from_json(part) for part in id_)
    if type(id_) not in (str, int):
        raise ValueError(f"an id is {id_!r}, which is no string, integer or list of these.")
    return id_
