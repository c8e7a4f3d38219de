"""Search in one state of a collection: by pictures and by names."""

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_choice, check_integer
from pml_hashing.codes import unpack
from pml_hashing.collection.encoding import CollectionEncoder
from pml_hashing.collection.matches import Match
from pml_hashing.collection.state import Rerank, State
from pml_hashing.datasets import ImageLike
from pml_hashing.datasets.loading import read_image

DEFAULT_K = 10


class Options(TypedDict, total=False):
    """The options of a search. `Collection.search` documents them."""

    radius: int | None
    where: Mapping[str, object] | None
    rerank: Rerank | None
    num_candidates: int


@dataclass(frozen=True)
class Request:
    """What is asked for. `Collection.search` documents it.

    Raises:
        TypeError: If a number is no integer.
        ValueError: If a value is out of range, or `radius` is given with `rerank`.
    """

    k: int | None = None
    radius: int | None = None
    where: Mapping[str, object] | None = None
    rerank: Rerank | None = None
    num_candidates: int = 100

    def __post_init__(self) -> None:
        if self.k is not None:
            check_integer(self.k, 1, "k")
        if self.radius is not None:
            check_integer(self.radius, 0, "radius")
        check_choice(self.rerank, (None, "asymmetric", "vectors"), "rerank")
        check_integer(self.num_candidates, 1, "num_candidates")
        if self.radius is not None and self.rerank is not None:
            raise ValueError("Expected `radius`, a number of bits, or `rerank`, got both.")


@dataclass(frozen=True)
class Search:
    """A search in one state of a collection.

    Attributes:
        state: The state.
        encoder: Makes codes of pictures.
    """

    state: State
    encoder: CollectionEncoder

    def find(self, queries: Sequence[Any], request: Request) -> list[list[Match]]:
        """Return what is near pictures, or images that are named where there is no such file.

        Raises:
            FileNotFoundError: If a query is neither.
            UnreadableImageError: If one may not be looked at, or does not decode.
        """
        names = self._names_of(queries)
        pictures = [query for query, name in zip(queries, names, strict=True) if name is None]
        return self._near(self._codes(pictures, names), names, request)

    def similar(self, names: Sequence[str], request: Request) -> list[list[Match]]:
        """Return what is near images of the collection, by their names and nothing else.

        Raises:
            KeyError: If there is no such image.
        """
        return self._near(self._codes([], names), names, request)

    def near(self, codes: Tensor, request: Request) -> list[list[Match]]:
        """Return what is near real codes."""
        return self._near(codes, [None] * len(codes), request)

    def _names_of(self, queries: Sequence[Any]) -> list[str | None]:
        """Return the names of images of the collection, `None` for a picture.

        The state, which may be elsewhere, is asked once for all.
        """
        names = [_to_name(query) for query in queries]
        asked = [name for name in names if name is not None]
        missing = (self.state.rows(asked) < 0).tolist()
        if True in missing:
            name = asked[missing.index(True)]
            _check_allowed(name)
            raise FileNotFoundError(
                "Expected `query` to be an image, a path of one or the name of one in the "
                f"collection, got {name!r}."
            )
        return names

    def _codes(self, pictures: Sequence[ImageLike], names: Sequence[str | None]) -> Tensor:
        """Return real codes of pictures and of images by name, in the order of `names`."""
        codes = torch.empty(len(names), self.encoder.code_length, device="cpu")
        is_named = torch.tensor([name is not None for name in names], device="cpu")
        if len(pictures):
            codes[~is_named] = self.encoder.queries(pictures)
        held = [name for name in names if name is not None]
        if held:
            codes[is_named] = self._codes_of_names(held)
        return codes

    def _codes_of_names(self, names: list[str]) -> Tensor:
        codes = torch.from_numpy(self.state.kept_codes(self.state.rows_of(names)))
        with_vectors = self.state.manifest.vectors
        return codes if with_vectors else unpack(codes, self.encoder.code_length)

    def _near(
        self, codes: Tensor, names: Sequence[str | None], request: Request
    ) -> list[list[Match]]:
        state, radius = self.state, request.radius
        if request.rerank == "vectors" and not state.manifest.vectors:
            raise ValueError(
                "Expected `rerank` by vectors only in a collection that was made with `vectors`, "
                "got one that keeps bits alone."
            )
        k = DEFAULT_K if request.k is None and radius is None else request.k
        where = state.to_where(request.where)
        if not len(state) or not names:
            return [[] for _ in names]
        if radius is None:
            count = state.knn().count(where) if where else len(state)
            wanted = min((k or 0) + any(names), count)
            knn = state.knn(request.rerank, max(request.num_candidates, wanted))
            if not wanted:
                return [[] for _ in names]
            distances, found = knn.search(codes, wanted, where)
        else:
            distances, found = state.knn().range_search(codes, radius, where)
        rows = zip(names, found, (row.tolist() for row in distances), strict=True)
        return self._to_matches([_without(*row)[:k] for row in rows])

    def _to_matches(self, found: list[list[tuple[str, float]]]) -> list[list[Match]]:
        """Return names and distances with all that is known of the images."""
        root, names = self.state.root, list(dict.fromkeys(name for row in found for name, _ in row))
        rows = self.state.metadata_of(names)
        return [
            [Match(name, root / name, distance, dict(rows[name])) for name, distance in row]
            for row in found
        ]


def _without(
    own: str | None, ids: list[Hashable], distances: list[float]
) -> list[tuple[str, float]]:
    """Return names with their distances, but not an image's own."""
    pairs = zip(map(str, ids), distances, strict=True)
    return [pair for pair in pairs if pair[0] != own]


def to_queries(query: Any) -> tuple[list[Any], bool]:
    """Return queries as a list, and whether there is just one."""
    if isinstance(query, list | tuple):
        return list(query), False
    if isinstance(query, Tensor | np.ndarray) and query.ndim == 4:
        return list(query), False
    return [query], True


def _to_name(query: object) -> str | None:
    """Return what can only be a name, `None` for a picture."""
    is_path = isinstance(query, str | os.PathLike)
    return None if not is_path or _is_file(query) else str(query)


def _check_allowed(path: str) -> None:
    """Raise if this user may not even know whether there is such a file.

    Raises:
        UnreadableImageError: With the reason.
    """
    try:
        Path(path).stat()
    except PermissionError:
        read_image(Path(path))  # says why
    except (OSError, ValueError):  # as of `_is_file`
        return


def _is_file(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a path, or with a zero
        return False
