"""Exact search over packed codes: faiss on the CPU, a matrix product on any other device."""

import math
from collections.abc import Iterator
from itertools import pairwise

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing.codes import BITS_OF_A_BYTE, unpack

# Counting sets aside k places of 8 bytes for each distance and each query of a batch: up to 1 GiB
# of addresses, of which it touches the places that are taken.
MAX_COUNTING_PLACES = 2**22
COUNTED_QUERIES = 32  # of a batch, as in faiss' flat index
# Distances that a matrix product forms at a time: a block of queries by a block of the database.
BLOCK_DISTANCES = 2**25
MIN_DATABASE_BLOCK = 2**16
# Half precision holds every integer up to 2048, and 2 * code_length is formed.
MAX_HALF_CODE_LENGTH = 1024
MAX_INT32 = 2**31


def nearest(query: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances (int32) and rows (int64) of the `k` nearest codes, `(num_queries, k)`.

    The search runs where the query is. Neighbours at equal distance come in database order.

    Args:
        query: Packed codes.
        database: Packed codes, at least `k` of them.
        k: Number of neighbours.
    """
    if not k:
        none = query.new_empty(len(query), 0, dtype=torch.int64)
        return none.int(), none
    if not _faiss_has(query.device):
        return nearest_by_product(query, database.to(query.device), k)
    # The functions under faiss' flat index read the codes where they are: it would hold a copy.
    queries, codes = query.numpy(), database.cpu().numpy()
    num_queries, (num_codes, width) = len(queries), codes.shape
    if not _is_counted(k, num_codes, width):
        distances, rows = faiss.knn_hamming(queries, codes, k, variant="hc")
        return torch.from_numpy(distances), torch.from_numpy(rows)
    distances, rows = np.empty((num_queries, k), np.int32), np.empty((num_queries, k), np.int64)
    pointer = faiss.swig_ptr(codes)
    for start in range(0, num_queries, COUNTED_QUERIES):
        block = slice(start, start + COUNTED_QUERIES)
        first, *found = [faiss.swig_ptr(array[block]) for array in (queries, distances, rows)]
        size = min(COUNTED_QUERIES, num_queries - start)
        faiss.hammings_knn_mc(  # pyright: ignore[reportAttributeAccessIssue]
            first, pointer, size, num_codes, k, width, *found
        )
    return torch.from_numpy(distances), torch.from_numpy(rows)


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


def within(query: Tensor, database: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of codes within `radius` of each query, and their distances and rows.

    The search runs where the query is. The codes of the first query come first; those of a query
    are in order of distance and, at equal distance, of the database.

    Args:
        query: Packed codes.
        database: Packed codes.
        radius: Largest distance, inclusive.
    """
    if not len(database):
        counts = query.new_zeros(len(query), dtype=torch.int64)
        return counts, counts[:0].int(), counts[:0]
    database = database.to(query.device)
    if not _faiss_has(query.device):
        return within_by_product(query, database, radius)
    found, (num_codes, width) = faiss.RangeSearchResult(len(query)), database.shape
    codes = (faiss.swig_ptr(tensor.numpy()) for tensor in (query, database))
    # Its radius is strict.
    faiss.hamming_range_search(  # pyright: ignore[reportAttributeAccessIssue]
        *codes, len(query), num_codes, radius + 1, width, found
    )
    limits = faiss.rev_swig_ptr(found.lims, len(query) + 1).astype(np.int64)
    counts, total = torch.from_numpy(np.diff(limits)), int(limits[-1])
    if not total:  # then faiss may have no arrays at all
        return counts, counts[:0].int(), counts[:0]
    distances = faiss.rev_swig_ptr(found.distances, total).astype(np.int32)
    rows = faiss.rev_swig_ptr(found.labels, total).copy()
    for start, end in pairwise(limits.tolist()):
        # The codes of a query come in database order; numpy sorts 16 bits in linear time.
        order = distances[start:end].astype(np.uint16).argsort(kind="stable")
        distances[start:end] = distances[start:end][order]
        rows[start:end] = rows[start:end][order]
    return counts, torch.from_numpy(distances), torch.from_numpy(rows)


def _faiss_has(device: torch.device) -> bool:
    """Return whether faiss searches binary codes on this device: its CPU package has no other."""
    return device.type == "cpu"


def nearest_by_product(query: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return `nearest` by matrix products of -1 and 1, on any device.

    `torch.topk` orders ties at random, so it gets keys without ties: distance first, then row.
    """
    num_codes, num_distances = len(database), query.shape[1] * BITS_OF_A_BYTE + 1
    dtype = torch.int32 if num_codes * num_distances < MAX_INT32 else torch.int64
    block_size, found = min(num_codes, max(MIN_DATABASE_BLOCK, 4 * k)), []
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


def within_by_product(
    query: Tensor, database: Tensor, radius: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `within` by matrix products of -1 and 1, on any device."""
    block_size = min(len(database), MIN_DATABASE_BLOCK)
    found, first = [], 0
    for queries in query.split(max(1, BLOCK_DISTANCES // block_size)):
        for start, distances in _distances(queries, database, block_size):
            near, rows = (distances <= radius).nonzero(as_tuple=True)
            found.append((near + first, distances[near, rows], rows + start))
        first += len(queries)
    near, distances, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    # Blocks of the database came in order, so that rows are in order within a query.
    order = (near * (query.shape[1] * BITS_OF_A_BYTE + 1) + distances).argsort(stable=True)
    return near.bincount(minlength=len(query)), distances[order], rows[order]


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
