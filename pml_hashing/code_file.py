"""The file of packed codes: safetensors with a checksum, in which nothing can be made execute."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pml_hashing._tensor_files import read_tensors
from pml_hashing.codes import packed_length

FORMAT = {"format": "pml_hashing.HammingKNN", "format_version": "2"}
DTYPES = {
    "packed_codes": torch.uint8,
    "ids": torch.uint8,
    "vectors": torch.float32,
    "unreadable": torch.uint8,
}


def describe(code_length: int | None, count: int) -> dict[str, str]:
    """Return the metadata of a file of so many codes."""
    return FORMAT | {"code_length": str(code_length), "count": str(count)}


def read_code_file(
    path: str | os.PathLike[str], *, written_by: str = "HammingKNN.save"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata after checking checksum, shapes and types.

    The tensors are mapped from the file: what is read of them is read from the disk, and what is
    written to them stays in memory.

    Args:
        path: The file.
        written_by: Who should have written it, for messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not whole, or another file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected a file that {written_by} wrote, got none at `{path}`.")
    try:
        tensors, metadata = read_tensors(path, FORMAT)
        _check(tensors, metadata)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Expected a whole file that {written_by} wrote, got `{path}`: {error}"
        ) from error
    return tensors, metadata


def _check(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
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


def json_tensor(content: Any) -> Tensor:
    """Return the bytes of ASCII JSON as a tensor of a file."""
    return torch.frombuffer(bytearray(json.dumps(content).encode("ascii")), dtype=torch.uint8)


def from_json_tensor(tensor: Tensor) -> Any:
    """Return what `json_tensor` wrote."""
    return json.loads(tensor.numpy().tobytes())
