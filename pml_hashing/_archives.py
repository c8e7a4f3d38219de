"""What torch.save wrote, checked before it is loaded: nothing runs, and little takes little.

Tensors are all that may be large in it, and none is larger than the file.
"""

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor


def load_archive(file: BinaryIO, device: str = "cpu") -> Any:
    """Return what torch.save was given, if that was tensors, numbers, strings, lists and dicts.

    torch.load looks at no checksum, and at no size. The format before PyTorch 1.6 has none; what
    is compressed, or lies in the archive several times over, can become very much.

    Args:
        file: A file that is open.
        device: Where the tensors are to be. On "meta" their values are not read.

    Raises:
        pickle.UnpicklingError: If it holds objects of other kinds.
        ValueError: If it is no such archive, or claims more than its bytes.
        Exception: If somebody made it up: torch raises errors of all kinds.
    """
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its archive is compressed, as torch.save writes none.")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError(f"its archive claims more than its {size:,} bytes.")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                _check_pickle(archive.read(entry))
    file.seek(0)
    content = torch.load(file, device, weights_only=True)
    for tensor in _tensors_in(content):
        if tensor.nbytes > size:  # as a stride of 0 makes of a single number
            raise ValueError(f"a tensor claims {tensor.nbytes:,} bytes of a file of {size:,}.")
    return content


def check_checksums(file: BinaryIO) -> None:
    """Raise unless all parts of an archive have the checksums that stand in it.

    Raises:
        ValueError: If one does not.
        zipfile.BadZipFile: If it is no archive.
    """
    with zipfile.ZipFile(file) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"{broken} in it does not have its checksum.")


def _check_pickle(pickled: bytes) -> None:
    """Raise if a pickle calls what makes as many bytes as a number says."""
    for opcode, name, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and str(name).endswith(("bytearray", "Tensor")):
            raise ValueError(f"it calls {name}, which takes memory for nothing.")


def _tensors_in(content: Any) -> Iterator[Tensor]:
    """Yield the tensors in dicts, lists and tuples, which may hold themselves."""
    seen, left = set[int](), [content]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            left += [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
