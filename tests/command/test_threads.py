"""Threads of a command do not spin."""

import os
import subprocess
import sys

import pytest

from pml_hashing.command.threads import prepare_threads


@pytest.mark.parametrize("given", [None, "active"])
def test_threads_sleep_unless_the_user_says_otherwise(monkeypatch, given):
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    prepare_threads()
    assert os.environ["OMP_WAIT_POLICY"] == (given or "passive")


def test_the_command_is_imported_before_threads_are_made():
    script = "import pml_hashing.command, sys; print({'torch', 'faiss'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert found.stdout.strip() == b"set()"
