"""The client of the examples, against a service."""

from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx", reason="httpx, which calls the service, is not installed")
SCRIPT = Path(__file__).parents[2] / "examples" / "search_client.py"


def load_client():
    loader = SourceFileLoader("search_client", str(SCRIPT))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module.SearchClient


def test_client(address, unchanged):
    photo = unchanged.path("hat/04.png")
    with load_client()(address) as client:
        found = client.search(photo, k=3)
        assert [each.name for each in found] == [
            match.name for match in unchanged.search(photo, k=3)
        ]
        alike = client.similar(found[0].id, k=2, label="shoe")
        expected = unchanged.similar("hat/04.png", k=2, where={"label": "shoe"})
        assert [each.name for each in alike] == [match.name for match in expected]
        assert client.picture(found[0].id).startswith(b"\xff\xd8")
        with pytest.raises(RuntimeError, match="404: Expected the id of an image"):
            client.similar("nothing")
