"""Exact search within a small radius by hash tables of parts of codes: multi-index hashing."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_integer
from pml_hashing.codes import BITS_OF_A_BYTE, unpack
from pml_hashing.search._table import Table
from pml_hashing.search._table_index import TableIndex
from pml_hashing.search.exact import Within, arrays_of, check_width, sizes_of
from pml_hashing.search.store import Where

MAX_BITS = 64  # that faiss hashes
NARROWER = (16, 24, 32, 48)  # numbers of bits that are tried beside the most there can be
SAMPLED = 1024  # codes whose pairs tell how many codes a hash finds
# Nanoseconds, as measured by benchmarks/search.py for 10^4 to 10^6 codes of 64 bits.
LOOKUP, CANDIDATE, SCANNED_BYTE = 60, 120, 0.1
WORTHWHILE = 0.5  # of the time of a scan: estimates err
MIN_CODES = 4096  # a scan of fewer takes less than the rest of a call


@dataclass(frozen=True, kw_only=True)
class MultiHash:
    r"""Hash tables for `range_search`: all codes within a small radius, exactly, without a scan.

    A code is cut into $m$ parts, each the key of a hash table (`faiss.IndexBinaryMultiHash`). Where
    $r$ bits of a code differ from the query's, there is a part in which at most
    $\lfloor r / m \rfloor$ do: the pigeonhole principle. So the tables find every code within

    $$r \le m (f + 1) - 1$$

    bits if each is asked for all keys that differ from the query's in at most $f$ bits. What they
    find is compared with the query bit by bit.

    $m$, $f$ and the number of bits of a part are chosen when the tables are built, by the first
    search: those of the least expected time, for queries that are distributed as the codes are,
    which pairs of 1,024 of the codes tell. Where a scan is not expected to take twice as long (few
    codes, tight clusters, a large radius), no tables are built, and all codes are compared.

    The search for nearest neighbors is exact and makes no use of it. Tables of codes of 64 bits
    take 60 to 300 bytes for a code: up to 100 for each table, in which equal keys share a place.

    Args:
        max_radius: The largest radius, in bits. A search within a larger one is refused.

    Raises:
        TypeError: If `max_radius` is no integer.
        ValueError: If it is negative.

    Examples:
        >>> import torch
        >>> from pml_hashing.search import HammingKNN, MultiHash
        >>> knn = HammingKNN(index=MultiHash(max_radius=1))
        >>> knn.add(torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [1.0, 1.0, -1.0]]))
        >>> knn.range_search(torch.tensor([[1.0, 1.0, 1.0]]), radius=1)
        ([tensor([0, 1], dtype=torch.int32)], [[1, 2]])

    References:
        Norouzi, Punjani, Fleet. [Fast Exact Search in Hamming Space with Multi-Index
        Hashing](https://arxiv.org/abs/1307.2982). TPAMI 36 (6), 2014. Section 3.
    """

    max_radius: int = 3

    max_growth: ClassVar[float] = 4  # what was best for a quarter of the codes still serves

    def __post_init__(self) -> None:
        check_integer(self.max_radius, 0, "max_radius")

    def build(self, packed_codes: np.ndarray) -> Any:
        """Return a `faiss.IndexBinaryMultiHash` that holds `packed_codes`, or `None` for a scan."""
        plan = cheapest(packed_codes, self.max_radius)
        if plan is None:
            return None
        code_length = packed_codes.shape[1] * BITS_OF_A_BYTE
        index = faiss.IndexBinaryMultiHash(code_length, plan.num_hashes, plan.num_bits)
        index.nflip = plan.num_flips
        index.add(packed_codes)
        return index


class Plan(NamedTuple):
    """Hash tables, each of so many bits, in which so many bits of a query are flipped."""

    num_hashes: int
    num_bits: int
    num_flips: int

    @property
    def radius(self) -> int:
        """The largest radius within which they find every code."""
        return self.num_hashes * (self.num_flips + 1) - 1

    @property
    def num_lookups(self) -> int:
        """The number of keys that a query is looked up by."""
        keys = sum(math.comb(self.num_bits, flipped) for flipped in range(self.num_flips + 1))
        return self.num_hashes * keys

    def num_candidates(self, signs: Tensor, num_codes: int) -> float:
        """Return how many of so many codes are found by a query, if all are as those of a sample.

        Args:
            signs: Binary codes, `(n, code_length)`, at least two.
            num_codes: Number of codes in the tables.
        """
        found, size = 0, len(signs)
        for part in signs[:, : self.num_hashes * self.num_bits].split(self.num_bits, dim=1):
            near = part @ part.T >= self.num_bits - 2 * self.num_flips
            found += int(near.sum()) - size  # a code is no pair with itself
        return found / (size * (size - 1)) * num_codes


def plans(code_length: int, radius: int) -> Iterator[Plan]:
    """Yield hash tables that are exact within a radius, with the fewest flips for each number."""
    numbers = {-(-(radius + 1) // (num_flips + 1)) for num_flips in range(radius + 1)}
    for num_hashes in sorted(number for number in numbers if number <= code_length):
        num_flips, most = radius // num_hashes, min(code_length // num_hashes, MAX_BITS)
        for num_bits in (*(bits for bits in NARROWER if bits < most), most):
            if num_flips <= num_bits:
                yield Plan(num_hashes, num_bits, num_flips)


def cheapest(packed_codes: np.ndarray, radius: int) -> Plan | None:
    """Return the hash tables that are expected to answer first, or `None` if a scan will do."""
    num_codes, width = packed_codes.shape
    if num_codes < MIN_CODES:
        return None
    rows = np.linspace(0, num_codes - 1, min(num_codes, SAMPLED)).astype(np.int64)
    signs, best = unpack(torch.from_numpy(packed_codes[rows])), None
    least = WORTHWHILE * SCANNED_BYTE * num_codes * width
    for plan in plans(width * BITS_OF_A_BYTE, min(radius, width * BITS_OF_A_BYTE)):
        time = LOOKUP * plan.num_lookups
        if time < least:
            time += CANDIDATE * plan.num_candidates(signs, num_codes)
        if time < least:
            best, least = plan, time
    return best


class RangeIndex:
    """Finds all codes of a table within a radius by a faiss index, which follows its changes.

    Args:
        recipe: What to build. The first search does.
    """

    def __init__(self, recipe: MultiHash) -> None:
        self._recipe = recipe
        self._followed = TableIndex(recipe)

    def check_radius(self, radius: int) -> None:
        """Raise a `ValueError` unless the index finds all codes within this radius."""
        if radius > self._recipe.max_radius:
            raise ValueError(
                f"Expected `radius` of at most {self._recipe.max_radius}, as `index` is "
                f"{self._recipe}, which misses codes beyond, got {radius}: without an `index` all "
                "codes are compared."
            )

    def within(self, query: Tensor, radius: int, where: Where, table: Table) -> Within:
        """Return sizes, distances and rows as `exact.within`, of the codes that match.

        Threads may search at once, as long as the table does not change meanwhile.

        Args:
            query: Packed codes.
            radius: Largest distance, inclusive.
            where: A condition on columns that there are.
            table: What to search, at least one code.
        """
        index, row_of = self._followed.current(table)
        if index is None:
            return table.within_rows(query, radius, where)
        check_width(query, index.code_size)
        packed_query, found = query.cpu().numpy(), faiss.RangeSearchResult(len(query))
        # Its radius is strict.
        index.range_search_c(len(packed_query), faiss.swig_ptr(packed_query), radius + 1, found)
        limits, distances, numbers = arrays_of(found, len(packed_query))
        rows = table.without_removed(row_of[numbers])
        is_kept = rows >= 0 if not where else (rows >= 0) & table.matches(rows, where)
        if not is_kept.all():
            limits = np.append(0, is_kept.cumsum())[limits].tolist()
            distances, rows = distances[is_kept], rows[is_kept]
        keys = distances.astype(np.int64) * table.num_rows + rows
        for start, end in pairwise(limits):
            keys[start:end].sort()
        found = (torch.from_numpy(each) for each in np.divmod(keys, table.num_rows))
        distances, rows = (each.to(query.device) for each in found)
        return sizes_of(limits), distances.int(), rows
