"""What one pass over a database tells of every query: items counted by distance, or in order."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import (
    check_at_least,
    check_codes,
    check_finite,
    check_label_values,
    check_labels,
)
from pml_hashing.codes import BITS_OF_A_BYTE, binarize, unpack
from pml_hashing.pairs import similarity

PAIRS_AT_A_TIME = {"cpu": 2**19, "cuda": 2**26}  # within the cache of a core; to fill a GPU


class DistanceCounts(NamedTuple):
    """Numbers of database items at each Hamming distance from 0 to `code_length`, by query.

    Attributes:
        items: All of them, int64, `(num_queries, code_length + 1)`.
        relevant: Those similar to the query, of the same shape.
        total: Length of every ranking, the sum of any row of `items`.
    """

    items: Tensor
    relevant: Tensor
    total: int


@dataclass(frozen=True, eq=False)
class Retrieval:
    """The two sides of a retrieval, checked, and compared block by block.

    Everything is computed on the device of `query_codes`; the other tensors may be elsewhere.

    Attributes:
        query_codes: Real or binary codes `(num_queries, code_length)`, or packed codes (uint8).
        query_labels: Their class ids `(num_queries,)` or multi-hot rows.
        database_codes: Codes of the same kind and length.
        database_labels: Labels of the same kind.
        query_in_database: Whether item `i` of the database is query `i`, and does not count.
        block_size: Pairs of a query and an item held at a time. A size for the device if `None`.
    """

    query_codes: Tensor
    query_labels: Tensor
    database_codes: Tensor
    database_labels: Tensor
    query_in_database: bool = False
    block_size: int | None = None

    def __post_init__(self) -> None:
        _check_codes_of_both_sides(self.query_codes, self.database_codes)
        check_labels(self.query_labels, self.query_codes, "query_labels")
        check_labels(self.database_labels, self.database_codes, "database_labels")
        _check_labels_of_both_sides(self.query_labels, self.database_labels)
        if self.block_size is not None:
            check_at_least(self.block_size, 1, "block_size")
        least = max(len(self.query_codes), 2)
        if self.query_in_database and len(self.database_codes) < least:
            raise ValueError(
                f"Expected `database_codes` of at least {least} items, the {len(self.query_codes)} "
                f"queries first (`query_in_database`), got {len(self.database_codes)}."
            )

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.query_codes.device

    @property
    def code_length(self) -> int:
        """Number of bits, those that pad packed codes included."""
        width = self.query_codes.shape[1]
        return width * BITS_OF_A_BYTE if self.query_codes.dtype == torch.uint8 else width

    @property
    def total(self) -> int:
        """Length of every ranking."""
        return len(self.database_codes) - self.query_in_database

    @property
    def pairs_at_a_time(self) -> int:
        """The block size asked for, or one that suits the device."""
        return self.block_size or PAIRS_AT_A_TIME.get(self.device.type, PAIRS_AT_A_TIME["cuda"])

    @cached_property
    def counts(self) -> DistanceCounts:
        """All and the relevant items, by query and distance."""
        return count_by_distance(self)

    def blocks(
        self, queries_at_a_time: int, items_at_a_time: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield a slice of queries, with twice their distances to some items, and the relevance.

        An item that is its own query is put one beyond the largest distance, to be dropped there.
        """
        for start in range(0, len(self.database_codes), items_at_a_time):
            items = slice(start, start + items_at_a_time)
            item_signs = self.signs(self.database_codes[items])
            item_labels = self.database_labels[items].to(self.device)
            for first in range(0, len(self.query_codes), queries_at_a_time):
                queries = slice(first, first + queries_at_a_time)
                with torch.autocast(self.device.type, enabled=False):  # half cannot count to K
                    inner = self.signs(self.query_codes[queries]) @ item_signs.T
                twice_distance = inner.neg_().add_(self.code_length)
                relevant = similarity(self.query_labels[queries].to(self.device), item_labels)
                if self.query_in_database and -len(inner) < first - start < inner.shape[1]:
                    twice_distance.diagonal(first - start).fill_(2 * (self.code_length + 1))
                yield queries, twice_distance, relevant

    def signs(self, codes: Tensor) -> Tensor:
        """Return codes of either side as -1 and 1, float32, on the device."""
        codes = codes.to(self.device)
        return unpack(codes) if codes.dtype == torch.uint8 else binarize(codes).float()


