"""The safetensors format: a header of JSON, then the bytes of tensors.

The package of that name opens a path twice to map it, and cannot tell what a disk said.
"""

import json
import math
import struct
from collections.abc import Mapping
from mmap import ACCESS_COPY, mmap
from typing import Any, BinaryIO, TypeAlias

import torch
from torch import Tensor

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
SIZE = struct.Struct("<Q")
"""Of the header, which stands before it."""

METADATA = "__metadata__"
LARGEST_HEADER = 100_000_000  # bytes, as in the package
LARGEST_NDIM = 64

Shapes: TypeAlias = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def header_of(shapes: Shapes, metadata: Mapping[str, str], size: int | None = None) -> bytes:
    """Return the first bytes of a file of tensors that follow in this order.

    Args:
        shapes: Dtype and shape of each tensor.
        metadata: What else the file says.
        size: How many bytes to return. As few as keep the tensors aligned if `None`.

    Raises:
        ValueError: If the format has no such dtype.
    """
    entries: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in shapes.items():
        if dtype not in NAMES:
            raise ValueError(f"Expected tensors of types that safetensors has, got {dtype}.")
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode("ascii")
    length = -len(text) % 8 + len(text) if size is None else size - SIZE.size
    return SIZE.pack(length) + text.ljust(length)


def write(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors on the CPU, the widest numbers first: all are aligned.

    Raises:
        OSError: If the disk is full, say.
        ValueError: If the format has no such dtype.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    shapes = {name: (tensors[name].dtype, tuple(tensors[name].shape)) for name in order}
    file.write(header_of(shapes, metadata))
    file.writelines(bytes_of(tensors[name]) for name in order)


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU, which are not copied."""
    return tensor.detach().view(-1).view(torch.uint8).numpy().data


def read(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata. All sizes are checked before a tensor is made.

    The tensors are mapped: what is read of them is read from the file, also once it is closed, and
    what is written to them stays in memory.

    Args:
        file: An ordinary file that is open.

    Raises:
        ValueError: If it is no whole safetensors file.
    """
    file.seek(0, 2)
    size = file.tell()
    if size < SIZE.size:
        raise ValueError("it is too short.")
    content = mmap(file.fileno(), 0, access=ACCESS_COPY)
    start = SIZE.size + SIZE.unpack_from(content)[0]
    if start > min(len(content), LARGEST_HEADER):
        raise ValueError(f"its header of {start:,} bytes is cut or too long.")
    entries = json.loads(content[SIZE.size : start].decode())  # their errors are ValueErrors
    if not isinstance(entries, dict):
        raise ValueError("its header is no dict.")
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are no strings.")
    places = {name: _place(name, entry) for name, entry in entries.items()}
    end = start
    for name, (_, _, (first, last)) in sorted(places.items(), key=lambda item: item[1][2]):
        if start + first != end:
            raise ValueError(f"{name} does not begin where the one before ends.")
        end = start + last
    if end != len(content):
        raise ValueError(f"it should have {end:,} bytes, and has {len(content):,}.")
    tensors = {
        name: _mapped(content, start + first, dtype, shape)
        for name, (dtype, shape, (first, _)) in places.items()
    }
    return tensors, metadata


def _place(name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], tuple[int, int]]:
    """Return dtype, shape and place of a tensor after checking that they agree."""
    try:
        dtype = DTYPES[entry["dtype"]]
        shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its entry for {name} is {str(entry)[:99]}.") from error
    numbers = (*shape, first, last)
    are_sizes = all(type(number) is int and 0 <= number < 2**63 for number in numbers)
    if not are_sizes or len(shape) > LARGEST_NDIM:
        raise ValueError(f"its entry for {name} is {str(entry)[:99]}.")
    if last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {last - first:,} bytes, too few or too many for {shape}.")
    return dtype, shape, (first, last)


def _mapped(content: mmap, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype, device="cpu")
    if start % dtype.itemsize:  # another writer's: this one aligns
        buffer = bytearray(content[start : start + count * dtype.itemsize])
        return torch.frombuffer(buffer, dtype=dtype).view(shape)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=start).view(shape)
