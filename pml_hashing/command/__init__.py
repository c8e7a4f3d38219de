"""The command `pml-hashing`: a thin layer over the Python API, one file per subcommand."""

from pml_hashing.command.app import main

__all__ = ["main"]
