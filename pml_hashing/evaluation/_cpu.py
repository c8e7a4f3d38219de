"""Counts and orders on the CPU: distances by faiss, counters by torch, sorting by numpy.

Chosen by measurement, see `benchmarks/evaluation.py`. Where numba is installed, and there is enough
to count, a loop that it compiles takes half the time; it counts the same.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing.codes import pack, packed_length
from pml_hashing.evaluation._relevance import SameClass, SharedLabels
from pml_hashing.evaluation._retrieval import Retrieval, slices

ROWS_AT_A_TIME = 2**14  # of codes that are packed
ITEMS_TO_SORT = 2**16  # at a time: in this many, a radix sort stays in the cache
WORD = 8  # bytes
COMPILED = "pml_hashing.evaluation._numba"
PAIRS_THAT_PAY = 2**30  # save as much time as it takes to import numba and load what it compiled
MOST_FAST_WORDS = 8  # faiss compares codes of 1, 2, 4 and 8 words five times as fast as others

Count: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""Adds to counters, `(num_queries, num_distances, 2)`, how many items are at each distance of each
query, and how many of the relevant ones. Takes packed queries and items, and where the relevant
items of each query begin and end."""


def count_by_distance(retrieval: Retrieval) -> Tensor:
    """Count the items of each query, distance and grade, `(queries, code_length + 1, levels)`.

    The memory does not grow with the database: blocks of queries meet blocks of items.
    """
    if isinstance(retrieval.relevance, SameClass):
        return _count_classes(retrieval, retrieval.relevance)
    queries = _packed(retrieval.query_codes)
    counts = retrieval.zero_counts(retrieval.code_length + 1, retrieval.relevance.num_levels or 2)
    grades_of = _grader(retrieval)
    item_slices, row_slices = _blocks(retrieval)
    for items in item_slices:
        database = _packed(retrieval.database_codes[items])
        for rows in row_slices:
            distances = hamming_distances(queries[rows], database)
            retrieval.drop_own_items(distances, rows, items)
            grades = grades_of(rows, items)
            levels = retrieval.relevance.num_levels or int(grades.max()) + 1
            if levels > counts.shape[2]:
                counts = torch.nn.functional.pad(counts, (0, levels - counts.shape[2]))
            keys = distances.mul_(levels).add_(grades)
            groups = retrieval.code_length + 2  # the last one of the queries themselves
            counters = [torch.bincount(row, minlength=groups * levels) for row in keys]
            counts[rows, :, :levels] += torch.stack(counters).view(-1, groups, levels)[:, :-1]
    return counts


def _count_classes(retrieval: Retrieval, relevance: SameClass) -> Tensor:
    """Count with the items sorted by class, so that no label is looked up for a distance."""
    queries = _packed(retrieval.query_codes)
    query_labels = relevance.query_labels.cpu().contiguous()  # PML's testers give a column
    counts = retrieval.zero_counts(retrieval.code_length + 1, 2)
    item_slices, row_slices = _blocks(retrieval)
    count = _compiled_count(retrieval) or partial(_count_by_faiss, row_slices)
    for items in item_slices:
        labels, order = relevance.database_labels[items].cpu().sort()
        database = _packed(retrieval.database_codes[items])[order.numpy()]
        first = torch.searchsorted(labels, query_labels)
        last = torch.searchsorted(labels, query_labels, right=True)
        count(queries, database, first.numpy(), last.numpy(), counts.numpy())
    if retrieval.query_in_database:  # each is at distance 0 of itself, and of its own class
        counts[:, 0] -= 1
    counts[:, :, 0] -= counts[:, :, 1]
    return counts


