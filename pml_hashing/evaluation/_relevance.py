"""Which items are relevant to which queries, and how much, block by block."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import UNSIGNED, check_label_values, check_labels, check_same_kind

ROWS_AT_A_TIME = 2**14
"""Multi-hot rows that are looked at together."""

RelevanceOfBlock: TypeAlias = Callable[[slice, slice], Any]
"""Takes slices of queries and of items, and returns the relevance between them as a matrix."""
RelevanceLike: TypeAlias = Tensor | np.ndarray | RelevanceOfBlock


class Relevance(ABC):
    """Says of queries and items how relevant they are: 0 for not at all, or a whole grade.

    Attributes:
        num_levels: One more than the largest grade, or `None` if it is not known beforehand.
    """

    num_levels: int | None = None

    @abstractmethod
    def grades(self, queries: slice, items: slice, device: torch.device) -> Tensor:
        """Return the grades of these items for these queries, integers or booleans."""


class SameClass(Relevance):
    """An item is relevant, in grade 1, if it is of the query's class."""

    num_levels = 2

    def __init__(self, query_labels: Tensor, database_labels: Tensor) -> None:
        self.query_labels, self.database_labels = query_labels.long(), database_labels.long()

    def grades(self, queries: slice, items: slice, device: torch.device) -> Tensor:
        labels = self.database_labels[items].to(device)
        return self.query_labels[queries].to(device)[:, None] == labels


class SharedLabels(Relevance):
    """The grade of an item is the number of labels that it shares with the query."""

    def __init__(self, query_labels: Tensor, database_labels: Tensor) -> None:
        self.query_labels, self.database_labels = query_labels, database_labels
        self.num_levels = min(_most_labels(query_labels), _most_labels(database_labels)) + 1

    def grades(self, queries: slice, items: slice, device: torch.device) -> Tensor:
        labels = self.database_labels[items].to(device).float()
        with torch.autocast(device.type, enabled=False):  # half cannot count past 256
            return (self.query_labels[queries].to(device).float() @ labels.T).int()


def _most_labels(labels: Tensor) -> int:
    # In place: small results kept between the blocks' large ones would break the heap up.
    most = torch.zeros((), dtype=torch.long, device=labels.device)
    for rows in labels.split(ROWS_AT_A_TIME):
        torch.maximum(most, (rows != 0).sum(dim=1).max(), out=most)
    return int(most)


class GivenRelevance(Relevance):
    """A matrix, or a function of a slice of queries and a slice of items that returns a part."""

    def __init__(self, relevance: RelevanceLike, shape: tuple[int, int]) -> None:
        self.relevance, self.shape = relevance, shape
        if not callable(relevance) and tuple(relevance.shape) != shape:
            raise ValueError(
                f"Expected `relevance` of shape {shape}, the queries by the database, "
                f"got {tuple(relevance.shape)}."
            )

    def grades(self, queries: slice, items: slice, device: torch.device) -> Tensor:
        given = self.relevance
        part = given(queries, items) if callable(given) else given[queries, items]
        grades = torch.as_tensor(part, device=device)
        if grades.dtype in UNSIGNED:
            grades = grades.long()
        sizes = zip((queries, items), self.shape, strict=True)
        shape = tuple(len(range(*block.indices(size))) for block, size in sizes)
        if tuple(grades.shape) != shape:
            raise ValueError(
                f"Expected `relevance` of shape {shape} for {queries} and {items}, "
                f"got {tuple(grades.shape)}."
            )
        if grades.is_floating_point() or grades.is_complex():
            raise TypeError(f"Expected `relevance` of booleans or integers, got {grades.dtype}.")
        if grades.dtype != torch.bool and (grades < 0).any():
            raise ValueError(f"Expected `relevance` of at least 0, got {grades.min().item()}.")
        return grades


def make_relevance(
    query_labels: Any, database_labels: Any, relevance: RelevanceLike | None, shape: tuple[int, int]
) -> Relevance:
    """Return the relevance by checked labels, or by `relevance` instead of them."""
    if relevance is not None:
        if query_labels is not None or database_labels is not None:
            raise ValueError("Expected labels or `relevance`, got both.")
        return GivenRelevance(relevance, shape)
    check_labels(query_labels, range(shape[0]), "query_labels")
    check_labels(database_labels, range(shape[1]), "database_labels")
    check_same_kind(query_labels=query_labels, database_labels=database_labels)
    for labels, name in ((query_labels, "query_labels"), (database_labels, "database_labels")):
        if labels.ndim == 2:
            check_label_values(labels, labels.shape[1], name)
    return (SameClass if query_labels.ndim == 1 else SharedLabels)(query_labels, database_labels)
