"""How threads wait: not by spinning, where other processes want the cores."""

import os


def prepare_threads() -> None:
    """Let threads of OpenMP sleep while they wait for each other, unless the user says otherwise.

    It is read when torch and faiss are imported, which no command does before it runs. Two threads
    that spin take several times as long where another process has one of two cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
