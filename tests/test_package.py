"""The top level: every name from its room, and nothing imported before it is asked for."""

import importlib
import pickle
import subprocess
import sys

import pytest

import pml_hashing
from pml_hashing.search import HammingKNN

IN_A_NEW_PROCESS = """
import sys
import pml_hashing
assert "torch" not in sys.modules
listed = dir(pml_hashing)
assert {*pml_hashing.__all__, "search", "losses"} <= {*listed}, listed
assert "_checks" not in listed, listed
assert pml_hashing.centers.hadamard(2).shape == (2, 2)
from pml_hashing import HammingKNN, code_file, codes, search, solvers
assert HammingKNN is search.HammingKNN
heavy = "timm torchvision sklearn scipy pytorch_metric_learning PIL matplotlib"
print([name for name in heavy.split() if name in sys.modules])
import pml_hashing.losses, pml_hashing.code_bank
print([name for name in heavy.split()[:3] if name in sys.modules])
sys.modules["matplotlib"] = None  # for a figure only
import pml_hashing.visualize
"""


def test_rooms_import_what_they_need():
    command = [sys.executable, "-c", IN_A_NEW_PROCESS]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n[]\n"


def test_every_public_name_is_that_of_its_room():
    for name in pml_hashing.__all__:
        value = getattr(pml_hashing, name)
        assert value.__name__ == name
        room = value.__module__.split(".")[1]
        assert getattr(importlib.import_module(f"pml_hashing.{room}"), name) is value
    assert pml_hashing.HammingKNN is HammingKNN


def test_dir_and_star():
    assert {*pml_hashing.__all__, "__version__", "search", "losses"} <= set(dir(pml_hashing))
    exec("from pml_hashing import *", names := {})
    assert names.keys() - {"__builtins__"} == set(pml_hashing.__all__)


@pytest.mark.parametrize("name", ["NoLoss", "nowhere", "_nothing", "__wrapped__"])
def test_other_names_are_missing(name):
    with pytest.raises(AttributeError, match=f"module 'pml_hashing' has no attribute '{name}'"):
        getattr(pml_hashing, name)
    with pytest.raises(ImportError, match=f"cannot import name '{name}' from 'pml_hashing'"):
        exec(f"from pml_hashing import {name}")


def test_names_can_be_pickled():
    for name in pml_hashing.__all__:
        value = getattr(pml_hashing, name)
        assert pickle.loads(pickle.dumps(value)) is value
