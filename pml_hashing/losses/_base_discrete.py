"""The base of losses with discrete variables: in mini-batch mode and in data-set mode."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_hashing._checks import (
    check_at_least,
    check_label_values,
    check_labels_of_bank,
    require_labels,
    require_sample_indices,
)
from pml_hashing.code_bank import CodeBank
from pml_hashing.losses._base import BaseHashingLoss
from pml_hashing.pairs import IndicesTuple


class CodeUpdate(NamedTuple):
    """The objective per sample before and after a discrete step."""

    before: float
    after: float


class BaseDiscreteLoss(BaseHashingLoss):
    """Base class of losses whose objective also has discrete variables: the binary codes.

    *Mini-batch mode* (`code_bank=None`): the discrete variables are those of the batch, and are
    solved for in every call. *Data-set mode*: they are those of all samples of a data set and live
    in a `CodeBank`; a batch finds its own by `sample_indices`, every call in training mode
    remembers the batch's codes there, and `update_codes` makes the discrete step, once a round.

    A subclass implements `start_codes`, `solve_batch`, `discrete_step` and `objective`, and a
    `compute_loss` that begins with `bank_of`.
    """

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(num_classes, 2, "num_classes")
        check_at_least(code_length, 1, "code_length")
        self.num_classes, self.code_length = num_classes, code_length
        self.objective_value = float("nan")  # before the first batch
        if code_bank is not None:
            self._check_bank(code_bank)
            self.add_to_recordable_attributes(name="objective_value", is_stat=False)
        # The trainer saves it. Here, neither torch nor record-keeper (which logs tuples) finds it.
        self._held = SimpleNamespace(code_bank=code_bank)

    @property
    def code_bank(self) -> CodeBank | None:
        """The bank of data-set mode, `None` in mini-batch mode."""
        return self._held.code_bank

    def get_extra_state(self) -> dict[str, float]:
        return {"objective_value": self.objective_value}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.objective_value = state["objective_value"]

    def start_codes(self, bank: CodeBank) -> None:
        """Set the binary codes of a data set that nothing has been learned of yet."""
        raise NotImplementedError

    def solve_batch(self, bank: CodeBank) -> None:
        """Set the discrete variables of one batch from its codes."""
        raise NotImplementedError

    def discrete_step(self, bank: CodeBank, progress: bool = False) -> None:
        """Improve the discrete variables of `bank`. Must not raise `objective`."""
        raise NotImplementedError

    def objective(self, bank: CodeBank) -> Tensor:
        """Return the objective per sample, for the codes that `bank` remembers."""
        raise NotImplementedError

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        sample_indices: Tensor | None = None,
    ) -> Tensor:
        """Return the reduced loss.

        Args:
            embeddings: Codes of the batch, `(batch_size, code_length)`, before binarization.
            labels: Class ids or multi-hot rows. Not needed with a code bank, which knows them.
            indices_tuple: Pairs chosen by a miner.
            ref_emb: Codes of the same samples by the second network. One network if `None`.
            ref_labels: Not needed: the labels of `ref_emb` are `labels`.
            sample_indices: Places of the samples in the data set of the code bank,
                `(batch_size,)`. `None` without a code bank.

        Raises:
            TypeError: If `sample_indices` are no tensor of integers.
            ValueError: If a shape is wrong, or `sample_indices` are missing where there is a code
                bank, given where there is none, or out of its range.
        """
        return self._reduced_loss(
            embeddings, labels, indices_tuple, ref_emb, ref_labels, sample_indices=sample_indices
        )

    @torch.no_grad()
    def update_codes(self, *, progress: bool = False) -> CodeUpdate:
        """Make one discrete step over the data set, at the end of a round.

        Args:
            progress: Show a progress bar over the rows of the data set.

        Returns:
            The objective before and after, which never rises (but for rounding).

        Raises:
            ValueError: If the loss has no code bank.
        """
        bank = self.code_bank
        if bank is None:
            raise ValueError("Expected a loss with a `code_bank`, got `code_bank=None`.")
        with torch.autocast(bank.groups.device.type, enabled=False):
            self._start(bank)
            bank.refresh()
            before = self.objective(bank)
            self.discrete_step(bank, progress)
            bank.refresh_binary_codes()
            update = CodeUpdate(before.item(), self.objective(bank).item())
        self.objective_value = update.after
        return update

    @torch.no_grad()
    def _start(self, bank: CodeBank) -> None:
        if not bank.started:
            self.start_codes(bank)
            bank.refresh()
            bank.started = True
            self.objective_value = self.objective(bank).item()

    def bank_of(
        self, codes: list[Tensor], labels: Tensor | None, sample_indices: Tensor | None
    ) -> tuple[CodeBank, Tensor]:
        """Return the code bank of this call, which knows its codes, and the rows of the batch.

        Args:
            codes: Codes of the batch by each network.
            labels: Labels of the batch.
            sample_indices: As for `forward`.
        """
        for name, of_network in zip(("embeddings", "ref_emb"), codes, strict=False):
            if of_network.shape != (len(codes[0]), self.code_length):
                raise ValueError(
                    f"Expected `{name}` of shape ({len(codes[0])}, {self.code_length}), "
                    f"got {tuple(of_network.shape)}."
                )
        if self.code_bank is not None:
            bank, rows = self._rows_of_bank(self.code_bank, codes, sample_indices)
            if labels is not None:
                check_labels_of_bank(labels, bank.labels_of(rows))
            if self.training:  # first, so that sums over the bank count the batch as it is now
                bank.store(rows, *(network.detach() for network in codes))
            return bank, rows
        if sample_indices is not None:
            raise ValueError("Expected no `sample_indices` without a code bank, got some.")
        if not (labels := require_labels(labels)).is_cuda:  # to read values back would stop a GPU
            check_label_values(labels, self.num_classes, "labels")
        with torch.no_grad():
            bank = CodeBank.of_batch(labels, self.num_classes, *(c.detach() for c in codes))
            self.solve_batch(bank)
        return bank, torch.arange(len(labels), device=labels.device)

    def _rows_of_bank(
        self, bank: CodeBank, codes: list[Tensor], sample_indices: Tensor | None
    ) -> tuple[CodeBank, Tensor]:
        rows = require_sample_indices(sample_indices, len(codes[0]), len(bank))
        if codes[0].device != bank.groups.device:
            raise ValueError(
                f"Expected a `code_bank` on {codes[0].device}, as the codes are (the loss does "
                f"not move it), got one on {bank.groups.device}."
            )
        if len(codes) != len(bank.networks):
            raise ValueError(
                f"Expected codes of {len(bank.networks)} networks (`num_networks` of the code "
                f"bank; the second as `ref_emb`), got {len(codes)}."
            )
        self._start(bank)
        return bank, rows.to(bank.groups.device)

    def _check_bank(self, bank: CodeBank) -> None:
        wanted, got = (self.num_classes, self.code_length), (bank.num_classes, bank.code_length)
        if wanted != got:
            raise ValueError(
                f"Expected a `code_bank` of {wanted[0]} classes and {wanted[1]} bits, "
                f"got one of {got[0]} classes and {got[1]} bits."
            )
