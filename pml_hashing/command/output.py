"""What the command prints: names of files whatever their bytes are, and JSON."""

import codecs
import json
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from typing import Any

import click

CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
NAMES = "pml_hashing.names"


def prepare_streams() -> None:
    """Let all names of files be printed: bytes that are no text as they are."""
    codecs.register_error(NAMES, _encode_anyhow)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=NAMES)


def _encode_anyhow(error: UnicodeError) -> tuple[str | bytes, int]:
    for handler in ("surrogateescape", "backslashreplace"):
        try:
            return codecs.lookup_error(handler)(error)
        except UnicodeError:
            continue
    raise error


def shown(name: object) -> str:
    """Return a name in one line, without what would steer a terminal."""
    return str(name).translate(CONTROLS)


def counted(counts: Mapping[str, int]) -> str:
    """Return how many there are of each kind, in one line."""
    return ", ".join(f"{count:,} {shown(kind) or 'without'}" for kind, count in counts.items())


def say(text: str) -> None:
    """Print a line of what was asked for."""
    click.echo(text, sys.stdout)  # without a file, click puts a question mark for what is no text


def warn(message: object) -> None:
    """Print a line on the error stream, where it is in nobody's way."""
    click.echo(shown(message), sys.stderr)


def print_json(content: Any) -> None:
    """Print JSON, in ASCII: bytes of names that are no text are escaped as Python does."""
    say(json.dumps(content, indent=2, default=str))
