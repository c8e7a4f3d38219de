"""Exact search over packed codes: faiss on the CPU, a matrix product on any other device."""

import math
from itertools import pairwise

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing.codes import BITS_OF_A_BYTE
from pml_hashing.search import _product

# Counting sets aside k places of 8 bytes for each distance and each query of a batch: up to 1 GiB
# of addresses, of which it touches the places that are taken.
MAX_COUNTING_PLACES = 2**22
COUNTED_QUERIES = 32  # of a batch, as in faiss' flat index


def nearest(query: Tensor, database: Tensor, code_length: int, k: int) -> tuple[Tensor, Tensor]:
    """Return distances (int32) and rows (int64) of the `k` nearest codes, `(num_queries, k)`.

    The search runs where the query is. Neighbours at equal distance come in database order.

    Args:
        query: Packed codes.
        database: Packed codes, at least `k` of them.
        code_length: Number of bits.
        k: Number of neighbours.
    """
    database = database.to(query.device)
    if not _faiss_has(query.device):
        return _product.nearest(query, database, code_length, k)
    distances, rows = nearest_arrays(query.numpy(), database.numpy(), k)
    return torch.from_numpy(distances), torch.from_numpy(rows)


def nearest_arrays(query: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, ...]:
    """Return `nearest` of arrays in main memory, by the functions under faiss' flat index.

    They read the codes where they are; an `IndexBinaryFlat` would hold a second copy.
    """
    if not _is_counted(k, *database.shape):
        return faiss.knn_hamming(query, database, k, variant="hc")
    distances = np.empty((len(query), k), dtype=np.int32)
    rows = np.empty((len(query), k), dtype=np.int64)
    for start in range(0, len(query), COUNTED_QUERIES):
        batch = slice(start, start + COUNTED_QUERIES)
        faiss.hammings_knn_mc(  # pyright: ignore[reportAttributeAccessIssue]
            faiss.swig_ptr(query[batch]),
            faiss.swig_ptr(database),
            len(query[batch]),
            len(database),
            k,
            query.shape[1],
            faiss.swig_ptr(distances[batch]),
            faiss.swig_ptr(rows[batch]),
        )
    return distances, rows


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


def within(
    query: Tensor, database: Tensor, code_length: int, radius: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of codes within `radius` of each query, and their distances and rows.

    The search runs where the query is. The codes of the first query come first; those of a query
    are in order of distance and, at equal distance, of the database.

    Args:
        query: Packed codes.
        database: Packed codes.
        code_length: Number of bits.
        radius: Largest distance, inclusive.
    """
    database = database.to(query.device)
    if not _faiss_has(query.device):
        return _product.within(query, database, code_length, radius)
    arrays = _within_arrays(query.numpy(), database.numpy(), radius)
    counts, distances, rows = (torch.from_numpy(array) for array in arrays)
    return counts, distances, rows


def _faiss_has(device: torch.device) -> bool:
    """Return whether faiss searches binary codes on this device: its CPU package has no other."""
    return device.type == "cpu"


def _within_arrays(query: np.ndarray, database: np.ndarray, radius: int) -> tuple[np.ndarray, ...]:
    found = faiss.RangeSearchResult(len(query))
    faiss.hamming_range_search(  # pyright: ignore[reportAttributeAccessIssue]
        faiss.swig_ptr(query),
        faiss.swig_ptr(database),
        len(query),
        len(database),
        radius + 1,  # faiss' radius is strict
        query.shape[1],
        found,
    )
    limits = faiss.rev_swig_ptr(found.lims, len(query) + 1).astype(np.int64)
    total = int(limits[-1])
    if not total:  # then faiss may have no arrays at all
        return np.diff(limits), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
    distances = faiss.rev_swig_ptr(found.distances, total).astype(np.int32)
    rows = faiss.rev_swig_ptr(found.labels, total).copy()
    for start, end in pairwise(limits.tolist()):
        # The codes of a query come in database order; numpy sorts 16 bits in linear time.
        order = distances[start:end].astype(np.uint16).argsort(kind="stable")
        distances[start:end] = distances[start:end][order]
        rows[start:end] = rows[start:end][order]
    return np.diff(limits), distances, rows
