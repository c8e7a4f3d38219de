"""The two sides of a retrieval, checked."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pml_hashing._checks import check_codes, check_integer
from pml_hashing.codes import (
    BITS_OF_A_BYTE,
    check_both_packed,
    check_codes_of_any_kind,
    packed_length,
    to_signs,
)
from pml_hashing.evaluation._relevance import Relevance, RelevanceLike, make_relevance

PAIRS_AT_A_TIME = {"cpu": 2**18, "cuda": 2**26}  # within the cache of a core; to fill a GPU


@dataclass(frozen=True, eq=False)
class Retrieval:
    """The two sides of a retrieval, checked.

    Everything is computed on the device of `query_codes`; the other tensors may be elsewhere.

    Attributes:
        query_codes: Real or binary codes `(num_queries, code_length)`, or packed codes (uint8).
        query_labels: Their class ids `(num_queries,)` or multi-hot rows, or `None`.
        database_codes: Codes of the same kind and length.
        database_labels: Labels of the same kind.
        query_in_database: Whether item `i` of the database is query `i`, and does not count.
            Codes and labels are compared.
        block_size: Pairs of a query and an item held at a time. A size for the device if `None`.
        given_relevance: What is relevant, instead of labels.
        asymmetric: Whether the queries are real and not binarized.
    """

    query_codes: Tensor
    query_labels: Any
    database_codes: Tensor
    database_labels: Any
    query_in_database: bool = False
    block_size: int | None = None
    given_relevance: RelevanceLike | None = None
    asymmetric: bool = False

    def __post_init__(self) -> None:
        _check_codes_of_both_sides(self.query_codes, self.database_codes, self.asymmetric)
        _ = self.relevance  # checks the labels
        if self.block_size is not None:
            check_integer(self.block_size, 1, "block_size")
        if self.query_in_database:
            self._check_queries_come_first()

    @cached_property
    def relevance(self) -> Relevance:
        """Says which items are relevant to which queries."""
        shape = len(self.query_codes), len(self.database_codes)
        return make_relevance(self.query_labels, self.database_labels, self.given_relevance, shape)

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

    def zero_counts(self, num_groups: int, num_levels: int) -> Tensor:
        """Return counters of items, all 0, `(num_queries, num_groups, num_levels)`."""
        dtype = torch.int32 if self.total <= torch.iinfo(torch.int32).max else torch.int64
        shape = len(self.query_codes), num_groups, num_levels
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def drop_own_items(self, distances: Tensor, rows: slice, items: slice) -> None:
        """Put items that are their own queries at a distance beyond all others."""
        offset = rows.start - items.start
        if self.query_in_database and -len(distances) < offset < distances.shape[1]:
            distances.diagonal(offset).fill_(self.code_length + 1)

    def signs(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return codes of either side as -1 and 1 on the device."""
        return to_signs(codes.to(self.device), self.code_length, dtype)

    def _check_queries_come_first(self) -> None:
        """Raise unless query `i` is item `i`, as far as can be told.

        Real queries that are not binarized may come from another network than the codes of the
        database, so that only their labels are compared.
        """
        size, least = len(self.query_codes), max(len(self.query_codes), 2)
        if len(self.database_codes) < least:
            raise ValueError(
                f"Expected `database_codes` of at least {least} items, the {size} queries first "
                f"(`query_in_database`), got {len(self.database_codes)}."
            )
        if not self.asymmetric:
            queries, items = self.query_codes, self.database_codes[:size].to(self.device)
            differs = to_signs(queries, dtype=torch.int8) != to_signs(items, dtype=torch.int8)
            _check_none_differs(differs, "codes")
        if self.given_relevance is None:
            labels = self.database_labels[:size].to(self.query_labels.device)
            _check_none_differs(self.query_labels != labels, "labels")


def slices(length: int, size: int) -> list[slice]:
    """Return slices of `size` that cover `length` things; the last may be shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _check_codes_of_both_sides(
    query_codes: Tensor, database_codes: Tensor, asymmetric: bool
) -> None:
    check_codes_of_any_kind(query_codes, "query_codes")
    check_codes_of_any_kind(database_codes, "database_codes")
    length = query_codes.shape[1]
    if asymmetric:
        if not query_codes.is_floating_point():
            raise TypeError(
                f"Expected `query_codes` of real numbers (`asymmetric`), got {query_codes.dtype}."
            )
        length = packed_length(length) if database_codes.dtype == torch.uint8 else length
    else:
        check_both_packed(query_codes, database_codes)
    check_codes(database_codes, "database_codes", length)


def _check_none_differs(differs: Tensor, name: str) -> None:
    """Raise if a query has other codes or labels than its own item."""
    wrong = differs.view(len(differs), -1).any(dim=1)
    if wrong.any():
        raise ValueError(
            f"Expected the first {len(wrong)} items of the database to be the queries "
            f"(`query_in_database`), got other {name} for {int(wrong.sum())} of them, the first of "
            f"them item {int(wrong.byte().argmax())}."
        )
