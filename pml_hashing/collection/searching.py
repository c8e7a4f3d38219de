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
from pml_hashing.collection.snapshot import Rerank, Snapshot
from pml_hashing.datasets import ImageLike

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
        snapshot: The state.
        encoder: Makes codes of pictures.
    """

    snapshot: Snapshot
    encoder: CollectionEncoder

    def find(self, queries: Sequence[Any], request: Request) -> list[list[Match]]:
        """Return what is near pictures, or images that are named where there is no such file.

        Raises:
            FileNotFoundError: If a query is neither.
        """
        names = [self._name_of(query) for query in queries]
        pictures = [query for query, name in zip(queries, names, strict=True) if name is None]
        return self._near(self._codes(pictures, names), names, request)

    def similar(self, names: Sequence[str], request: Request) -> list[list[Match]]:
        """Return what is near images of the collection, by their names and nothing else.

        Raises:
            KeyError: If there is no such image.
        """
        for name in names:
            self.snapshot.row(name)
        return self._near(self._codes([], names), names, request)

    def near(self, codes: Tensor, request: Request) -> list[list[Match]]:
        """Return what is near real codes."""
        return self._near(codes, [None] * len(codes), request)

    def _name_of(self, query: object) -> str | None:
        """Return the name of an image of the collection, `None` for a picture."""
        if not isinstance(query, str | os.PathLike) or _is_file(query):
            return None
        if query not in self.snapshot.row_of:
            raise FileNotFoundError(
                "Expected `query` to be an image, a path of one or the name of one in the "
                f"collection, got {os.fspath(query)!r}."
            )
        return str(query)

    def _codes(self, pictures: Sequence[ImageLike], names: Sequence[str | None]) -> Tensor:
        """Return real codes of pictures and of images by name, in the order of `names`."""
        codes = torch.empty(len(names), self.encoder.code_length)
        is_named = torch.tensor([name is not None for name in names])
        if len(pictures):
            codes[~is_named] = self.encoder.queries(pictures)
        held = [name for name in names if name is not None]
        if held:
            codes[is_named] = self._codes_of_names(held)
        return codes

    def _codes_of_names(self, names: list[str]) -> Tensor:
        distinct = list(dict.fromkeys(names))
        rows = [distinct.index(name) for name in names]
        records = self.snapshot.knn().get(distinct)
        if records.vectors is not None:
            return records.vectors[rows]
        return unpack(records.packed_codes, self.encoder.code_length)[rows]

    def _near(
        self, codes: Tensor, names: Sequence[str | None], request: Request
    ) -> list[list[Match]]:
        snapshot, radius = self.snapshot, request.radius
        k = DEFAULT_K if request.k is None and radius is None else request.k
        where = snapshot.to_where(request.where)
        if not len(snapshot) or not names:
            return [[] for _ in names]
        if radius is None:
            wanted = min((k or 0) + any(names), snapshot.knn().count(where))
            knn = snapshot.knn(request.rerank, max(request.num_candidates, wanted))
            if not wanted:
                return [[] for _ in names]
            distances, found = knn.search(codes, wanted, where)
        else:
            distances, found = snapshot.knn().range_search(codes, radius, where)
        rows = zip(found, distances, names, strict=True)
        return [self._to_matches(*row)[:k] for row in rows]

    def _to_matches(self, ids: list[Hashable], distances: Tensor, own: str | None) -> list[Match]:
        columns, row_of = self.snapshot.columns, self.snapshot.row_of
        root, matches = self.snapshot.root, []
        for name, distance in zip(map(str, ids), distances.tolist(), strict=True):
            if name != own:
                metadata = {column: values[row_of[name]] for column, values in columns.items()}
                matches.append(Match(name, root / name, distance, metadata))
        return matches


def to_queries(query: Any) -> tuple[list[Any], bool]:
    """Return queries as a list, and whether there is just one."""
    if isinstance(query, list | tuple):
        return list(query), False
    if isinstance(query, Tensor | np.ndarray) and query.ndim == 4:
        return list(query), False
    return [query], True


def _is_file(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a path, or with a zero
        return False
