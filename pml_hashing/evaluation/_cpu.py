"""Counts and orders on the CPU: distances by faiss, counters by torch, sorting by numpy.

Chosen by measurement, see `benchmarks/evaluation.py`: together they take half the time of a plain C
loop over XOR, popcount and a counter, as fast as the same loop compiled by numba.
"""

from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing.codes import pack
from pml_hashing.evaluation._relevance import SameClass, SharedLabels
from pml_hashing.evaluation._retrieval import Retrieval

ROWS_AT_A_TIME = 2**14  # of codes that are packed
WORD = 8  # bytes: faiss compares codes of 1, 2, 4 and 8 words fast, others by its slowest loop


def count_by_distance(retrieval: Retrieval) -> Tensor:
    """Count the items of each query, distance and grade, `(queries, code_length + 1, levels)`.

    The memory does not grow with the database: blocks of queries meet blocks of items.
    """
    if isinstance(retrieval.judge, SameClass):
        return _count_classes(retrieval, retrieval.judge)
    queries, database = _packed_sides(retrieval)
    counts, grades_of = _zeros(retrieval, retrieval.judge.num_levels or 2), _grader(retrieval)
    for rows, items in _blocks(retrieval):
        distances = hamming_distances(queries[rows], database[items])
        if retrieval.query_in_database:
            _drop_own_items(distances, rows, items, retrieval.code_length + 1)
        grades = grades_of(rows, items)
        levels = _levels(retrieval, grades)
        counts = _with_levels(counts, levels)
        keys = distances.mul_(levels).add_(grades)
        size = (retrieval.code_length + 2) * levels
        for query, row in zip(range(rows.start, rows.stop), keys, strict=True):
            counter = torch.bincount(row, minlength=size).view(-1, levels)
            counts[query, :, :levels] += counter[:-1]  # without the query itself
    return counts


def _count_classes(retrieval: Retrieval, judge: SameClass) -> Tensor:
    """Count with the items sorted by class, so that no label is looked up for a distance."""
    labels, order = judge.database_labels.cpu().sort(stable=True)
    queries, database = _packed_sides(retrieval)
    database = database[order.numpy()]
    query_labels = judge.query_labels.cpu()
    first = torch.searchsorted(labels, query_labels).tolist()
    last = torch.searchsorted(labels, query_labels, right=True).tolist()
    counts, size = _zeros(retrieval, 2), retrieval.code_length + 1
    for rows, items in _blocks(retrieval):
        distances = hamming_distances(queries[rows], database[items])
        counts[rows, :, 0] += torch.stack(
            [torch.bincount(row, minlength=size) for row in distances]
        )
        for query, row in enumerate(distances, start=rows.start):
            low, high = (max(at[query] - items.start, 0) for at in (first, last))
            if low < min(high, len(row)):
                counts[query, :, 1] += torch.bincount(row[low:high], minlength=size)
    if retrieval.query_in_database:
        _uncount_own_items(retrieval, judge, counts)
    counts[:, :, 0] -= counts[:, :, 1]
    return counts


def _uncount_own_items(retrieval: Retrieval, judge: SameClass, counts: Tensor) -> None:
    every = torch.arange(len(counts))
    sides = retrieval.query_codes, retrieval.database_codes[: len(counts)].cpu()
    queries, items = (_packed(codes) for codes in sides)
    bits = np.unpackbits(np.bitwise_xor(queries, items), axis=1).sum(axis=1, dtype=np.int64)
    own = torch.from_numpy(bits)
    counts[every, own, 0] -= 1
    same = judge.query_labels.cpu() == judge.database_labels[: len(counts)].cpu()
    counts[every, own, 1] -= same.to(counts.dtype)


