"""The service: JSON with an OpenAPI description, pictures by id, and the page."""

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, HTTPException, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pml_hashing.collection import Collection, Match
from pml_hashing.datasets import UnreadableImageError
from pml_hashing.serve.answers import (
    CollectionAnswer,
    DuplicatesAnswer,
    GroupAnswer,
    HealthAnswer,
    ImageAnswer,
    ImagesAnswer,
    LabelAnswer,
    MatchAnswer,
    SearchAnswer,
)
from pml_hashing.serve.catalog import Catalog, UnavailableError, id_of, readable, to_answer
from pml_hashing.serve.limits import (
    AddSafeHeaders,
    AnswerHead,
    CountRequests,
    LimitBody,
    RefuseOtherSites,
)
from pml_hashing.serve.writing import Additions

PAGE = Path(__file__).parent / "page"
MOST_RESULTS = 1000
MOST_LABELS = 1000  # that the page offers
LARGEST_PICTURE = 2048  # pixels a side
SHARE_ALIKE = 4  # duplicates may differ in one of so many bits

Offset = Annotated[int, Query(ge=0, le=2**53)]
Limit = Annotated[int, Query(ge=1, le=MOST_RESULTS)]
Alike = Annotated[int, Query(ge=0, description="Bits in which duplicates may differ.")]
Upload = Annotated[UploadFile, File(description="A picture.")]


class Asked(BaseModel):
    """What a search is asked for, beside the query."""

    k: int = Field(24, ge=1, le=MOST_RESULTS, description="How many images, at most.")
    radius: int | None = Field(None, ge=0, description="Largest distance in bits.")
    label: str | None = Field(None, description="A label that they must have.")
    where: str | None = Field(
        None, description='A condition on metadata, in JSON: `{"label": ["shoe", "hat"]}`.'
    )


def create_app(
    collection: Collection,
    *,
    writable: bool = False,
    max_upload_bytes: int = 20_000_000,
    allowed_hosts: Iterable[str] = ("*",),
) -> FastAPI:
    """Return the service of a collection, for uvicorn or any other ASGI server.

    It serves the images of the collection, by their ids, and nothing else. It sees what another
    process syncs about a second later. `/openapi.json` describes it.

    Args:
        collection: What is searched.
        writable: Whether images can be added to the folder of the collection, and removed from it.
        max_upload_bytes: Size of a request, at most.
        allowed_hosts: Names by which the service may be addressed, as of Starlette's
            `TrustedHostMiddleware`. Name them unless a proxy does: a web site can let its own name
            lead to 127.0.0.1.
    """
    registry = CollectorRegistry()
    app = FastAPI(
        title="pml-hashing",
        description="Search in a collection of images.",
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_check_query)],
        middleware=[
            Middleware(AnswerHead),
            Middleware(CountRequests, registry=registry),
            Middleware(AddSafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts)),
            Middleware(RefuseOtherSites),
            Middleware(LimitBody, max_bytes=max_upload_bytes),
        ],
    )
    catalog = Catalog(collection)
    _answer_errors(app)
    _add_state(app, catalog, registry, writable)
    _add_search(app, catalog, registry)
    _add_images(app, catalog)
    _add_duplicates(app, catalog)
    if writable:
        _add_changes(app, catalog)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    return app


def _answer_errors(app: FastAPI) -> None:
    """Answer what a request has wrong by a status of 4xx, and what the collection has by 503."""
    statuses: dict[type[Exception], int] = {
        KeyError: 404,
        FileExistsError: 409,
        UnreadableImageError: 415,
        TypeError: 422,
        ValueError: 422,
        OverflowError: 422,
        TimeoutError: 503,
        ConnectionError: 503,
        UnavailableError: 503,
    }
    for error, status in statuses.items():
        app.add_exception_handler(error, _answer(status))

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without what came, which may be anything.
        told = [{key: each[key] for key in ("loc", "msg", "type")} for each in error.errors()]
        return JSONResponse({"detail": told}, 422)


