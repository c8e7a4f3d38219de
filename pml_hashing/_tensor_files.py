"""Files of tensors: safetensors with a checksum of all that they hold."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, TypeAlias

from torch import Tensor

from pml_hashing import _safetensors
from pml_hashing._files import write_atomically

CHECKSUM = "sha256"

Summary: TypeAlias = Mapping[str, tuple[str, tuple[int, ...], str]]
"""The dtype, the shape and the SHA-256 of the bytes of every tensor."""


def write_tensors(
    path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write contiguous tensors on the CPU and `metadata` to a file, atomically.

    Raises:
        OSError: If the folder cannot be written, or is full.
        ValueError: If safetensors has no such dtype.
    """
    signed = sign(metadata, summarize(tensors))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            _safetensors.write(file, tensors, signed)

    write_atomically(path, write)


def read_tensors(
    file: BinaryIO, expected: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, mapped from the file, and the metadata of what `write_tensors` wrote.

    The checksum tells a damaged file, not a forged one: callers check what they use.

    Args:
        file: What `open_file` has opened.
        expected: What the metadata must say: the format and its version.

    Raises:
        ValueError: If it is not a whole safetensors file of this format with the checksum of its
            content. The message says what is wrong, for a caller who says what was expected.
    """
    tensors, metadata = read_unsigned(file)
    found = {key: metadata.get(key) for key in expected}
    if found != expected:
        raise ValueError(f"its metadata say {found}, not {expected}.")
    unsigned = {key: value for key, value in metadata.items() if key != CHECKSUM}
    if metadata != sign(unsigned, summarize(tensors)):
        raise ValueError("the content does not have the checksum that was saved with it.")
    return tensors, unsigned


def read_unsigned(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, mapped from the file, and the metadata of any safetensors file.

    Raises:
        ValueError: If it is no whole safetensors file.
    """
    try:
        return _safetensors.read(file)
    except (ValueError, RecursionError, RuntimeError) as error:  # torch refuses some empty shapes
        raise ValueError(f"it is no whole safetensors file ({error}).") from error


def summarize(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Return the summary of contiguous tensors on the CPU."""
    summary = {}
    for name, tensor in tensors.items():
        digest = hashlib.sha256(_safetensors.bytes_of(tensor))
        summary[name] = (str(tensor.dtype), tuple(tensor.shape), digest.hexdigest())
    return summary


def sign(metadata: Mapping[str, str], summary: Summary) -> dict[str, str]:
    """Return the metadata with a checksum of it and of the tensors.

    It is made from a summary, so that a tensor can be written and hashed piece by piece.
    """
    text = json.dumps([sorted(metadata.items()), sorted(summary.items())])
    return {**metadata, CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}
