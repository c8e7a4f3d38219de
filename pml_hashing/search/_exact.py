"""Exact search over packed codes: faiss on the CPU, a matrix product on any other device."""

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing.codes import BITS_OF_A_BYTE
from pml_hashing.search import _product

# faiss ranks with a heap or by counting. Counting is up to ten times as fast for many neighbours
# and slower for few, but sets aside k places of 8 bytes for each distance and each query.
MIN_COUNTED_NEIGHBORS = 128
MAX_COUNTING_PLACES = 2**22
QUERIES_AT_A_TIME = 32  # so many are searched at once; the places are theirs: up to 1 GiB


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
    places = k * (query.shape[1] * BITS_OF_A_BYTE + 1)
    if k < MIN_COUNTED_NEIGHBORS or places > MAX_COUNTING_PLACES:
        return faiss.knn_hamming(query, database, k, variant="hc")
    found = [
        faiss.knn_hamming(query[start : start + QUERIES_AT_A_TIME], database, k, variant="mc")
        for start in range(0, len(query), QUERIES_AT_A_TIME)
    ]
    distances, rows = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(rows)


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
    if _faiss_has(query.device):
        queries, distances, rows = _within_by_faiss(query.numpy(), database.numpy(), radius)
    else:
        queries, distances, rows = _product.within(query, database, code_length, radius)
    by_row = rows.argsort(stable=True)
    order = by_row[(queries * (code_length + 1) + distances)[by_row].argsort(stable=True)]
    counts = queries.bincount(minlength=len(query))
    return counts, distances[order].int(), rows[order]


def _faiss_has(device: torch.device) -> bool:
    """Return whether faiss searches binary codes on this device: its CPU package has no other."""
    return device.type == "cpu"


def _within_by_faiss(query: np.ndarray, database: np.ndarray, radius: int) -> tuple[Tensor, ...]:
    result = faiss.RangeSearchResult(len(query))
    faiss.hamming_range_search(  # pyright: ignore[reportAttributeAccessIssue]
        faiss.swig_ptr(query),
        faiss.swig_ptr(database),
        len(query),
        len(database),
        radius + 1,  # faiss' radius is strict
        query.shape[1],
        result,
    )
    limits = faiss.rev_swig_ptr(result.lims, len(query) + 1).copy()
    count = int(limits[-1])
    rows = faiss.rev_swig_ptr(result.labels, count).copy() if count else np.empty(0, np.int64)
    distances = faiss.rev_swig_ptr(result.distances, count).astype(np.int64) if count else rows
    queries = np.repeat(np.arange(len(query)), np.diff(limits.astype(np.int64)))
    return torch.from_numpy(queries), torch.from_numpy(distances), torch.from_numpy(rows)
