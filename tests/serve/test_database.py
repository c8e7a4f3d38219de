"""Two services over one collection in a database."""

import pytest

from pml_hashing import Collection

from .conftest import NUM_IMAGES, encoded, picture

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx", reason="httpx, which calls the service, is not installed")
pytest.importorskip("clickhouse_connect", reason="the extra [clickhouse] is not installed")
pytest.importorskip("chdb", reason="the extra [clickhouse] is not installed")

from fastapi.testclient import TestClient

from pml_hashing.search._clickhouse_client import Connection
from pml_hashing.serve import create_app
from pml_hashing.serve.catalog import id_of


def test_what_one_adds_the_other_shows(bridge, photos, model, tmp_path, monkeypatch):
    monkeypatch.setattr("pml_hashing.serve.catalog.SECONDS_BETWEEN_LOOKS", 0.0)
    start, stop = bridge
    where = {"place": start(), "model_folder": tmp_path / "photos.model"}
    made = Collection.create(model=model, **where)
    made.sync(photos, labels="folders", progress=False)
    first = TestClient(create_app(made, writable=True))
    second = TestClient(create_app(Collection.open(**where)))
    content = encoded(picture(4))

    def answers(client):
        files = {"image": ("x.png", content)}
        return [
            client.post("/api/search", files=files, params={"k": 5}).json()["matches"],
            client.get("/api/images", params={"offset": 3, "limit": 4}).json(),
            client.get(f"/api/images/{id_of('hat/04.png')}/similar").json()["matches"],
            client.get("/api/duplicates", params={"radius": 2}).json(),
            client.get("/api/collection").json() | {"writable": None},
        ]

    assert second.get("/api/collection").json()["name"] == "images"
    assert answers(first) == answers(second)
    sent = {"image": ("x.png", encoded(picture(70)))}
    assert first.post("/api/images", files=sent, params={"name": "hat/new.png"}).status_code == 201
    assert second.get("/api/health").json()["size"] == NUM_IMAGES + 1
    assert second.get(f"/api/images/{id_of('hat/new.png')}/picture").status_code == 200
    assert answers(first) == answers(second)
    stop()
    answer = second.get("/api/health")
    assert answer.status_code == 503
    assert "server that answers at 127.0.0.1" in answer.json()["detail"]
    start()
    assert answers(first) == answers(second)


def test_a_page_asks_the_database_once(engine, photos, model, tmp_path, monkeypatch):
    where = {"table": "for_pages", "model_folder": tmp_path / "photos.model"}
    made = Collection.create(engine, model, **where)
    made.sync(photos, labels="folders", progress=False)
    client, rows, asked = TestClient(create_app(made)), Connection.rows, []

    def counted(self, *args, **options):
        asked.append(" where id in " in args[0])
        return rows(self, *args, **options)

    monkeypatch.setattr(Connection, "rows", counted)
    for path, params in (("images", {}), ("duplicates", {"radius": 4})):
        asked.clear()
        answer = client.get(f"/api/{path}", params=params).json()
        assert len(answer.get("images") or answer["groups"][0]["images"]) > 2
        assert sum(asked) == 1
    made.close()
