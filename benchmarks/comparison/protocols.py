"""Splits of the literature: queries, database and training images, drawn by a seed."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """Places of the images of each part, `(n,)`."""

    query: Tensor
    database: Tensor
    training: Tensor


@dataclass(frozen=True)
class Protocol:
    """How images are split.

    Attributes:
        title: What the protocol is, in words.
        queries: Queries of every class; or, below 1, a share of all images; or `None` for the test
            images of the data set.
        training: Training images of every class. The whole database if `None`.
        training_in_database: Whether training images are searched too.
    """

    title: str
    queries: float | None
    training: int | None = None
    training_in_database: bool = True

    def split(self, labels: Tensor, num_test: int, seed: int) -> Split:
        """Return the split that `seed` draws.

        Args:
            labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
            num_test: Number of test images, which are the last ones.
            seed: Of what is drawn.

        Raises:
            ValueError: If the protocol does not suit the data set.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(labels), generator=generator)
        if self.queries is None:
            if num_test == 0:
                raise ValueError("Expected another `protocol` for a data set without test images.")
            database, query = torch.arange(len(labels)).tensor_split([len(labels) - num_test])
            return Split(query, database, database)
        if self.queries < 1:
            query, database = order.tensor_split([max(1, round(self.queries * len(labels)))])
            return Split(query, database, database)
        return self._split_by_class(order, labels, int(self.queries))

    def _split_by_class(self, order: Tensor, labels: Tensor, queries: int) -> Split:
        if labels.ndim == 2:
            raise ValueError("Expected `protocol` 10%/90% for images of several labels.")
        places = [order[labels[order] == label] for label in labels.unique()]
        least = queries + (1 if self.training is None else self.training)
        if min(len(p) for p in places) < least:
            raise ValueError(
                f"Expected at least {least} images of every class for this `protocol`, "
                f"got {min(len(p) for p in places)} of one."
            )
        query, rest = (
            torch.cat(x) for x in ([p[:queries] for p in places], [p[queries:] for p in places])
        )
        if self.training is None:
            return Split(query, rest, rest)
        training = torch.cat([p[queries:][: self.training] for p in places])
        if not self.training_in_database:
            rest = torch.cat([p[queries + self.training :] for p in places])
        return Split(query, rest, training)


PROTOCOLS = {
    "1k/59k": Protocol("100 queries and 500 training images a class, from the database", 100, 500),
    "1k/59k-all": Protocol("100 queries a class, trained on the whole database, as ADSH", 100),
    "1k/54k": Protocol(
        "100 queries and 500 training images a class, which are not searched", 100, 500, False
    ),
    "1k/15k": Protocol("10 queries and 100 training images a class, from the database", 10, 100),
    "10k/50k": Protocol("the test images are queries, trained on all others", None),
    "10%/90%": Protocol("one image in ten is a query, trained on all others", 0.1),
}
"""Names and sizes are those of CIFAR-10, and of `1k/15k` those of 16,000 images of CIFAR-100; other
data sets are split by the same rule."""


def validation_split(labels: Tensor, seed: int) -> Split:
    """Return a split of the training images alone, to choose settings by.

    Of the images that the protocol of the results page trains on, a fifth is kept out. Half of it
    are queries, and half is searched: no query of that page is used, and nothing is searched that
    was trained on.
    """
    name = "10%/90%"
    if labels.ndim == 1:
        name = "1k/59k" if labels.bincount().min() > 600 else "1k/15k"
    places = PROTOCOLS[name].split(labels, 0, seed).training
    held_out = torch.arange(len(places)) % 5 == 0
    query, database = places[held_out][::2], places[held_out][1::2]
    return Split(query, database, places[~held_out])
