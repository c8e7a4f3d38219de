"""Rankings of codes by real queries that are not binarized: every distance may differ."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pml_hashing.evaluation._retrieval import Retrieval

ITEMS_AT_A_TIME = 2**14  # whose signs are held in float64
QUERIES_AT_A_TIME = 8  # for which signs are looked up once
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
        ascending, sorted_grades = _by_distance(distances, grades, levels)
        yield _count(ascending[: retrieval.total], sorted_grades[: retrieval.total], levels)


def _by_distance(distances: Tensor, grades: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return the distances in ascending order, int64, and the grades of these items."""
    digits = (levels - 1).bit_length()
    whole = distances.long()
    if digits > SPARE_DIGITS:
        ascending, order = whole.sort()
        return ascending, grades[order].long()
    keys = whole.bitwise_left_shift_(digits).bitwise_or_(grades)  # one number, sorted by itself
    # On the CPU numpy sorts ten times as fast.
    keys = torch.from_numpy(np.sort(keys.numpy())) if keys.is_cpu else keys.sort().values
    return keys >> digits, keys.bitwise_and_(2**digits - 1)


def _count(ascending: Tensor, grades: Tensor, levels: int) -> Tensor:
    """Return the counters of one query, `(1, num_groups, levels)`."""
    relevant = grades.nonzero().flatten()
    distances, group, found = ascending[relevant].unique_consecutive(
        return_inverse=True, return_counts=True
    )
    first, end = _limits(ascending, relevant, distances, found)
    # Before each group that has relevant items, and after the last, those that are not.
    counts = ascending.new_zeros(2 * len(distances) + 1, levels)
    counts[0::2, 0] = torch.cat([first, first.new_tensor([len(ascending)])])
    counts[2::2, 0] -= end
    by_grade = torch.bincount(group * levels + grades[relevant], minlength=len(found) * levels)
    counts[1::2] = by_grade.view(-1, levels)
    counts[1::2, 0] = end - first - found
    return counts[None]


def _limits(
    ascending: Tensor, relevant: Tensor, distances: Tensor, found: Tensor
) -> tuple[Tensor, Tensor]:
    """Return where the items at each distance begin and end.

    Most often nothing else is at the distance of a relevant item, so that little is searched for.

    Args:
        ascending: Distances of all items.
        relevant: Places of the relevant items among them.
        distances: Those of relevant items, each once.
        found: Number of relevant items at each of them.
    """
    ends = found.cumsum(dim=0)
    first = relevant[ends - found]
    end = relevant[ends - 1] + 1
    tied = ascending[(first - 1).clamp(min=0)] == distances
    first[tied] = torch.searchsorted(ascending, distances[tied])
    tied = ascending[end.clamp(max=len(ascending) - 1)] == distances
    end[tied] = torch.searchsorted(ascending, distances[tied], right=True)
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
