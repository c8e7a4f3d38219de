"""Without an extra, what needs it is not collected: the tests run with what is installed."""

import ast
import importlib.util
import runpy
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = {"chdb", "clickhouse_connect", "fastapi", "numba", "onnx", "onnxruntime", "pyarrow", "ray"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in (ROOT / "pml_hashing").rglob("*.py")
}


def imported(path):
    """Return what a module imports as soon as it is imported itself."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_what_needs_an_extra_is_not_collected_without_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ignored = runpy.run_path(str(ROOT / "conftest.py"))["collect_ignore_glob"]
    imports = {name: {*imported(path)} for name, path in MODULES.items()}
    needy = {name for name, of in imports.items() if {i.split(".")[0] for i in of} & EXTRAS}
    while more := {name for name, of in imports.items() if of & needy} - needy:
        needy |= more
    assert "pml_hashing.collection.lease" in needy  # through another module
    paths = [MODULES[name].relative_to(ROOT).as_posix() for name in needy]
    assert not [path for path in paths if not any(fnmatch(path, glob) for glob in ignored)]
