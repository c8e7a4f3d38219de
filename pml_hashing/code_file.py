"""The file of packed codes: safetensors with a checksum, in which nothing can be made execute."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pml_hashing.codes import packed_length

FORMAT = "pml_hashing.HammingKNN"
FORMAT_VERSION = "1"
DTYPES = {
    "packed_codes": torch.uint8,
    "ids": torch.uint8,
    "vectors": torch.float32,
    "unreadable": torch.uint8,
}


def describe(
    code_length: int | None,
    shapes: dict[str, tuple[int, ...]],
    checksums: dict[str, str],
    **more: str,
) -> dict[str, str]:
    """Return the metadata of a file.

    Args:
        code_length: Number of bits.
        shapes: That of each tensor.
        checksums: The SHA-256 sum of each tensor's bytes.
        **more: What else is to be told.
    """
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "code_length": str(code_length),
        "count": str(shapes["packed_codes"][0]),
        **more,
    }
    return metadata | {"sha256": _checksum(metadata, shapes, checksums)}


def describe_tensors(code_length: int | None, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Return the metadata of a file that holds these tensors."""
    return describe(code_length, *_sum_up(tensors))


def _sum_up(tensors: dict[str, Tensor]) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sums = {name: hashlib.sha256(t.numpy().data).hexdigest() for name, t in tensors.items()}
    return shapes, sums


def _checksum(
    metadata: dict[str, str], shapes: dict[str, tuple[int, ...]], checksums: dict[str, str]
) -> str:
    """Return a sum over metadata and sums, so that codes can be summed up as they come."""
    tensors = [[name, shapes[name], checksums[name]] for name in sorted(checksums)]
    return hashlib.sha256(json.dumps([sorted(metadata.items()), tensors]).encode()).hexdigest()


def read_tensors(
    path: str | os.PathLike[str], *, written_by: str = "HammingKNN.save"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata after checking shapes, types and checksum.

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
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        _check(tensors, metadata)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"Expected a whole file that {written_by} wrote, got `{path}`: {error}"
        ) from error
    return tensors, metadata


def _check(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    found = metadata.get("format"), metadata.get("format_version")
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"format and version are {found}, not {(FORMAT, FORMAT_VERSION)}.")
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
    described = {key: value for key, value in metadata.items() if key != "sha256"}
    if _checksum(described, *_sum_up(tensors)) != metadata["sha256"]:
        raise ValueError("the content does not have the checksum that was saved with it.")


def json_tensor(content: Any) -> Tensor:
    """Return the bytes of ASCII JSON as a tensor of a file."""
    return torch.frombuffer(bytearray(json.dumps(content).encode("ascii")), dtype=torch.uint8)


def from_json_tensor(tensor: Tensor) -> Any:
    """Return what `json_tensor` wrote."""
    return json.loads(tensor.numpy().tobytes())