def _answer(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def answer(request: Request, error: Exception) -> JSONResponse:
        detail = error.args[0] if isinstance(error, KeyError) and error.args else error
        return JSONResponse({"detail": readable(str(detail))}, status)

    return answer


async def _check_query(request: Request) -> None:  # else every request would wait for a thread
    """Refuse what is said twice in an address: one of both would be taken, and nobody told."""
    _check_once([name for name, _ in request.query_params.multi_items()])


async def _check_form(request: Request) -> None:
    """Refuse a second picture, and what belongs into the address: it would be passed over."""
    names = [name for name, _ in (await request.form()).multi_items()]
    _check_once(names)
    if others := sorted({*names} - {"image"}):
        raise ValueError(
            f"Expected a form of `image` alone, got {', '.join(map(repr, others))}: all else "
            "goes into the address, as in /api/search?k=5."
        )


def _check_once(names: list[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(
            f"Expected each parameter once, got {', '.join(map(repr, repeated))} more often."
        )


def _add_state(app: FastAPI, catalog: Catalog, registry: CollectorRegistry, writable: bool) -> None:
    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/api/health", tags=["state"])
    def health() -> HealthAnswer:
        """Tell whether the service answers."""
        return HealthAnswer(status="ok", size=len(catalog.latest()))

    @app.get("/metrics", tags=["state"], response_class=Response)
    def metrics() -> Response:
        """Tell times and counts of requests, as Prometheus reads them."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/collection", tags=["state"])
    def about() -> CollectionAnswer:
        """Tell what is searched."""
        collection = catalog.latest()
        labels = collection.counts() if "label" in collection.columns else {}
        most = sorted(labels.items(), key=lambda pair: (-pair[1], str(pair[0])))[:MOST_LABELS]
        shown = [LabelAnswer(value=readable(str(value)), count=count) for value, count in most]
        return CollectionAnswer(
            name=readable(collection.name),
            size=len(collection),
            code_length=collection.code_length,
            columns=[readable(column) for column in collection.columns],
            labels=sorted(shown, key=lambda label: label.value),
            writable=writable,
        )


def _add_search(app: FastAPI, catalog: Catalog, registry: CollectorRegistry) -> None:
    seconds = Histogram(
        "pml_hashing_search_seconds", "Seconds of a search alone.", registry=registry
    )
    encoding = threading.Lock()  # one at a time: each uses all threads of the model

    def found(find: Callable[..., list[Match]], asked: Asked, encode_ms: float | None) -> Any:
        condition = to_condition(asked.where, asked.label)
        start = time.perf_counter()
        matches = find(k=asked.k, where=condition)
        elapsed = time.perf_counter() - start
        seconds.observe(elapsed)
        collection, radius = catalog.collection, asked.radius
        near = [
            MatchAnswer(image=to_answer(match.name, match.metadata), distance=match.distance)
            for match in matches
            if radius is None or match.distance <= radius
        ]
        times = {"search_ms": elapsed * 1000, "encode_ms": encode_ms}
        return SearchAnswer(matches=near, size=len(collection), **times)

    @app.post("/api/search", tags=["search"], dependencies=[Depends(_check_form)])
    def search(image: Upload, asked: Annotated[Asked, Query()]) -> SearchAnswer:
        """Return the nearest images to a picture that is sent as a form."""
        content = image.file.read()
        collection = catalog.latest()
        start = time.perf_counter()
        with encoding:
            codes = collection.encode([content])
        encode_ms = (time.perf_counter() - start) * 1000
        return found(
            lambda **options: collection.search_codes(codes, **options)[0], asked, encode_ms
        )

    @app.get("/api/images/{image_id}/similar", tags=["search"])
    def similar(image_id: str, asked: Annotated[Asked, Query()]) -> SearchAnswer:
        """Return the nearest images to one of the collection, without itself."""
        collection = catalog.latest()
        return found(partial(collection.similar, catalog.name_of(image_id)), asked, None)


def to_condition(where: str | None, label: str | None) -> dict[str, Any]:
    """Return a condition that came as JSON, and a label.

    Raises:
        ValueError: If it is no JSON, or no object.
    """
    try:
        condition = {} if where is None else json.loads(where)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected `where` to be JSON, got another text: {error}") from error
    if not isinstance(condition, dict):
        raise ValueError(
            f'Expected `where` to be an object such as {{"label": "shoe"}}, got {condition!r:.99}.'
        )
    return condition if label is None else condition | {"label": label}


def _add_images(app: FastAPI, catalog: Catalog) -> None:
    @app.get("/api/images", tags=["images"])
    def images(offset: Offset = 0, limit: Limit = 24) -> ImagesAnswer:
        """Return images of the collection, in the order of their names."""
        collection = catalog.latest()
        shown = catalog.images(collection.names_from(offset, limit))
        return ImagesAnswer(images=list(shown.values()), size=len(collection))

    @app.get("/api/images/{image_id}", tags=["images"])
    def image(image_id: str) -> ImageAnswer:
        """Tell of an image what the collection knows."""
        catalog.latest()
        return catalog.image(catalog.name_of(image_id))

    @app.get(
        "/api/images/{image_id}/picture",
        tags=["images"],
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}},
    )
    def picture(
        request: Request,
        image_id: str,
        size: Annotated[int, Query(ge=16, le=LARGEST_PICTURE)] = 320,
    ) -> Response:
        """Return an image as JPEG, in a square of `size` pixels at most."""
        try:
            content, version = catalog.picture(catalog.name_of(image_id), size)
        except UnreadableImageError as error:
            is_gone = isinstance(error.__cause__, FileNotFoundError)
            state = "is gone" if is_gone else "cannot be read"
            raise HTTPException(404, f"Expected the file of the image, which {state}.") from error
        headers = {"ETag": f'"{version}"', "Cache-Control": "private, no-cache"}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)


def _add_duplicates(app: FastAPI, catalog: Catalog) -> None:
    def groups_of(radius: int) -> Any:
        most = catalog.collection.code_length // SHARE_ALIKE
        if radius > most:
            raise ValueError(f"Expected `radius` of at most {most} bits, got {radius}.")
        return catalog.duplicates(radius)

    @app.get("/api/duplicates", tags=["duplicates"])
    def duplicates(radius: Alike, offset: Offset = 0, limit: Limit = 20) -> DuplicatesAnswer:
        """Return groups of images that look alike, the largest groups first."""
        groups = groups_of(radius)
        part = groups[offset : offset + limit]
        images = catalog.images(name for group in part for name in group.names)
        shown = [
            GroupAnswer(
                images=[images[name] for name in group.names if name in images],
                keep=id_of(group.keep),
            )
            for group in part
        ]
        num_images = sum(map(len, groups))
        return DuplicatesAnswer(groups=shown, num_groups=len(groups), num_images=num_images)

    @app.get(
        "/api/duplicates.csv",
        tags=["duplicates"],
        response_class=Response,
        responses={200: {"content": {"text/csv": {}}}},
    )
    def duplicates_table(radius: Alike) -> Response:
        """Return all groups as a table."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "duplicates.csv"
            groups_of(radius).to_csv(path)
            return Response(path.read_bytes(), media_type="text/csv; charset=utf-8")


def _add_changes(app: FastAPI, catalog: Catalog) -> None:
    additions = Additions(catalog)

    form = [Depends(_check_form)]

    @app.post("/api/images", tags=["changes"], status_code=201, dependencies=form)
    def add(image: Upload, name: Annotated[str, Query(max_length=200)]) -> ImageAnswer:
        """Add a picture to the folder of the collection, under a new name, and encode it."""
        return additions.add(name, image.file.read())

    @app.delete("/api/images/{image_id}", tags=["changes"], status_code=204)
    def remove(image_id: str) -> None:
        """Remove an image from the collection, and its file from the folder."""
        additions.remove(catalog.name_of(image_id))
