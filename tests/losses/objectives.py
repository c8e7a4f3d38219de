"""What `test_objectives.py` is told of a loss with learned codes, by the file that tests it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from loops import as_arguments, make_codes, rows_of

from pml_hashing import CodeBank


@dataclass(frozen=True)
class Objective:
    """A loss, and its objective as printed.

    Attributes:
        loss_class: The loss.
        reference: Its terms by name, in loops: of the networks' codes, what is learned, labels as
            rows, and the weights.
        learned_of: What stands in the objective beside the networks' codes, of a loss and a bank;
            the binary codes first.
        weights: Weights of the objective.
        choices: Some for each of them, for the discrete step.
        options: Options of the loss alone.
        likelihood_weight: Weight of the pairs of the batch, if there are such.
        continuous: Terms in which no binary code stands.
    """

    loss_class: type
    reference: Callable[..., dict[str, Any]]
    learned_of: Callable[[Any, CodeBank], tuple[Any, ...]]
    weights: dict[str, float]
    choices: dict[str, list[Any]]
    options: dict[str, Any] = field(default_factory=dict)
    likelihood_weight: float | None = None
    continuous: frozenset[str] = frozenset({"likelihood_loss"})

    def make_loss(self, num_classes=3, code_length=4, **options):
        return self.loss_class(num_classes, code_length, **self.options, **options)

    def make_bank(self, labels, num_networks=1, code_length=4, num_classes=3, **options):
        """A loss with a bank that has seen codes of all samples, and these codes."""
        bank = CodeBank(labels, code_length, num_classes=num_classes, num_networks=num_networks)
        loss_func = self.make_loss(num_classes, code_length, code_bank=bank, **options)
        codes = make_codes(len(labels), code_length, num_networks)
        loss_func(**as_arguments(codes), sample_indices=torch.arange(len(labels)))
        return loss_func, codes

    def terms(self, loss_func, bank, codes, labels, learned=None, **options):
        """The terms of J for what a bank holds, or for other binary codes."""
        known = self.learned_of(loss_func, bank)
        known = known if learned is None else (learned, *known[1:])
        options = options or self.weights
        return self.reference(codes, *known, rows_of(labels, bank.num_classes), **options)

    def discrete(self, *args, **options):
        """The terms in which binary codes stand."""
        terms = self.terms(*args, **options).items()
        return sum(value for name, value in terms if name not in self.continuous)
