"""What a term of an objective is, and what it is given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pml_hashing.code_bank import CodeBank, Rows, Variables
from pml_hashing.label_rows import LabelRows
from pml_hashing.pairs import IndicesTuple

T = TypeVar("T")


class Quadratic(NamedTuple):
    r"""How a term depends on the binary code $b_i$ of every sample.

    $$b_i\, G\, b_i^\top - 2\, b_i\, p_i^\top, \qquad
    p_i = \text{targets}_{g(i)} + \text{own}\, (u_i + v_i) + \text{own targets}_i$$

    and what is constant in $b_i$, where $g(i)$ is the sample's group of equal labels and $u_i$,
    $v_i$ are its codes by the networks. Quadratics of terms add up.

    Attributes:
        gram: $G$, `(code_length, code_length)`.
        targets: One row for each group, `(num_groups, code_length)`.
        own: The weight of the sample's own codes.
        own_targets: One row for each sample, `(n, code_length)`.
    """

    gram: Tensor | float = 0.0
    targets: Tensor | float = 0.0
    own: float = 0.0
    own_targets: Tensor | float = 0.0

    def plus(self, other: "Quadratic", weight: float) -> "Quadratic":
        """Return the sum with another quadratic that has this weight."""
        return Quadratic(
            self.gram + weight * other.gram,
            self.targets + weight * other.targets,
            self.own + weight * other.own,
            self.own_targets + weight * other.own_targets,
        )


@dataclass(frozen=True)
class Batch:
    """Some samples of a bank, as one call of a loss sees them.

    Attributes:
        bank: The bank: of a data set, or of this batch alone (`bank.is_batch`).
        rows: Places of the samples in it.
        codes: Their codes by one or two networks, `(batch_size, code_length)`, with gradient.
        pairs: A miner's pairs or triplets, if any.
    """

    bank: CodeBank
    rows: Rows
    codes: list[Tensor]
    pairs: IndicesTuple | None = None
    _once: dict[object, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, key: object, compute: Callable[[], T]) -> T:
        """Return what `compute` gives, which is called once for all terms of the batch."""
        if key not in self._once:
            self._once[key] = compute()
        return self._once[key]

    @cached_property
    def labels(self) -> Tensor:
        """The labels of the samples."""
        return self.bank.labels_of(self.rows)

    @cached_property
    def summed_labels(self) -> Tensor | LabelRows:
        """The labels as sums over them (`label_sums`, `label_counts`) cost least.

        Of a pass over a data set the ones alone, of a few samples as `labels`.
        """
        of_groups = self.bank.group_labels
        if isinstance(self.rows, slice) and isinstance(of_groups, LabelRows):
            return of_groups.select(self.bank.groups[self.rows])
        return self.labels

    @cached_property
    def binary_codes(self) -> Tensor:
        """Their binary codes, in the dtype of `codes`."""
        return self.bank.binary_codes[self.rows].to(self.codes[0].dtype)


class Term(nn.Module):
    """One term of an objective: a formula, and what it needs of the data set.

    A term of its own is one subclass with `losses`, and what else of this it needs. Nothing of a
    data set is kept in the term itself: its variables are tensors in the bank (they are saved,
    moved and resumed there), which it returns from `start`, `fit` and `refresh` and is given again.
    Parameters of a term are parameters of the loss.

    Attributes:
        in_objective: Whether the objective that `update_codes` returns has it: not where a sum
            over the data set would cost more than one pass.
        of_pairs: Whether a miner's pairs are those of the term (`Batch.pairs`).
    """

    in_objective: ClassVar[bool] = True
    of_pairs: ClassVar[bool] = False

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        """Return the term of every sample of the batch, `(batch_size,)`, by all networks.

        The mean over all samples of a data set is the term. Its gradient in the codes of a batch
        is that of the sum over the data set, in which a sample may occur at both ends of a pair.
        """
        raise NotImplementedError

    def quadratic(self, bank: CodeBank, variables: Variables) -> Quadratic | None:
        """Return the term as a quadratic in the binary codes, `None` if none stands in it.

        It is scaled as the sum over all samples of `losses`, given the variables.
        """
        return None

    def prepare(self, bank: CodeBank) -> None:
        """Learn what can be learned of the labels of a data set, once, before training."""

    def first_codes(self, bank: CodeBank) -> Tensor | None:
        """Return codes whose signs the binary codes start from, one row for each group.

        `None` leaves the start to other terms, and at last to codes of the classes that lie far
        apart.
        """
        return None

    def start(self, bank: CodeBank) -> Variables:
        """Return the variables for binary codes that this term has not seen before."""
        return self.refresh(bank, {})

    def fit(self, bank: CodeBank, variables: Variables) -> Variables:
        """Return the variables that are best given the binary codes: before these are improved."""
        return variables

    def refresh(self, bank: CodeBank, variables: Variables) -> Variables:
        """Return the variables after the binary codes have changed: sums of them, if any."""
        return variables

    @cached_property
    def kind(self) -> str:
        """What the variables mean: another text where those of one term are none for another."""
        return f"{type(self).__name__}({self.extra_repr()})"


def sum_of(losses: list[Tensor]) -> Tensor:
    """Return the sum over the networks."""
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum(dim=0)
