"""Writing files so that a crash loses nothing: to a temporary name, then renamed."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then put that file in its place.

    Whatever stood at `path` stays whole if `write` fails or the process is killed.

    Args:
        path: The file to write. Its folder is made where it does not exist.
        write: A function that writes the file at the path it is given.

    Raises:
        OSError: If the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary, ordinary = Path(folder) / path.name, Path(folder) / "ordinary"
        ordinary.touch()
        write(temporary)
        temporary.chmod(ordinary.stat().st_mode)  # safetensors lets only the owner read
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
