"""Exact search over packed codes: faiss on the CPU, a matrix product on any other device."""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeAlias

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing.codes import BITS_OF_A_BYTE, unpack

# Counting sets aside k places of 8 bytes for each distance and each query of a batch: up to 1 GiB
# of addresses, of which it touches the places that are taken.
MAX_COUNTING_PLACES = 2**22
COUNTED_QUERIES = 32  # of a batch, as in faiss' flat index
# A matrix product forms so many distances at a time, of a block of queries by a block of the
# database, and unpacks so many bits of the database. Few queries meet large blocks: each block is a
# dozen calls, for which a GPU waits, however few distances there are.
BLOCK_DISTANCES = 2**25
BLOCK_BITS = 2**27
MIN_DATABASE_BLOCK = 2**16
# Half precision holds every integer up to 2048, and 2 * code_length is formed.
MAX_HALF_CODE_LENGTH = 1024
MAX_INT32 = 2**31

Within: TypeAlias = tuple[list[int], Tensor, Tensor]
"""How many codes were found for each query, and the distances and rows of all of them."""


def nearest(query: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances (int32) and rows (int64) of the `k` nearest codes, `(num_queries, k)`.

    The search runs where the query is. Neighbors at equal distance come in database order.

    Args:
        query: Packed codes.
        database: Packed codes on the same device, at least `k` of them.
        k: Number of neighbors.
    """
    num_queries, (num_codes, width) = query.shape[0], database.shape
    check_width(query, width)
    if not k:
        none = query.new_empty(num_queries, 0, dtype=torch.int64)
        return none.int(), none
    if not _faiss_has(query):
        return nearest_by_product(query, database, k)
    distances, rows = np.empty((num_queries, k), np.int32), np.empty((num_queries, k), np.int64)
    if not _is_counted(k, num_codes, width):
        _find_by_heap(query, database, distances, rows)
    elif num_queries <= COUNTED_QUERIES:
        _find_by_counting(query, database, distances, rows)
    else:
        for start in range(0, num_queries, COUNTED_QUERIES):
            block = slice(start, start + COUNTED_QUERIES)
            _find_by_counting(query[block], database, distances[block], rows[block])
    return torch.from_numpy(distances), torch.from_numpy(rows)


# The functions under faiss' flat index read the codes where they are: it would hold a copy.


def _find_by_heap(query: Tensor, database: Tensor, distances: np.ndarray, rows: np.ndarray) -> None:
    heap, (num_codes, width) = faiss.int_maxheap_array_t(), database.shape
    heap.nh, heap.k = distances.shape
    heap.val, heap.ids = faiss.swig_ptr(distances), faiss.swig_ptr(rows)
    faiss.hammings_knn_hc(  # pyright: ignore[reportAttributeAccessIssue]
        heap, _bytes_of(query), _bytes_of(database), num_codes, width, True
    )


def _find_by_counting(
    query: Tensor, database: Tensor, distances: np.ndarray, rows: np.ndarray
) -> None:
    (num_queries, k), (num_codes, width) = distances.shape, database.shape
    found = faiss.swig_ptr(distances), faiss.swig_ptr(rows)
    faiss.hammings_knn_mc(  # pyright: ignore[reportAttributeAccessIssue]
        _bytes_of(query), _bytes_of(database), num_queries, num_codes, k, width, *found
    )


def check_width(query: Tensor, width: int) -> None:
    """Raise unless packed codes are so many bytes wide: faiss would read beyond shorter ones."""
    if query.shape[1] != width:
        raise ValueError(f"Expected packed queries of {width} bytes, got {query.shape[1]}.")


def _bytes_of(packed_codes: Tensor) -> Any:
    """Return a pointer to codes on the CPU, without the detour of an array."""
    is_plain = packed_codes.is_cpu and packed_codes.dtype is torch.uint8
    if not (is_plain and packed_codes.is_contiguous()):
        raise ValueError(
            "Expected packed codes, uint8, on the CPU and without gaps, got "
            f"{packed_codes.dtype} on {packed_codes.device} with strides {packed_codes.stride()}."
        )
    pointer = packed_codes.data_ptr()
    return faiss.cast_integer_to_uint8_ptr(pointer)  # pyright: ignore[reportAttributeAccessIssue]


@lru_cache  # asked for each query, and mostly the same
def _is_counted(k: int, num_codes: int, num_bytes: int) -> bool:
    """Return whether faiss shall rank by counting, not with a heap.

    Where it wins was measured for 10^3 to 10^6 codes of 32 to 512 bits. A heap costs what passes
    through it, about `k (1 + ln(n / k))` of `n` codes in random order; counting costs a little for
    each code, and past 64 bits, which faiss' heap compares faster, a little more.
    """
    if k * (num_bytes * BITS_OF_A_BYTE + 1) > MAX_COUNTING_PLACES:
        return False
    through_heap = k * (1 + math.log(num_codes / k))
    return through_heap > math.sqrt(num_codes) + 0.005 * num_codes * (num_bytes > 8)


def within(query: Tensor, database: Tensor, radius: int) -> Within:
    """Return the number of codes within `radius` of each query, and their distances and rows.

    The search runs where the query is. The codes of the first query come first; those of a query
    are in order of distance and, at equal distance, of the database.

    Args:
        query: Packed codes.
        database: Packed codes on the same device.
        radius: Largest distance, inclusive.
    """
    num_queries, (num_codes, width) = query.shape[0], database.shape
    check_width(query, width)
    if not num_codes:
        none = query.new_empty(0, dtype=torch.int64)
        return [0] * num_queries, none.int(), none
    if not _faiss_has(query):
        return within_by_product(query, database, radius)
    found = faiss.RangeSearchResult(num_queries)
    codes = _bytes_of(query), _bytes_of(database)
    # Its radius is strict.
    faiss.hamming_range_search(  # pyright: ignore[reportAttributeAccessIssue]
        *codes, num_queries, num_codes, radius + 1, width, found
    )
    limits, distances, rows = arrays_of(found, num_queries)
    for start, end in pairwise(limits):
        # The codes of a query come in database order; numpy sorts 16 bits in linear time.
        order = distances[start:end].astype(np.uint16).argsort(kind="stable")
        distances[start:end] = distances[start:end][order]
        rows[start:end] = rows[start:end][order]
    return sizes_of(limits), torch.from_numpy(distances), torch.from_numpy(rows)


def arrays_of(found: Any, num_queries: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return limits, distances (int32) and labels of a `faiss.RangeSearchResult`, copied."""
    limits = faiss.rev_swig_ptr(found.lims, num_queries + 1).tolist()
    if not limits[-1]:  # then faiss may have no arrays at all
        return limits, np.empty(0, np.int32), np.empty(0, np.int64)
    distances = faiss.rev_swig_ptr(found.distances, limits[-1]).astype(np.int32)
    return limits, distances, faiss.rev_swig_ptr(found.labels, limits[-1]).copy()


def sizes_of(limits: list[int]) -> list[int]:
    """Return how many there are between each limit and the next."""
    return [end - start for start, end in pairwise(limits)]


def _faiss_has(codes: Tensor) -> bool:
    """Return whether faiss searches binary codes where these are: its CPU package has no other."""
    return codes.is_cpu


def nearest_by_product(query: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return `nearest` by matrix products of -1 and 1, on any device.

    `torch.topk` orders ties at random, so it gets keys without ties: distance first, then row.
    """
    num_codes, num_distances = len(database), query.shape[1] * BITS_OF_A_BYTE + 1
    dtype = torch.int32 if num_codes * num_distances < MAX_INT32 else torch.int64
    block_size, found = _block_size(query, num_codes, 4 * k), []
    for queries in query.split(max(1, BLOCK_DISTANCES // block_size)):
        best = query.new_empty(len(queries), 0, dtype=dtype)
        for start, distances in _distances(queries, database, block_size):
            size = distances.shape[1]
            rows = torch.arange(start, start + size, dtype=dtype, device=query.device)
            keys = distances.to(dtype).mul_(num_codes).add_(rows)
            keys = keys.topk(min(k, size), largest=False).values
            best = torch.cat([best, keys], dim=1).sort(dim=1).values[:, :k]
        found.append(best)
    keys = torch.cat(found)
    return (keys // num_codes).int(), (keys % num_codes).long()


def within_by_product(query: Tensor, database: Tensor, radius: int) -> Within:
    """Return `within` by matrix products of -1 and 1, on any device."""
    block_size, found, first = _block_size(query, len(database)), [], 0
    for queries in query.split(max(1, BLOCK_DISTANCES // block_size)):
        for start, distances in _distances(queries, database, block_size):
            near, rows = (distances <= radius).nonzero(as_tuple=True)
            found.append((near + first, distances[near, rows], rows + start))
        first += len(queries)
    near, distances, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    # Blocks of the database came in order, so that rows are in order within a query.
    order = (near * (query.shape[1] * BITS_OF_A_BYTE + 1) + distances).argsort(stable=True)
    sizes = near.bincount(minlength=len(query)).tolist()
    return sizes, distances[order], rows[order]


def _block_size(query: Tensor, num_codes: int, at_least: int = 0) -> int:
    """Return how many codes of the database are compared at a time."""
    num_queries, num_bytes = query.shape
    most = min(BLOCK_DISTANCES // max(1, num_queries), BLOCK_BITS // (num_bytes * BITS_OF_A_BYTE))
    return min(num_codes, max(most, MIN_DATABASE_BLOCK, at_least))


def _distances(query: Tensor, database: Tensor, block_size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row of each block of the database and its distances, int32."""
    code_length = query.shape[1] * BITS_OF_A_BYTE  # bits behind a code are zeros, and differ not
    half = query.device.type == "cuda" and code_length <= MAX_HALF_CODE_LENGTH
    dtype = torch.float16 if half else torch.float32
    signs = unpack(query, dtype=dtype)
    for start in range(0, len(database), block_size):
        block = unpack(database[start : start + block_size], dtype=dtype)
        with torch.autocast(query.device.type, enabled=False):  # bf16 cannot count past 256
            inner = signs @ block.T
        yield start, inner.neg_().add_(code_length).div_(2).int()
