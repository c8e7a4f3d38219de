"""Errors of other libraries, in one line."""

import textwrap


def shortened(error: Exception) -> str:
    """Return kind and message in one line: torch lists every name of a large model."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", width=300, placeholder=" ...")