def orders(retrieval: Retrieval) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Yield blocks of queries, as ranks, from 1 on, and grades of the relevant items of each.

    Items are ordered by distance, then by their place in the database.
    """
    queries, database = _packed_sides(retrieval)
    num_items = len(database)
    narrow = np.uint8 if retrieval.code_length < 255 else np.uint16  # numpy sorts these by radix
    everything, grades_of = slice(0, num_items), _grader(retrieval)
    for rows in _slices(len(queries), max(1, retrieval.pairs_at_a_time // num_items)):
        distances = hamming_distances(queries[rows], database)
        if retrieval.query_in_database:
            _drop_own_items(distances, rows, everything, retrieval.code_length + 1)
        grades = grades_of(rows, everything).numpy()
        pairs = zip(distances.numpy().astype(narrow), grades, strict=True)
        yield [_order(row, grade, retrieval.total) for row, grade in pairs]


def _order(distances: np.ndarray, grades: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    ranking = grades[np.argsort(distances, kind="stable")[:total]]
    places = np.flatnonzero(ranking)
    return places + 1, ranking[places]


def hamming_distances(queries: np.ndarray, database: np.ndarray) -> Tensor:
    """Return the distances between packed rows of whole words, int32."""
    distances = np.empty((len(queries), len(database)), dtype=np.int32)
    pointers: list[Any] = [faiss.swig_ptr(x) for x in (queries, database, distances)]
    sizes = len(queries), len(database), queries.shape[1]
    faiss.hammings(*pointers[:2], *sizes, pointers[2])  # pyright: ignore[reportAttributeAccessIssue]
    return torch.from_numpy(distances)


def _packed_sides(retrieval: Retrieval) -> tuple[np.ndarray, np.ndarray]:
    return _packed(retrieval.query_codes), _packed(retrieval.database_codes)


def _packed(codes: Tensor) -> np.ndarray:
    """Return packed codes, padded with zeros to a number of words that faiss is fast at."""
    packed = codes[:0] if codes.dtype == torch.uint8 else pack(codes[:1])
    words = -(-packed.shape[1] // WORD)
    words = 1 << (words - 1).bit_length() if words <= WORD else words
    if codes.dtype == torch.uint8 and packed.shape[1] == words * WORD:
        return np.ascontiguousarray(codes.cpu().numpy())
    padded = np.zeros((len(codes), words * WORD), dtype=np.uint8)
    for rows in _slices(len(codes), ROWS_AT_A_TIME):
        part = codes[rows].cpu()
        part = part if part.dtype == torch.uint8 else pack(part)
        padded[rows, : part.shape[1]] = part.numpy()
    return padded


def _grader(retrieval: Retrieval) -> Callable[[slice, slice], Tensor]:
    """Return what says the grades of a block."""
    judge = retrieval.judge
    if not isinstance(judge, SharedLabels):
        return lambda rows, items: judge.grades(rows, items, retrieval.device)
    queries, database = (
        (_packed(labels.to(torch.int8) * 2 - 1), labels.sum(dim=1, dtype=torch.int32).cpu())
        for labels in (judge.query_labels, judge.database_labels)
    )

    def shared_labels(rows: slice, items: slice) -> Tensor:
        # What both have is half of all that each has, less what only one has.
        one_only = hamming_distances(queries[0][rows], database[0][items])
        total = one_only.neg_().add_(queries[1][rows, None]).add_(database[1][items])
        return total.bitwise_right_shift_(1)

    return shared_labels


def _levels(retrieval: Retrieval, grades: Tensor) -> int:
    return retrieval.judge.num_levels or int(grades.max()) + 1


def _with_levels(counts: Tensor, levels: int) -> Tensor:
    missing = max(0, levels - counts.shape[2])
    return torch.nn.functional.pad(counts, (0, missing)) if missing else counts


def _zeros(retrieval: Retrieval, levels: int) -> Tensor:
    shape = len(retrieval.query_codes), retrieval.code_length + 1, levels
    return torch.zeros(shape, dtype=retrieval.dtype_of_counts)


def _drop_own_items(distances: Tensor, rows: slice, items: slice, beyond: int) -> None:
    """Put items that are their own queries at a distance beyond all others."""
    offset = rows.start - items.start
    if -len(distances) < offset < distances.shape[1]:
        distances.diagonal(offset).fill_(beyond)


def _blocks(retrieval: Retrieval) -> Iterator[tuple[slice, slice]]:
    """Yield slices of queries and of items, the queries in turn for each slice of items."""
    num_queries, num_items = len(retrieval.query_codes), len(retrieval.database_codes)
    items_at_a_time = min(num_items, retrieval.pairs_at_a_time)
    queries_at_a_time = retrieval.pairs_at_a_time // items_at_a_time
    for items in _slices(num_items, items_at_a_time):
        for rows in _slices(num_queries, queries_at_a_time):
            yield rows, items


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
