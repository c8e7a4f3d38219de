"""Ask a search service from Python.

    pml-hashing serve                                     # in another terminal
    python examples/search_client.py http://127.0.0.1:8000 new.jpg

`pip install httpx` for it. `/openapi.json` of the service describes all that it answers.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass(frozen=True)
class Found:
    """An image that was found: its id and name, and its distance in bits."""

    id: str
    name: str
    label: str | None
    distance: float


class SearchClient:
    """A search service at an address. Use it in a `with` statement."""

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        self._client = httpx.Client(base_url=address, timeout=timeout)

    def __enter__(self) -> "SearchClient":
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def search(self, picture: Path, k: int = 10, label: str | None = None) -> list[Found]:
        """Return what is nearest to a picture."""
        files = {"image": (picture.name, picture.read_bytes())}
        return self._found("POST", "/api/search", k, label, files=files)

    def similar(self, image_id: str, k: int = 10, label: str | None = None) -> list[Found]:
        """Return what is nearest to an image of the collection."""
        return self._found("GET", f"/api/images/{image_id}/similar", k, label)

    def picture(self, image_id: str, size: int = 320) -> bytes:
        """Return an image of the collection as JPEG."""
        answer = self._client.get(f"/api/images/{image_id}/picture", params={"size": size})
        return answer.raise_for_status().content

    def _found(
        self, method: str, path: str, k: int, label: str | None, **options: Any
    ) -> list[Found]:
        params: dict[str, Any] = {"k": k} if label is None else {"k": k, "label": label}
        answer = self._client.request(method, path, params=params, **options)
        if answer.is_error:
            raise RuntimeError(f"{answer.status_code}: {answer.json().get('detail')}")
        rows = [(match["image"], match["distance"]) for match in answer.json()["matches"]]
        return [Found(i["id"], i["name"], i["label"], distance) for i, distance in rows]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with SearchClient(sys.argv[1]) as client:
        for found in client.search(Path(sys.argv[2])):
            print(f"{found.distance:5.1f}  {found.name}  {found.label or ''}")
