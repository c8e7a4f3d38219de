"""The engine knows nothing of PML, and no object of the room reaches into another."""

import ast
from pathlib import Path

import pytest

import pml_hashing.trainers

ROOM = Path(pml_hashing.trainers.__file__).parent
FILES = sorted(ROOM.glob("*.py"))
OF_TORCH = {"grad", "_shutdown_workers", "_workers"}  # it has no other way to end workers here


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_the_trainer_imports_pml(path):
    names = set(imported(ast.parse(path.read_text())))
    of_pml = {name for name in names if name.startswith("pytorch_metric_learning")}
    assert not of_pml
    face = {"pml_hashing._compat", "pml_hashing.trainers.asymmetric_trainer"}
    if path.name not in {"asymmetric_trainer.py", "__init__.py"}:
        assert not names & face


def is_own(node):
    """Whether an attribute is one of `self`, `cls` or `super()`."""
    is_super = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "super"
    return is_super or getattr(node, "id", "") in {"self", "cls"}


def intrusions(source):
    """Yield attributes of other objects that are written or private, and engines without a type."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            is_private = node.attr.startswith("_") and not node.attr.endswith("__")
            if not isinstance(node.ctx, ast.Load) or is_private:
                yield ast.unparse(node)
        if isinstance(node, ast.arg) and node.arg in {"trainer", "engine", "caller"}:
            annotation = "" if node.annotation is None else ast.unparse(node.annotation)
            if annotation in {"", "Any", "object"}:
                yield node.arg
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"setattr", "vars"}:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_object_reaches_into_another(path):
    found = set(intrusions(path.read_text()))
    assert {node.rpartition(".")[-1] for node in found} <= OF_TORCH, found


@pytest.mark.parametrize(
    "source",
    [
        "def f(trainer: Any): ...",
        "def f(engine): ...",
        "trainer.epoch = 1",
        "self.folder.newest = 1",
        "for trainer.epoch in range(3): ...",
        "trainer.step += 1",
        "del trainer.networks",
        "self.loader._iterator",
        "setattr(trainer, 'epoch', 1)",
    ],
)
def test_intrusions_are_found(source):
    assert list(intrusions(source))
