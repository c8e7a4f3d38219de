"""Users of a search service, for `benchmarks/serve.py` (a file of locust)."""

import io
import random

import numpy as np
from locust import HttpUser, constant_throughput, task
from locust.clients import ResponseContextManager
from PIL import Image

K = 24
PICTURES = 16


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(12, 16, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((640, 480)).save(file, "JPEG")
    return file.getvalue()


class Searcher(HttpUser):
    """Asks once a second."""

    wait_time = constant_throughput(1)

    def on_start(self) -> None:
        self.random = random.Random(id(self))
        self.pictures = [picture(1000 + number) for number in range(PICTURES)]
        size = self.client.get("/api/health", name="health").json()["size"]
        offset = self.random.randrange(max(1, size - 100))
        listed = self.client.get(
            "/api/images", params={"offset": offset, "limit": 100}, name="list"
        )
        self.ids = [image["id"] for image in listed.json()["images"]]

    @task(4)
    def similar(self) -> None:
        path = f"/api/images/{self.random.choice(self.ids)}/similar?k={K}"
        with self.client.get(path, name="similar, whole", catch_response=True) as answer:
            self.check(answer, "similar, search alone")

    @task(1)
    def search(self) -> None:
        files = {"image": ("a.jpg", self.random.choice(self.pictures))}
        path = f"/api/search?k={K}"
        with self.client.post(
            path, files=files, name="upload, whole", catch_response=True
        ) as answer:
            self.check(answer, "upload, search alone")

    def check(self, answer: ResponseContextManager, name: str) -> None:
        """Mark an answer that is wrong, and count the time of the search in it."""
        if answer.status_code != 200:
            answer.failure(f"status {answer.status_code}")
            return
        told = answer.json()
        distances = [match["distance"] for match in told["matches"]]
        if len(distances) != K or distances != sorted(distances):
            answer.failure(f"{len(distances)} images, distances {distances}")
        self.environment.events.request.fire(
            request_type="",
            name=name,
            response_time=told["search_ms"] * 1000,  # locust rounds to whole numbers
            response_length=0,
            exception=None,
            context={},
        )
