"""Random requests: never a 5xx, never a file of elsewhere."""

import random
from urllib.parse import quote

import pytest

from .conftest import encoded, picture

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx", reason="httpx, which calls the service, is not installed")

from fastapi.testclient import TestClient

from pml_hashing.serve import create_app
from pml_hashing.serve.catalog import id_of

SECRET = "a secret that lies beside the photographs"
ALLOWED = {200, 201, 204, 304, 400, 403, 404, 405, 409, 413, 415, 422}
METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "X")
PATHS = (
    "/",
    "/api/health",
    "/metrics",
    "/api/collection",
    "/api/search",
    "/api/images",
    "/api/images/{id}",
    "/api/images/{id}/similar",
    "/api/images/{id}/picture",
    "/api/duplicates",
    "/api/duplicates.csv",
    "/page/{id}",
    "/openapi.json",
    "/{id}",
)
PARAMETERS = ("k", "radius", "label", "where", "offset", "limit", "size", "name", "image", "\x00")
VALUES = (
    *("", "0", "1", "5", "-1", "1e9", "NaN", "null", "true", "9" * 30, "shoe", "é", "\x00"),
    *('{"label": "shoe"}', '{"label": null}', '{"label": [1, "a"]}', '{"a": {}}', "[" * 2000),
    *('{"label": NaN}', '{"label": 1e999}', '{"label": "\\ud800"}', "../secret.txt", "%2e%2e%2f"),
)


class Fuzzer:
    """Draws requests that are nearly right."""

    def __init__(self, seed, names, secret):
        self.random = random.Random(seed)
        self.ids = [
            *map(id_of, names),
            *map(id_of, ("../secret.txt", str(secret), "hat/../../secret.txt", "hat", ".", "")),
            *(
                quote(f"../{secret.name}", safe=""),
                "..%2f..%2fsecret.txt",
                str(secret),
                "....",
                "~",
            ),
        ]
        pictures = [encoded(picture(n), kind) for n, kind in enumerate(("PNG", "JPEG", "TIFF"))]
        self.contents = [*pictures, encoded(picture(4), "WEBP"), b"", b"\xff\xd8\xff", b"GIF89a"]

    def request(self):
        rng = self.random
        path = rng.choice(PATHS).replace("{id}", self.id())
        params = [(rng.choice(PARAMETERS), rng.choice(VALUES)) for _ in range(rng.randrange(4))]
        parts = {"method": rng.choice(METHODS), "url": path, "params": params}
        kind = rng.randrange(5)
        if kind < 2:
            parts["files"] = {rng.choice(("image", "image", "x")): ("a.png", self.content())}
        elif kind == 2:
            parts["content"] = self.content()
            parts["headers"] = {"Content-Type": rng.choice(("multipart/form-data", "a/b", "é"))}
        elif kind == 3:
            parts["headers"] = {"If-None-Match": "x" * rng.randrange(100), "Origin": "http://["}
        return parts

    def id(self):
        drawn = self.random.choice(self.ids)
        if self.random.random() < 0.2 and drawn:
            at = self.random.randrange(len(drawn))
            drawn = drawn[:at] + self.random.choice("/%?#A=\\.") + drawn[at:]
        return drawn

    def content(self):
        content = bytearray(self.random.choice(self.contents))
        for _ in range(self.random.randrange(4) if content else 0):
            content[self.random.randrange(len(content))] = self.random.randrange(256)
        return bytes(content[: self.random.randrange(len(content) + 1) or None])


def run(collection, tmp_path, *, seed, num_requests):
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    client = TestClient(create_app(collection, writable=True), raise_server_exceptions=False)
    fuzzer = Fuzzer(seed, collection.names, secret)
    statuses = set()
    for _ in range(num_requests):
        request = fuzzer.request()
        if "\x00" in request["url"]:
            continue
        try:
            answer = client.request(**request)
        except (ValueError, TypeError, UnicodeError):  # which no client can send
            continue
        assert answer.status_code in ALLOWED, (answer.status_code, answer.text[:300], request)
        assert SECRET not in answer.text, request
        statuses.add(answer.status_code)
    assert {200, 404, 405, 422} <= statuses
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"photos", "photos.codes", "secret.png", "secret.txt"}


def test_random_requests(collection, tmp_path):
    run(collection, tmp_path, seed=0, num_requests=400)


@pytest.mark.slow
def test_many_random_requests(collection, tmp_path):
    run(collection, tmp_path, seed=1, num_requests=6000)
