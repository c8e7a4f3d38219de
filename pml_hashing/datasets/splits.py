"""Queries, database and training images, drawn from one collection."""

from typing import NamedTuple

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least, check_labels


class RetrievalSplit(NamedTuple):
    """Places of samples in a data set, int64, in ascending order."""

    query: Tensor
    database: Tensor
    train: Tensor


def retrieval_split(
    labels: Tensor, *, num_queries: int, num_train: int | None = None, seed: int = 0
) -> RetrievalSplit:
    """Draw queries, and take the rest as database; draw samples to train on from the database.

    No query is in the database, or trained on. Every class has its share of each part, rounded up
    or down; with multi-hot labels, every set of labels has.

    Args:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        num_queries: Number of queries.
        num_train: Number of samples to train on. The whole database if `None`.
        seed: The same seed draws the same samples.

    Raises:
        TypeError: If `labels` are of an unsigned dtype other than uint8.
        ValueError: If a part would be empty or larger than what it is drawn from, or `labels` is a
            single column, which could be class ids or multi-hot rows.

    Examples:
        >>> import torch
        >>> from pml_hashing.datasets import retrieval_split
        >>> labels = torch.arange(100) % 4
        >>> query, database, train = retrieval_split(labels, num_queries=12, num_train=40)
        >>> labels[query].bincount(), labels[train].bincount()
        (tensor([3, 3, 3, 3]), tensor([10, 10, 10, 10]))
    """
    if labels.ndim not in (1, 2) or len(labels) < 2:
        raise ValueError(
            "Expected `labels` of shape (n,) or (n, num_classes) of at least 2 samples, "
            f"got {tuple(labels.shape)}."
        )
    check_labels(labels, labels, "labels")
    _check_size(num_queries, len(labels) - 1, "num_queries")
    generator = torch.Generator("cpu").manual_seed(seed)
    is_query = _draw(labels, num_queries, generator)
    query, database = is_query.nonzero().flatten(), (~is_query).nonzero().flatten()
    if num_train is None:
        return RetrievalSplit(query, database, database.clone())
    _check_size(num_train, len(database), "num_train")
    train = database[_draw(labels[database], num_train, generator)]
    return RetrievalSplit(query, database, train)


def _check_size(size: int, largest: int, name: str) -> None:
    check_at_least(size, 1, name)
    if size > largest:
        raise ValueError(f"Expected `{name}` of at most {largest}, got {size}.")


def _draw(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return a mask of `size` samples: evenly spaced among the samples in order of their labels."""
    _, groups = labels.cpu().unique(dim=0, return_inverse=True)
    order = torch.randperm(len(groups), generator=generator, device="cpu")
    order = order[groups[order].argsort(stable=True)]
    start = torch.rand((), generator=generator, dtype=torch.float64, device="cpu")
    places = (torch.arange(size, device="cpu") + start) * (len(groups) / size)
    drawn = torch.zeros(len(groups), dtype=torch.bool, device="cpu")
    drawn[order[places.long()]] = True
    return drawn
