"""Multi-hot rows of which only the ones are kept: a few numbers per row, whatever its width."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ENTRIES_OF_A_BLOCK = 65536


@dataclass(frozen=True)
class LabelRows:
    r"""The matrix of labels $Y \in \{0, 1\}^{d \times C}$ by the places of its ones.

    Memory and work are linear in the labels that are there. What a training step calls (`dense`
    and products) reads nothing back from the device.

    Attributes:
        rows: The row of every one, in ascending order, `(num_ones,)`.
        classes: Its class, `(num_ones,)`.
        starts: Where each row begins in these, and at last their number, `(d + 1,)`.
        num_classes: The number of classes $C$.
        most: The most labels of a row.

    Examples:
        >>> import torch
        >>> from pml_hashing.label_rows import LabelRows
        >>> labels = LabelRows.of(torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]))
        >>> labels.classes, labels.starts
        (tensor([0, 2, 1]), tensor([0, 2, 2, 3]))
        >>> labels.dense(torch.tensor([2, 0]))
        tensor([[0, 1, 0],
                [1, 0, 1]], dtype=torch.uint8)
    """

    rows: Tensor
    classes: Tensor
    starts: Tensor
    num_classes: int
    most: int

    @classmethod
    def of(cls, labels: Tensor) -> "LabelRows":
        """Return multi-hot rows `(d, num_classes)` by their ones."""
        rows, classes = labels.nonzero().unbind(1)
        return cls.at(rows, classes, len(labels), labels.shape[1])

    @classmethod
    def at(cls, rows: Tensor, classes: Tensor, size: int, num_classes: int) -> "LabelRows":
        """Return `size` rows with ones at these places, which are in the order of the rows."""
        counts = torch.zeros(size, dtype=torch.long, device=rows.device)
        counts.index_add_(0, rows, torch.ones_like(rows))
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        most = int(counts.max()) if size else 0
        return cls(rows.contiguous(), classes.contiguous(), starts, num_classes, most)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> Tensor:
        r"""The number of labels $\lvert y_i \rvert$ of every row, `(d,)`."""
        return self.starts.diff()

    def dense(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return some rows as they were given, zeros and ones, uint8 `(len(rows), num_classes)`."""
        starts, counts = self.starts[:-1][rows], self.counts[rows]
        dense = torch.zeros(
            len(starts), self.num_classes + 1, dtype=torch.uint8, device=starts.device
        )
        if self.most == 0:
            return dense[:, :-1]
        places = torch.arange(self.most, device=starts.device)
        classes = self.classes[(starts[:, None] + places).clamp_(max=len(self.classes) - 1)]
        # Where a row has fewer labels than the longest, they are those of a column too much.
        classes = classes.masked_fill_(places >= counts[:, None], self.num_classes)
        return dense.scatter_(1, classes, 1)[:, :-1]

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Yield all rows, `size` at a time, as they were given."""
        for start in range(0, len(self), size):
            yield self.dense(slice(start, start + size))

    def select(self, rows: Tensor) -> "LabelRows":
        """Return some rows. On a GPU this waits for their number of labels."""
        starts, counts = self.starts[rows], self.counts[rows]
        new_rows = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        ends = counts.cumsum(0)
        places = torch.arange(len(new_rows), device=rows.device)
        places += (starts - ends + counts)[new_rows]
        return LabelRows.at(new_rows, self.classes[places], len(rows), self.num_classes)

    def where(self, chosen: Tensor) -> "LabelRows":
        """Return the rows with only the ones that are chosen, a boolean for each."""
        rows, classes = self.rows[chosen], self.classes[chosen]
        return LabelRows.at(rows, classes, len(self), self.num_classes)

    def times(self, class_values: Tensor) -> Tensor:
        r"""Return $Y Z$ for $Z$ of shape `(num_classes, width)`: the sum over labels of a row."""
        if len(self.classes) == 0:
            return class_values.new_zeros(len(self), class_values.shape[1])
        return F.embedding_bag(
            self.classes, class_values, self.starts, mode="sum", include_last_offset=True
        )

    def transposed_times(self, values: Tensor) -> Tensor:
        r"""Return $Y^\top V$ for $V$ of shape `(d, width)`: the sum over the rows of a class."""
        sums = values.new_zeros(self.num_classes, values.shape[1])
        blocks = (labels.split(ENTRIES_OF_A_BLOCK) for labels in (self.rows, self.classes))
        for rows, classes in zip(*blocks, strict=True):
            sums.index_add_(0, classes, values[rows])
        return sums

    def gram(self, weights: Tensor) -> Tensor:
        r"""Return $Y^\top \operatorname{diag}(w)\, Y$, how often two classes occur together."""
        num_classes, weights = self.num_classes, weights[self.rows]
        gram = weights.new_zeros(num_classes**2)
        first = torch.arange(len(self.rows), device=weights.device)
        for apart in range(self.most):  # every one, and the one so many places after it
            first = first[first + apart < len(self.rows)]
            first = first[self.rows[first + apart] == self.rows[first]]
            pair = self.classes[first] * num_classes + self.classes[first + apart]
            gram.index_add_(0, pair, weights[first])
        gram = gram.view(num_classes, num_classes)
        return gram + gram.T - gram.diag().diag()

    def by_class(self) -> Iterator[tuple[int, Tensor]]:
        """Yield every class that a row has, with the rows that have it."""
        order = self.classes.argsort(stable=True)
        sizes = self.classes.bincount(minlength=self.num_classes).tolist()
        for label, rows in enumerate(self.rows[order].split(sizes)):
            if len(rows) > 0:
                yield label, rows

    def distinct(self) -> tuple["LabelRows", Tensor]:
        """Return the distinct rows, and which of them each row is, `(d,)`.

        Class by class, rows that were equal so far are told apart by whether they have the class.
        """
        membership, num_sets = self.starts.new_zeros(len(self)), 1
        for _, rows in self.by_class():
            sets, places = membership[rows].unique(return_inverse=True)
            membership[rows] = num_sets + places
            num_sets += len(sets)
        sets, membership = membership.unique(return_inverse=True)
        return self.select(one_of_each(membership, len(sets))), membership


def one_of_each(membership: Tensor, num_groups: int) -> Tensor:
    """Return the first member of every group, given the group of every member."""
    places = torch.arange(len(membership), device=membership.device)
    first = places.new_full((num_groups,), len(membership))
    return first.scatter_reduce_(0, membership, places, "amin")
