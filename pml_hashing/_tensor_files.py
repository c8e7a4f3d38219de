"""Files of tensors: safetensors with a checksum of all that they hold."""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pml_hashing._files import write_atomically

CHECKSUM = "sha256"

Summary: TypeAlias = Mapping[str, tuple[str, tuple[int, ...], str]]
"""The dtype, the shape and the SHA-256 of the bytes of every tensor."""


def write_tensors(
    path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write contiguous tensors and `metadata` to a file, atomically.

    Raises:
        OSError: If the folder cannot be written, or is full.
    """
    signed = sign(metadata, summarize(tensors))

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, signed)
        except SafetensorError as error:
            raise OSError(
                errno.EIO, f"Expected to write it whole, got {error}", os.fspath(path)
            ) from error

    write_atomically(path, write)


def read_tensors(
    path: str | os.PathLike[str], expected: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, mapped from the file, and the metadata of what `write_tensors` wrote.

    The checksum tells a damaged file, not a forged one: callers check what they use.

    Args:
        path: A file. A device or a pipe may never end.
        expected: What the metadata must say: the format and its version.

    Raises:
        ValueError: If it is not a whole safetensors file of this format with the checksum of its
            content. The message says what is wrong, for a caller who says what was expected.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {key: metadata.get(key) for key in expected}
            if found != expected:
                raise ValueError(f"its metadata say {found}, not {expected}.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        unsigned = {key: value for key, value in metadata.items() if key != CHECKSUM}
        is_whole = metadata == sign(unsigned, summarize(tensors))
    # A dtype that torch lacks, or a shape that it refuses, is no SafetensorError.
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"it is no whole safetensors file ({error}).") from error
    if not is_whole:
        raise ValueError("the content does not have the checksum that was saved with it.")
    return tensors, unsigned


def summarize(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Return the summary of contiguous tensors on the CPU."""
    summary = {}
    for name, tensor in tensors.items():
        digest = hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy().data)
        summary[name] = (str(tensor.dtype), tuple(tensor.shape), digest.hexdigest())
    return summary


def sign(metadata: Mapping[str, str], summary: Summary) -> dict[str, str]:
    """Return the metadata with a checksum of it and of the tensors.

    It is made from a summary, so that a tensor can be written and hashed piece by piece.
    """
    text = json.dumps([sorted(metadata.items()), sorted(summary.items())])
    return {**metadata, CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}
