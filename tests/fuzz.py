"""Damaged and forged files for every format: what a reader makes of them, and that it survives.

A reader is under test with a line in `FORMATS` of `test_fuzzed_files.py`:

    "my format": Format(write, read, "name.of_file"),
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER = 8  # bytes of the length that a safetensors file starts with
NUMBERS = (0, -1, 1, 7, 2**31, 2**63 - 1, 2**64, 10**30, 1.5, float("nan"))
VALUES = (*NUMBERS, None, True, "", "x", [], [[]], {}, "9" * 5000)
INSERTED = (b"\0", b"\xff" * 9, b"{}", b"9" * 20, b"[" * 2000)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        write: Writes a valid file to a path.
        read: Reads a file, and returns what can be compared by `==`.
        name: That of the file.
        is_checked: Whether a checksum tells every change from the valid file.
        sign: Puts the right checksum into a forged file, as an attacker can.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    name: str
    is_checked: bool = True
    sign: Callable[[Path], object] | None = None


def damaged(content: bytes, random_: random.Random) -> bytes:
    """Return other bytes: cut, repeated, inserted, overwritten, joined or flipped."""
    start, stop = sorted(random_.randrange(len(content) + 1) for _ in range(2))
    size = min(stop - start, 16)
    changes = (
        lambda: content[:stop],
        lambda: content[:start] + content[stop:],
        lambda: content[:stop] + content[start:],
        lambda: content[:start] + random_.choice(INSERTED) + content[start:],
        lambda: content[:start] + random_.randbytes(size) + content[start + size :],
        lambda: content + random_.randbytes(random_.randrange(1, 64)),
        lambda: _flipped(content, random_),
    )
    return random_.choice(changes)()


def _flipped(content: bytes, random_: random.Random) -> bytes:
    """Flip one bit or eight, anywhere or where headers and directories are: at the ends."""
    changed, edge = bytearray(content), min(len(content), 400)
    for _ in range(random_.choice((1, 1, 1, 8))):
        anywhere, of_edge = random_.randrange(len(content)), random_.randrange(edge)
        changed[random_.choice((anywhere, of_edge, -1 - of_edge))] ^= 1 << random_.randrange(8)
    return bytes(changed)


def forged(content: bytes, random_: random.Random) -> bytes:
    """Return a safetensors file whose header is valid JSON that claims something else."""
    size = int.from_bytes(content[:HEADER], "little")
    header = json.loads(content[HEADER : HEADER + size])
    _change(header, random_)
    text = json.dumps(header).encode()
    return len(text).to_bytes(HEADER, "little") + text + content[HEADER + size :]


def _change(node: Any, random_: random.Random) -> None:
    """Change something in a tree of JSON, and in a string that is JSON itself."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
        return
    key = random_.choice(keys)
    value, kind = node[key], random_.randrange(6)
    if isinstance(value, (dict, list)) and value and kind:
        _change(value, random_)
    elif isinstance(value, str) and value[:1] in ("{", "[") and kind:
        inner = json.loads(value)
        _change(inner, random_)
        node[key] = json.dumps(inner)
    elif kind == 1 and isinstance(node, dict):
        del node[key]
    elif kind == 2 and isinstance(node, dict):
        node[random_.choice(("new", *keys))] = node.pop(key)
    elif kind == 3:
        node[key] = node[random_.choice(keys)]
    elif kind == 4 and isinstance(value, str):
        node[key] = random_.choice((str(random_.choice(NUMBERS)), "F64", "U8", "I8", value + "x"))
    else:
        node[key] = random_.choice(VALUES)


def cases(format_: Format, valid: Path, count: int, seed: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield `count` files as number, bytes, and whether they are to be signed."""
    content, random_ = valid.read_bytes(), random.Random(seed)
    for number in range(count):
        is_forged = format_.sign is not None and number % 2 == 1
        yield number, (forged if is_forged else damaged)(content, random_), is_forged


def survive(format_: Format, folder: Path, count: int, seed: int, log: Path) -> dict[str, int]:
    """Read `count` bad files, and return how many were refused, and how many were whole.

    Each is written to `log` first: it is there if the interpreter does not survive it.

    Raises:
        AssertionError: If a file gives another error, or other content without one.
    """
    valid = folder / format_.name
    format_.write(valid)
    original, valid_bytes = format_.read(valid), valid.read_bytes()
    counts = {"refused": 0, "whole": 0}
    for number, content, is_forged in cases(format_, valid, count, seed):
        log.write_bytes(content)
        valid.write_bytes(content)
        if is_forged and format_.sign is not None:
            format_.sign(valid)
        try:
            found = format_.read(valid)
        except ValueError as error:
            message = str(error)
            assert message.startswith("Expected "), (number, seed, message)
            assert str(folder) in message, (number, seed, message)
            counts["refused"] += 1
            continue
        # A header of the same meaning is whole. A forger may write any content that is valid.
        same = content == valid_bytes or found == original
        assert same or is_forged or not format_.is_checked, (number, seed)
        counts["whole"] += 1
    return counts
