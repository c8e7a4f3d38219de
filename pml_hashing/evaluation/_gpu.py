"""Counts and orders by torch alone, for GPUs: a matrix product for distances, then a scatter."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pml_hashing.evaluation._retrieval import Retrieval, slices

LARGEST_IN_HALF = 2048  # float16 holds all integers up to here
SIGNS_AT_A_TIME = 2**28  # of items: half a GiB in float16
LARGEST_INT32 = torch.iinfo(torch.int32).max


def count_by_distance(retrieval: Retrieval) -> Tensor:
    """Count the items of each query, distance and grade, `(queries, code_length + 1, levels)`.

    The memory does not grow with the database: blocks of queries meet blocks of items. Nothing is
    read back from the device, except that the grades of a given relevance are checked.
    """
    levels = retrieval.relevance.num_levels or 2
    num_queries, num_groups = len(retrieval.query_codes), retrieval.code_length + 2
    counts = retrieval.zero_counts(num_groups, levels)
    one = counts.new_ones(1)
    # Many more items than queries: the counters of a block of queries stay in the cache.
    queries_at_a_time = min(num_queries, max(1, math.isqrt(retrieval.pairs_at_a_time // 64)))
    most_items = min(retrieval.pairs_at_a_time // queries_at_a_time, SIGNS_AT_A_TIME // num_groups)
    items_at_a_time = max(1, most_items)
    for rows, items, distances in _blocks(retrieval, queries_at_a_time, items_at_a_time):
        grades = retrieval.relevance.grades(rows, items, retrieval.device)
        if retrieval.relevance.num_levels is None and (most := int(grades.max()) + 1) > levels:
            counts = torch.nn.functional.pad(counts, (0, most - levels))
            levels = most
        block = counts[rows].view(-1)
        starts = torch.arange(len(distances), device=block.device) * (num_groups * levels)
        dtype = distances.dtype if len(block) <= LARGEST_INT32 else torch.int64
        counters = torch.add(starts.to(dtype)[:, None], distances.to(dtype), alpha=levels)
        counters += grades
        block.index_add_(0, counters.view(-1), one.expand(counters.numel()))
    return counts[:, :-1]  # without the queries themselves


def orders(retrieval: Retrieval) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Yield blocks of queries, as ranks, from 1 on, and grades of the relevant items of each.

    Items are ordered by distance, then by their place in the database, on the device; the ranks
    are brought to the host, once per block of queries.
    """
    num_items = len(retrieval.database_codes)
    fits = (retrieval.code_length + 2) * num_items <= LARGEST_INT32
    dtype = torch.int32 if fits else torch.int64
    places = torch.arange(num_items, dtype=dtype, device=retrieval.device)
    queries_at_a_time = max(1, retrieval.pairs_at_a_time // num_items)
    for rows, items, distances in _blocks(retrieval, queries_at_a_time, num_items):
        grades = retrieval.relevance.grades(rows, items, retrieval.device)
        # Distance and place in one number: all differ, so that any sort is stable.
        keys = torch.add(places, distances.to(dtype), alpha=num_items)
        keys = keys.sort(dim=1).values[:, : retrieval.total].remainder_(num_items)
        ranking = grades.gather(1, keys.long()).cpu().numpy()
        found = (np.flatnonzero(row) for row in ranking)
        yield [(at + 1, row[at]) for at, row in zip(found, ranking, strict=True)]


def _blocks(
    retrieval: Retrieval, queries_at_a_time: int, items_at_a_time: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield slices of queries and of items with their distances, int32.

    An item that is its own query is put one beyond the largest distance.
    """
    code_length = retrieval.code_length
    half = retrieval.device.type == "cuda" and code_length <= LARGEST_IN_HALF
    dtype = torch.float16 if half else torch.float32  # sums of -1 and 1 are exact in both
    queries = retrieval.signs(retrieval.query_codes, dtype)
    for items in slices(len(retrieval.database_codes), items_at_a_time):
        signs = retrieval.signs(retrieval.database_codes[items], dtype).T
        for rows in slices(len(queries), queries_at_a_time):
            with torch.autocast(retrieval.device.type, enabled=False):
                inner = queries[rows] @ signs
            distances = inner.sub_(code_length).mul_(-0.5).int()
            retrieval.drop_own_items(distances, rows, items)
            yield rows, items, distances
