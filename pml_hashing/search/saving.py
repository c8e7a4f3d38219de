"""The file of a `HammingKNN`: codes, ids and vectors, which nothing in it can make execute."""

import json
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_hashing._checks import check_finite
from pml_hashing._tensor_files import read_tensors, write_tensors
from pml_hashing.codes import packed_length
from pml_hashing.search._arguments import to_ids, to_packed
from pml_hashing.search.store import CodeStore

FORMAT = {"format": "pml_hashing.HammingKNN", "format_version": "2"}
DTYPES = {"packed_codes": torch.uint8, "ids": torch.uint8, "vectors": torch.float32}


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
        content = json.dumps([_to_json(id_) for id_ in ids]).encode("ascii")
        tensors["ids"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    if with_vectors:
        tensors["vectors"] = store.vectors(rows).contiguous()
    sizes = {"code_length": str(store.code_length), "count": str(len(store))}
    write_tensors(path, tensors, FORMAT | sizes)


def read_content(path: str | os.PathLike[str]) -> Content:
    """Return what a file holds after checking all that it says.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `save_store` did not write it, or it is not whole.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"Expected a file that HammingKNN.save wrote, got none at `{path}`."
        )
    try:
        return _check_content(*read_tensors(path, FORMAT))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected a whole file that HammingKNN.save wrote, got `{path}`: {error}"
        ) from error


def _check_content(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Content:
    code_length, count = int(metadata["code_length"]), int(metadata["count"])
    if "packed_codes" not in tensors or not tensors.keys() <= DTYPES.keys():
        raise ValueError(f"its tensors are {', '.join(sorted(tensors))}, not {', '.join(DTYPES)}.")
    for name, tensor in tensors.items():
        if tensor.dtype != DTYPES[name]:
            raise ValueError(f"`{name}` are {tensor.dtype}, not {DTYPES[name]}.")
    widths = {"packed_codes": packed_length(code_length), "vectors": code_length}
    for name, width in widths.items():
        shape = tuple(tensors[name].shape) if name in tensors else (count, width)
        if shape != (count, width):
            raise ValueError(f"`{name}` are of shape {shape}, not {(count, width)}.")
    to_packed(tensors["packed_codes"], "packed_codes", code_length)
    return _to_content(tensors, code_length, count)


def _to_content(tensors: dict[str, Tensor], code_length: int, count: int) -> Content:
    ids, vectors = None, tensors.get("vectors")
    if "ids" in tensors:
        loaded = json.loads(tensors["ids"].numpy().tobytes())
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