def _compiled_count(retrieval: Retrieval) -> Count | None:
    """Return the loop that numba compiles, `None` where it cannot be had, or would not pay."""
    pairs = len(retrieval.query_codes) * len(retrieval.database_codes)
    if COMPILED not in sys.modules and pairs < PAIRS_THAT_PAY:
        return None
    try:
        from pml_hashing.evaluation import _numba  # noqa: PLC0415 (takes a second)
    except ImportError:  # not installed, or not for this version of numpy
        return None
    return _numba.count if retrieval.code_length <= _numba.LONGEST_CODE else None


def _count_by_faiss(
    row_slices: list[slice],
    queries: np.ndarray,
    database: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Add to `counts` all items, and the relevant ones from `first` to `last`, by distance."""
    size = counts.shape[1]
    held = np.empty((row_slices[0].stop, len(database)), dtype=np.int32)  # written again and again
    for rows in row_slices:
        distances = hamming_distances(queries[rows], database, held[: rows.stop - rows.start])
        for query, row in enumerate(distances, start=rows.start):
            counts[query, :, 0] += torch.bincount(row, minlength=size).numpy()
            relevant = row[first[query] : last[query]].numpy()
            if len(relevant):  # numpy counts many more slowly than torch, but starts faster
                counts[query, :, 1] += np.bincount(relevant, minlength=size)


def orders(retrieval: Retrieval) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Yield blocks of queries, as ranks, from 1 on, and grades of the relevant items of each.

    Items are ordered by distance, then by their place in the database. They are sorted in parts
    that fit into the cache, and the parts are merged by counting.
    """
    queries, grades_of = _packed(retrieval.query_codes), _grader(retrieval)
    database = _packed(retrieval.database_codes)
    narrow = np.uint8 if retrieval.code_length < 255 else np.uint16  # numpy sorts these by radix
    beyond = retrieval.code_length + 1
    num_parts = -(-len(database) // min(ITEMS_TO_SORT, retrieval.pairs_at_a_time))
    item_slices = slices(len(database), -(-len(database) // num_parts))
    for rows in slices(len(queries), max(1, retrieval.pairs_at_a_time // item_slices[0].stop)):
        parts: list[list[_Part]] = [[] for _ in range(rows.start, rows.stop)]
        for items in item_slices:
            distances = hamming_distances(queries[rows], database[items])
            retrieval.drop_own_items(distances, rows, items)
            columns = parts, distances.numpy().astype(narrow), grades_of(rows, items).numpy()
            for part, row, grades in zip(*columns, strict=True):
                part.append(_sort_part(row, grades, beyond, num_parts == 1))
        yield [_merge(part) for part in parts]


class _Part(NamedTuple):
    """The relevant items of a part of the database, by distance and place.

    Attributes:
        places: Among all items of the part in this order, from 0 on.
        grades: Of these items.
        distances: Of these items. Empty if the part is the whole.
        starts: The place of the first item at each distance, and the end. Empty likewise.
    """

    places: np.ndarray
    grades: np.ndarray
    distances: np.ndarray
    starts: np.ndarray


def _sort_part(distances: np.ndarray, grades: np.ndarray, beyond: int, alone: bool) -> _Part:
    order = np.argsort(distances, kind="stable")
    kept = len(order) - np.count_nonzero(distances == beyond)  # without the query itself
    ranking = grades.take(order[:kept])
    places = np.flatnonzero(ranking)
    if alone:
        return _Part(places, ranking[places], distances[:0], distances[:0])
    ascending = distances.take(order)
    starts = np.searchsorted(ascending, np.arange(beyond + 1, dtype=ascending.dtype))
    return _Part(places, ranking[places], ascending[places], starts)


def _merge(parts: list[_Part]) -> tuple[np.ndarray, np.ndarray]:
    if len(parts) == 1:
        return parts[0].places + 1, parts[0].grades
    starts = np.stack([part.starts for part in parts])
    sizes = np.diff(starts, axis=1)
    nearer = sizes.sum(axis=0).cumsum() - sizes.sum(axis=0)
    shifts = nearer + sizes.cumsum(axis=0) - sizes - starts[:, :-1]
    ranks = [
        part.places + shift[part.distances] + 1 for part, shift in zip(parts, shifts, strict=True)
    ]
    merged, grades = np.concatenate(ranks), np.concatenate([part.grades for part in parts])
    if grades.dtype == np.bool_:  # all of them true
        return np.sort(merged), grades
    order = np.argsort(merged)
    return merged[order], grades[order]


def hamming_distances(
    queries: np.ndarray, database: np.ndarray, distances: np.ndarray | None = None
) -> Tensor:
    """Return the distances between packed rows of whole words, int32, where they are to stand."""
    if distances is None:
        distances = np.empty((len(queries), len(database)), dtype=np.int32)
    pointers: list[Any] = [faiss.swig_ptr(x) for x in (queries, database, distances)]
    sizes = len(queries), len(database), queries.shape[1]
    faiss.hammings(*pointers[:2], *sizes, pointers[2])  # pyright: ignore[reportAttributeAccessIssue]
    return torch.from_numpy(distances)


def _packed(codes: Tensor) -> np.ndarray:
    """Return packed codes, padded with zeros to a number of words that faiss is fast at."""
    if codes.dtype != torch.uint8:
        return _padded(codes, packed_length(codes.shape[1]), pack)
    if codes.shape[1] == _padded_width(codes.shape[1]):
        return np.ascontiguousarray(codes.cpu().numpy())
    return _padded(codes, codes.shape[1], lambda packed: packed)


def _padded_width(width: int) -> int:
    words = -(-width // WORD)
    words = 1 << (words - 1).bit_length() if words <= MOST_FAST_WORDS else words
    return words * WORD


def _padded(rows: Tensor, width: int, pack_rows: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Return packed rows of `width` bytes and zeros after them, made block by block."""
    padded = np.zeros((len(rows), _padded_width(width)), dtype=np.uint8)
    for block in slices(len(rows), ROWS_AT_A_TIME):
        padded[block, :width] = pack_rows(rows[block].cpu()).numpy()
    return padded


def _grader(retrieval: Retrieval) -> Callable[[slice, slice], Tensor]:
    """Return a function that gives the grades of a block."""
    relevance = retrieval.relevance
    if isinstance(relevance, SameClass):  # numpy compares four times as fast as torch
        ids = relevance.query_labels.cpu().numpy()[:, None], relevance.database_labels.cpu().numpy()
        return lambda rows, items: torch.from_numpy(ids[0][rows] == ids[1][items])
    if not isinstance(relevance, SharedLabels):
        return lambda rows, items: relevance.grades(rows, items, retrieval.device)
    queries, database = map(_packed_labels, (relevance.query_labels, relevance.database_labels))

    def shared_labels(rows: slice, items: slice) -> Tensor:
        # Labels of both are half of the labels of each, less those of only one.
        one_only = hamming_distances(queries[0][rows], database[0][items])
        total = one_only.neg_().add_(queries[1][rows, None]).add_(database[1][items])
        return total.bitwise_right_shift_(1)

    return shared_labels


def _packed_labels(labels: Tensor) -> tuple[np.ndarray, Tensor]:
    """Return multi-hot rows as packed ones, and how many labels each has, int32."""
    packed = _padded(labels, packed_length(labels.shape[1]), lambda rows: pack(rows != 0))
    none = np.zeros_like(packed[:1])  # the distance to it is the number of ones
    return packed, hamming_distances(none, packed)[0]


def _blocks(retrieval: Retrieval) -> tuple[list[slice], list[slice]]:
    """Return slices of items and of queries that make up blocks of at most `pairs_at_a_time`."""
    num_queries, num_items = len(retrieval.query_codes), len(retrieval.database_codes)
    items_at_a_time = min(num_items, retrieval.pairs_at_a_time)
    queries_at_a_time = retrieval.pairs_at_a_time // items_at_a_time
    return slices(num_items, items_at_a_time), slices(num_queries, queries_at_a_time)
