"""The way of a query: to candidates in a store, by an index if there is one, and re-ranked."""

from collections.abc import Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.codes import unpack
from pml_hashing.search._arguments import to_packed, to_vectors
from pml_hashing.search.approximate import HNSW, IVF, ApproximateIndex
from pml_hashing.search.memory_store import MemoryStore, in_memory
from pml_hashing.search.multi_hash import MultiHash, RangeIndex
from pml_hashing.search.store import (
    Codes,
    CodeStore,
    Fetched,
    Neighbors,
    Where,
    filled,
    known_length,
)

Rerank = Literal["asymmetric", "vectors"]
FETCHED: dict[Rerank | None, Fetched] = {"asymmetric": "packed_codes", "vectors": "vectors"}

UNLOCKED = nullcontext()  # one call of a store in memory locks it by itself

# Elements of candidates' vectors held at a time: 64 MiB.
BLOCK_ELEMENTS = 2**24


@dataclass(frozen=True)
class NeighborSearch:
    """How neighbors are found.

    Attributes:
        rerank: What candidates are ordered by; their Hamming distance if `None`.
        num_candidates: How many candidates are ordered anew.
    """

    rerank: Rerank | None
    num_candidates: int

    @property
    def with_vectors(self) -> bool:
        """Whether real-valued codes are to be kept beside the bits."""
        return self.rerank == "vectors"

    def find(
        self,
        store: CodeStore,
        query: Codes,
        k: int,
        where: Where,
        *,
        index: ApproximateIndex | None,
        own: int = 0,
        with_ids: bool = True,
    ) -> Neighbors:
        """Return the nearest codes, re-ranked if they are to be, in one state of the store.

        Args:
            store: What to search in.
            query: Codes to search for, as they came.
            k: Number of neighbors.
            where: A checked condition.
            index: Finds them if there is no condition. Exact search if `None`.
            own: 1 if query `i` is item `i`, which is then left out, else 0.
            with_ids: Whether ids are wanted, else positions, as `order`.

        Raises:
            TypeError: If codes are no tensor, or packed where they are to be re-ranked.
            ValueError: If fewer than `k` codes match, `own` does not hold, a shape or the code
                length is wrong, or a code is NaN or infinite.
        """
        options: dict[str, Any] = {"fetch": FETCHED.get(self.rerank)}
        in_one_call = False
        if isinstance(store, MemoryStore):
            options["search"], options["with_ids"] = index and index.nearest, with_ids
            in_one_call = self.rerank is None and not own
        with UNLOCKED if in_one_call else store.frozen():
            packed_query, code_length = to_packed(query, "query", known_length(store))
            if k < 1 or own:
                filled(store)
                _check_k(k, store.count(where), where, own)
            if own:
                _check_own(in_memory(store), packed_query)
            if self.rerank is None:
                found = store.nearest(packed_query, k + own, where, **options)
                return _checked(found, k, store, where, own)
            vectors, wanted = to_vectors(query, "query"), max(k, self.num_candidates) + own
            num_elements = code_length * max(1, min(wanted, len(store)))
            size, parts = max(1, BLOCK_ELEMENTS // num_elements), []
            for start in range(0, len(query), size):
                block = slice(start, start + size)
                found = store.nearest(packed_query[block], wanted, where, **options)
                found = _checked(found, k, store, where, own, start)
                parts.append(self._reranked(found, vectors[block], k))
        return _joined(parts)

    def _reranked(self, found: Neighbors, vectors: Tensor, k: int) -> Neighbors:
        """Return the `k` candidates with the nearest values, ties in database order."""
        items = cast("Tensor", found.values)
        if self.rerank == "asymmetric":
            signs = unpack(items.flatten(0, 1), vectors.shape[1])
            items = signs.view(*found.order.shape, -1)
        by_order = found.order.argsort(dim=1)
        distances = (items - vectors[:, None]).square_().sum(dim=2) / 4
        distances, ranked = distances.gather(1, by_order).sort(dim=1, stable=True)
        places = by_order.gather(1, ranked)[:, :k]
        chosen = zip(found.ids, places.tolist(), strict=False)  # no ids where none are wanted
        ids = [[row[place] for place in row_places] for row, row_places in chosen]
        return Neighbors(distances[:, :k], ids, found.order.gather(1, places), None)


def indexes_of(
    recipe: IVF | HNSW | MultiHash | None,
) -> tuple[ApproximateIndex | None, RangeIndex | None]:
    """Return the index that finds neighbors and the one that finds all within a radius, if any.

    Raises:
        TypeError: If it is none of these.
    """
    if not isinstance(recipe, IVF | HNSW | MultiHash | None):
        raise TypeError(
            "Expected `index` to be an IVF, HNSW or MultiHash object or None, got "
            f"{recipe if isinstance(recipe, type) else type(recipe).__name__}."
        )
    if isinstance(recipe, MultiHash):
        return None, RangeIndex(recipe)
    return None if recipe is None else ApproximateIndex(recipe), None


def find_within(
    store: CodeStore, query: Codes, radius: float, where: Where, *, index: RangeIndex | None
) -> tuple[list[Tensor], list[list[Hashable]]]:
    """Return distances and ids of all codes within a radius, in one state of the store.

    Args:
        store: What to search in.
        query: Codes to search for, as they came.
        radius: Largest distance, inclusive.
        where: A checked condition.
        index: Finds them in a store in memory. A scan if `None`.

    Raises:
        TypeError: If codes are no tensor.
        ValueError: If no codes are held, a shape or the code length is wrong, a code is NaN or
            infinite, or `radius` is negative or beyond that of the index.
    """
    options: dict[str, Any] = {} if index is None else {"search": index.within}
    with store.frozen():  # so that nothing found means that nothing is near
        packed_query, code_length = to_packed(query, "query", known_length(store))
        check_at_least(radius, 0, "radius")
        limit = int(min(radius, code_length))
        if index is not None:
            index.check_radius(limit)
        found = store.within(packed_query, limit, where, **options)
        if not any(found[1]):
            filled(store)
        return found


def _check_k(k: int, count: int, where: Where, own: int) -> None:
    """Raise unless `count` codes, less the query's own, hold `k` neighbors."""
    if not 1 <= k <= count - own:
        raise ValueError(
            f"Expected `k` from 1 to {count - own}, as {count} codes "
            f"{'match `where`' if where else 'are searched'}"
            f"{', the query itself among them' if own else ''}, got {k}."
        )


def _check_own(store: MemoryStore, packed_query: Tensor) -> None:
    """Raise unless query `i` is item `i`, as far as bits tell."""
    if len(packed_query) > len(store):
        raise ValueError(
            f"Expected at most {len(store)} rows of `query`, as `ref_includes_query` says that "
            f"they are the first codes of what is searched, got {len(packed_query)}."
        )
    items = store.first_codes(len(packed_query), packed_query.device)
    differ = (items != packed_query).any(dim=1)
    if differ.any():
        raise ValueError(
            "Expected query i to be item i of what is searched, as `ref_includes_query` says, got "
            f"other codes for {int(differ.sum())} of {len(differ)} queries, the first of them "
            f"query {int(differ.nonzero()[0])}."
        )


def _checked(
    found: Neighbors, k: int, store: CodeStore, where: Where, own: int, start: int = 0
) -> Neighbors:
    """Return what was found, without the queries themselves, or raise unless it is `k`."""
    num_found = found.distances.shape[1]
    if k > num_found - own:
        filled(store)
        _check_k(k, num_found, where, own)
    return _without_query(found, start) if own else found


def _without_query(found: Neighbors, start: int) -> Neighbors:
    """Drop item `start + i` from row `i`, and the last where ties at distance 0 left it out."""
    own = torch.arange(start, start + len(found.order), device=found.order.device)
    dropped = found.order == own[:, None]
    dropped[:, -1] |= ~dropped.any(dim=1)
    kept = (len(own), found.order.shape[1] - 1)
    distances, order = found.distances[~dropped].view(kept), found.order[~dropped].view(kept)
    values = None if found.values is None else found.values[~dropped].view(*kept, -1)
    return Neighbors(distances, [], order, values)


def _joined(parts: list[Neighbors]) -> Neighbors:
    return Neighbors(
        torch.cat([part.distances for part in parts]),
        [ids for part in parts for ids in part.ids],
        torch.cat([part.order for part in parts]),
        None,
    )
