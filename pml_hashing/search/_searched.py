"""What a query is searched in: codes held in a store, or codes passed for one call."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pml_hashing.codes import unpack
from pml_hashing.search import _exact
from pml_hashing.search._following import FollowingIndex
from pml_hashing.search.approximate import HNSW, IVF
from pml_hashing.search.store import CodeStore


@dataclass(frozen=True)
class Searched:
    """Codes, and the ways to search in them.

    Attributes:
        count: Number of codes.
        code_length: Number of bits.
        nearest: Returns distances and rows of the nearest codes, given packed queries and `k`.
        packed_codes: Returns packed codes by their rows.
        vectors: Returns real-valued codes by their rows, if there are any.
    """

    count: int
    code_length: int
    nearest: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    packed_codes: Callable[[Tensor], Tensor]
    vectors: Callable[[Tensor], Tensor]

    def binary_codes(self, rows: Tensor) -> Tensor:
        """Return codes of -1 and 1 by their rows."""
        return unpack(self.packed_codes(rows), self.code_length)


def held_codes(store: CodeStore, index: FollowingIndex | None) -> Searched:
    """Search in what a store holds, by an index if there is one."""

    def nearest(query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if index is None:
            return store.nearest(query, k)
        return index.nearest(query, k, store.packed_codes())

    return Searched(
        len(store),
        store.code_length or 0,
        nearest,
        lambda rows: store.packed_codes(rows.device)[rows],
        lambda rows: store.vectors(rows.cpu()),
    )


def passed_codes(
    packed_codes: Tensor, code_length: int, vectors: Tensor, recipe: IVF | HNSW | None
) -> Searched:
    """Search in codes that are not kept, by an index that is built for them if there is a recipe.

    Args:
        packed_codes: uint8, on any device.
        code_length: Number of bits.
        vectors: The codes as they came.
        recipe: An approximate index to build; exact search if `None`.
    """

    def nearest(query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if recipe is None:
            return _exact.nearest(query, packed_codes, code_length, k)
        codes = packed_codes.cpu()
        return FollowingIndex(recipe, codes).nearest(query, k, codes)

    return Searched(
        len(packed_codes),
        code_length,
        nearest,
        lambda rows: packed_codes[rows.to(packed_codes.device)].to(rows.device),
        lambda rows: vectors[rows.to(vectors.device)],
    )


def check_k(k: int, count: int, num_queries: int, *, query_is_in: bool) -> None:
    """Raise unless `count` codes hold `k` neighbours, and the queries if they are said to."""
    own = int(query_is_in)
    if not 1 <= k <= count - own:
        raise ValueError(
            f"Expected `k` from 1 to {count - own}, as {count} codes are searched"
            f"{', the query itself among them' if own else ''}, got {k}."
        )
    if own and num_queries > count:
        raise ValueError(
            f"Expected at most {count} rows of `query`, as `ref_includes_query` says that they are "
            f"the first codes of what is searched, got {num_queries}."
        )


def without_query(distances: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Drop item `i` from row `i`, and the last item where ties at distance 0 left it out."""
    own = torch.arange(len(rows), device=rows.device)
    dropped = rows == own[:, None]
    dropped[:, -1] |= ~dropped.any(dim=1)
    shape = (len(rows), rows.shape[1] - 1)
    return distances[~dropped].view(shape), rows[~dropped].view(shape)
