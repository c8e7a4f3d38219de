"""Rankings of codes by real queries that are not binarized: every distance may differ."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pml_hashing.evaluation._retrieval import Retrieval

ITEMS_AT_A_TIME = 2**14  # whose signs are held in float64
DIGITS = 52  # of a float64


def group_counts(retrieval: Retrieval) -> Iterator[Tensor]:
    """Yield for each query its items counted by group of equal distance and grade."""
    for distances, grades in _queries(retrieval):
        ascending, order = distances.sort()
        _, groups = ascending[: retrieval.total].unique_consecutive(return_inverse=True)
        kept = grades[order[: retrieval.total]].long()
        levels = retrieval.relevance.num_levels or int(kept.max()) + 1
        counts = torch.bincount(groups * levels + kept, minlength=(int(groups[-1]) + 1) * levels)
        yield counts.view(1, -1, levels)


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
    size = max(1, retrieval.pairs_at_a_time // num_items)
    for first in range(0, num_queries, size):
        block = queries[first : first + size]
        distances = block.new_empty(len(block), num_items)
        for start in range(0, num_items, ITEMS_AT_A_TIME):
            items = slice(start, start + ITEMS_AT_A_TIME)
            signs = retrieval.signs(retrieval.database_codes[items], torch.float64)
            distances[:, items] = block @ signs.T.neg()
        if retrieval.query_in_database:
            distances.diagonal(first).fill_(torch.inf)
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