def count_by_distance(retrieval: Retrieval) -> DistanceCounts:
    """Count, for every query and distance, all and the relevant items of the database.

    The memory does not grow with the database: blocks of queries meet blocks of items.
    """
    num_queries, num_groups = len(retrieval.query_codes), retrieval.code_length + 2
    counts = torch.zeros(num_queries * num_groups * 2, dtype=torch.int64, device=retrieval.device)
    one = counts.new_ones(1)
    # Many more items than queries: the counters of a block of queries stay in the cache.
    queries_at_a_time = max(1, math.isqrt(retrieval.pairs_at_a_time // 64))
    items_at_a_time = max(1, retrieval.pairs_at_a_time // queries_at_a_time)
    for queries, twice_distance, relevant in retrieval.blocks(queries_at_a_time, items_at_a_time):
        counter = twice_distance.add_(relevant).long()
        rows = torch.arange(len(counter), device=retrieval.device) + queries.start
        counter += (rows * num_groups * 2)[:, None]
        counts.scatter_add_(0, counter.flatten(), one.expand(counter.numel()))
    counts = counts.view(num_queries, num_groups, 2)[:, :-1]  # without the queries themselves
    return DistanceCounts(counts.sum(dim=2), counts[:, :, 1], retrieval.total)


def relevance_by_rank(retrieval: Retrieval) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of queries with the relevance, 0 or 1, of all items in stable order.

    Items are ordered by distance, then by their place in the database.
    """
    num_items = len(retrieval.database_codes)
    largest = 2 * (retrieval.code_length + 2) * num_items
    dtype = torch.int32 if largest <= torch.iinfo(torch.int32).max else torch.int64
    places = torch.arange(0, 2 * num_items, 2, dtype=dtype, device=retrieval.device)
    queries_at_a_time = max(1, retrieval.pairs_at_a_time // num_items)
    for queries, twice_distance, relevant in retrieval.blocks(queries_at_a_time, num_items):
        # Distance, place and relevance in one number: all differ, so that any sort is stable.
        keys = twice_distance.to(dtype).mul_(num_items).add_(places).add_(relevant)
        yield queries, _sort_rows(keys).bitwise_and_(1)[:, : retrieval.total]


def _sort_rows(keys: Tensor) -> Tensor:
    if keys.device.type == "cpu":  # numpy sorts integers ten times as fast as torch
        return torch.from_numpy(np.sort(keys.numpy(), axis=1))
    return keys.sort(dim=1).values


def check_codes_to_rank(codes: Tensor, name: str) -> None:
    """Raise unless `codes` are real, binary or packed codes, finite, one a row."""
    check_codes(codes, name)
    if codes.dtype == torch.bool or codes.is_complex():
        raise TypeError(
            f"Expected `{name}` with real codes, -1 and 1, or packed codes (uint8), "
            f"got {codes.dtype}."
        )
    check_finite(codes, name)


def _check_codes_of_both_sides(query_codes: Tensor, database_codes: Tensor) -> None:
    check_codes_to_rank(query_codes, "query_codes")
    check_codes_to_rank(database_codes, "database_codes")
    if (query_codes.dtype == torch.uint8) != (database_codes.dtype == torch.uint8):
        raise TypeError(
            "Expected `query_codes` and `database_codes` both packed (uint8) or both not, "
            f"got {query_codes.dtype} and {database_codes.dtype}."
        )
    check_codes(database_codes, "database_codes", query_codes.shape[1])


def _check_labels_of_both_sides(query_labels: Tensor, database_labels: Tensor) -> None:
    if query_labels.shape[1:] != database_labels.shape[1:]:
        raise ValueError(
            "Expected `query_labels` and `database_labels` of the same kind and number of "
            f"classes, got {tuple(query_labels.shape)} and {tuple(database_labels.shape)}."
        )
    for labels, name in ((query_labels, "query_labels"), (database_labels, "database_labels")):
        if labels.ndim == 2:
            check_label_values(labels, labels.shape[1], name)
        elif labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"Expected `{name}` with integer class ids, got {labels.dtype}.")
