"""The file of packed codes: safetensors with a checksum, in which nothing can be executed."""

import json
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pml_hashing._files import open_file
from pml_hashing._tensor_files import read_tensors
from pml_hashing.codes import packed_length

FORMAT = {"format": "pml_hashing.HammingKNN", "format_version": "2"}
COLUMN, VALUES = "column.", "values."  # before the name of a column of metadata
DTYPES = {
    "packed_codes": {torch.uint8},
    "ids": {torch.uint8, torch.int64},
    "id_offsets": {torch.int64},
    "vectors": {torch.float32},
    "unreadable": {torch.uint8},
    "graph_levels": {torch.int32},
    "graph_neighbors": {torch.int32},
    COLUMN: {torch.int32},
    VALUES: {torch.uint8},
}


def describe(code_length: int | None, count: int) -> dict[str, str]:
    """Return the metadata of a file of `count` codes."""
    return FORMAT | {"code_length": str(code_length), "count": str(count)}


def read_code_file(
    path: str | os.PathLike[str], *, written_by: str = "HammingKNN.save"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata after checking checksum, shapes and types.

    The tensors are mapped from the file: what is read of them is read from the disk, and what is
    written to them stays in memory.

    Args:
        path: The file.
        written_by: What should have written it, for messages.

    Raises:
        FileNotFoundError: If there is no such file, or something else in its place.
        ValueError: If it is damaged, or another kind of file.
    """
    try:
        with open_file(path, f"a file that {written_by} wrote") as file:
            tensors, metadata = read_tensors(file, FORMAT)
        _check(tensors, metadata)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Expected a whole file that {written_by} wrote, got `{path}`: {error}"
        ) from error
    return tensors, metadata


def _check(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    code_length, count = int(metadata["code_length"]), int(metadata["count"])
    kinds = {name: _kind(name) for name in tensors}
    if "packed_codes" not in tensors or not set(kinds.values()) <= DTYPES.keys():
        raise ValueError(f"its tensors are {', '.join(sorted(tensors))}, not {', '.join(DTYPES)}.")
    if column_names(tensors, COLUMN) != column_names(tensors, VALUES):
        names = ", ".join(sorted(tensors))
        raise ValueError(f"its tensors {names} have no `{VALUES}` for a column.")
    is_text = "ids" in tensors and tensors["ids"].dtype == torch.uint8
    if "id_offsets" in tensors and not is_text:
        raise ValueError("`id_offsets` are there, but not the bytes of `ids`.")
    shapes = {
        "packed_codes": (count, packed_length(code_length)),
        "vectors": (count, code_length),
        "id_offsets": (count + 1,),
        "graph_levels": (count,),
        COLUMN: (count,),
    }
    if not is_text:
        shapes["ids"] = (count,)
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES[kinds[name]]:
            wanted = " or ".join(sorted(map(str, DTYPES[kinds[name]])))
            raise ValueError(f"`{name}` are {tensor.dtype}, not {wanted}.")
        shape = shapes.get(kinds[name], (tensor.numel(),))
        if tuple(tensor.shape) != shape:
            raise ValueError(f"`{name}` are of shape {tuple(tensor.shape)}, not {shape}.")


def column_names(tensors: Iterable[str], prefix: str = COLUMN) -> set[str]:
    """Return the names of the columns whose tensors have this prefix."""
    return {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}


def _kind(name: str) -> str:
    """Return the kind of a tensor, which is the same for all columns."""
    return next((prefix for prefix in (COLUMN, VALUES) if name.startswith(prefix)), name)


def json_tensor(content: Any) -> Tensor:
    """Return the bytes of ASCII JSON as a tensor of a file."""
    return torch.frombuffer(bytearray(json.dumps(content).encode("ascii")), dtype=torch.uint8)


def from_json_tensor(tensor: Tensor) -> Any:
    """Return what `json_tensor` wrote."""
    return json.loads(tensor.numpy().tobytes())
