"""Rankings of codes by real queries that are not binarized: every distance may differ."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pml_hashing.evaluation._retrieval import Retrieval

ITEMS_AT_A_TIME = 2**12  # whose signs are held in float64
QUERIES_AT_A_TIME = 16  # for which signs are looked up once
DIGITS = 52  # of a float64
SPARE_DIGITS = 10  # of an int64, beside those of a distance and its sign
BEYOND = 2.0**DIGITS + 1  # all distances: where queries are put that are items themselves


def group_counts(retrieval: Retrieval) -> Iterator[Tensor]:
    """Yield for each query its items counted by group of equal distance and grade.

    Groups in which nothing is relevant are counted as one with their neighbors: no score can tell
    in which order such items come.
    """
    for distances, grades in _queries(retrieval):
        levels = retrieval.relevance.num_levels or int(grades.max()) + 1
        yield _count(_ranked(distances, grades, levels, retrieval.total), levels)


class _Ranked(NamedTuple):
    """The items of one query in ascending order of distance, of which few have to be looked at.

    Attributes:
        keys: Distances, int64, each with `digits` further binary digits that say nothing of them.
        relevant: Places of the relevant items among them.
        grades: Those of the relevant items, int64.
    """

    keys: Tensor
    digits: int
    relevant: Tensor
    grades: Tensor


def _ranked(distances: Tensor, grades: Tensor, levels: int, total: int) -> _Ranked:
    digits, keys = (levels - 1).bit_length(), distances.long()
    if digits > SPARE_DIGITS:
        keys, order = keys.sort()
        relevant = grades[order[:total]].nonzero().flatten()
        return _Ranked(keys[:total], 0, relevant, grades[order[relevant]].long())
    keys = keys.bitwise_left_shift_(digits).bitwise_or_(grades)  # one number, sorted by itself
    # On the CPU numpy sorts several times as fast.
    keys = torch.from_numpy(np.sort(keys.numpy())) if keys.is_cpu else keys.sort().values
    keys, mask = keys[:total], 2**digits - 1
    relevant = (keys & mask).nonzero().flatten()
    return _Ranked(keys, digits, relevant, keys[relevant] & mask)


def _count(ranked: _Ranked, levels: int) -> Tensor:
    """Return the counters of one query, `(1, num_groups, levels)`."""
    keys, digits, relevant, grades = ranked
    distances, group, found = (keys[relevant] >> digits).unique_consecutive(
        return_inverse=True, return_counts=True
    )
    first, end = _limits(ranked, distances, found)
    # Before each group that has relevant items, and after the last, those that are not.
    counts = keys.new_zeros(2 * len(distances) + 1, levels)
    counts[0::2, 0] = torch.cat([first, first.new_tensor([len(keys)])])
    counts[2::2, 0] -= end
    by_grade = torch.bincount(group * levels + grades, minlength=len(found) * levels)
    counts[1::2] = by_grade.view(-1, levels)
    counts[1::2, 0] = end - first - found
    return counts[None]


def _limits(ranked: _Ranked, distances: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the items at each distance begin and end.

    Most often nothing else is at the distance of a relevant item, so that little is searched for.

    Args:
        ranked: All items.
        distances: Those of relevant items, each once.
        found: Number of relevant items at each of them.
    """
    keys, digits, relevant, _ = ranked
    ends = found.cumsum(dim=0)
    first = relevant[ends - found]
    end = relevant[ends - 1] + 1
    tied = keys[(first - 1).clamp(min=0)] >> digits == distances
    first[tied] = torch.searchsorted(keys, distances[tied] << digits)
    tied = keys[end.clamp(max=len(keys) - 1)] >> digits == distances
    end[tied] = torch.searchsorted(keys, distances[tied] + 1 << digits)
    return first, end


def orders(retrieval: Retrieval) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Yield each query, in a block of its own, as ranks, from 1 on, and grades of relevant items.

    Items are ordered by distance, then by their place in the database.
    """
    for distances, grades in _queries(retrieval):
        order = distances.sort(stable=True).indices[: retrieval.total]
        ranking = grades[order].cpu().numpy()
        places = np.flatnonzero(ranking)
        yield [(places + 1, ranking[places])]


def _queries(retrieval: Retrieval) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each query with its distances, float64, and the grades of all items."""
    num_queries, num_items = len(retrieval.query_codes), len(retrieval.database_codes)
    queries = whole_numbers(retrieval.query_codes)
    everything = slice(0, num_items)
    size = max(QUERIES_AT_A_TIME, retrieval.pairs_at_a_time // num_items)
    size = -(-num_queries // -(-num_queries // size))  # blocks of one size
    for first in range(0, num_queries, size):
        block = queries[first : first + size]
        distances = block.new_empty(len(block), num_items)
        for start in range(0, num_items, ITEMS_AT_A_TIME):
            items = slice(start, start + ITEMS_AT_A_TIME)
            signs = retrieval.signs(retrieval.database_codes[items], torch.float64)
            torch.mm(block.neg(), signs.T, out=distances[:, items])
        if retrieval.query_in_database:
            distances.diagonal(first).fill_(BEYOND)
        for query, row in enumerate(distances, start=first):
            rows = slice(query, query + 1)
            yield row, retrieval.relevance.grades(rows, everything, retrieval.device)[0]


def whole_numbers(query_codes: Tensor) -> Tensor:
    """Return the queries as whole numbers, so large that their sums are still exact in float64.

    A distance then does not depend on the order of summation, and equal distances are equal. What
    is rounded is less than $2^{-44}$ of the largest value of a query, for 128 bits.
    """
    codes = query_codes.double()
    exponent = torch.frexp(codes.abs().amax(dim=1, keepdim=True)).exponent
    digits = DIGITS - (codes.shape[1] - 1).bit_length()
    return torch.ldexp(codes, (digits - exponent).double()).round()
