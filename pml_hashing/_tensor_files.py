"""Files of tensors: safetensors with a checksum of all that they hold."""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pml_hashing._files import write_atomically

CHECKSUM = "sha256"


def write_tensors(
    path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write contiguous tensors and `metadata` to a file, atomically.

    Raises:
        OSError: If the folder cannot be written, or is full.
    """
    signed = metadata | {CHECKSUM: checksum(tensors, metadata)}

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
    """Return the tensors and the metadata of a file of `write_tensors`.

    The checksum tells a damaged file, not a forged one: callers check what they use.

    Args:
        path: A file. A device or a pipe may never end.
        expected: What the metadata must say: the format and its version.

    Raises:
        ValueError: If it is no whole safetensors file of this format with the checksum of its
            content. The message says what is wrong, for a caller who says what was expected.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {key: metadata.get(key) for key in expected}
            if found != expected:
                raise ValueError(f"its metadata say {found}, not {expected}.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        saved = metadata.pop(CHECKSUM, None)
        is_whole = saved == checksum(tensors, metadata)
    # A dtype that torch lacks, or a shape that it refuses, is no SafetensorError.
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"it is no whole safetensors file ({error}).") from error
    if not is_whole:
        raise ValueError("the content does not have the checksum that was saved with it.")
    return tensors, metadata


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values, and of the metadata."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
