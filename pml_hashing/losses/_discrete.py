"""Losses with discrete variables, as sums of terms: in mini-batch mode and in data-set mode."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pml_hashing._checks import check, check_at_least, check_weights, require_labels
from pml_hashing.code_bank import CodeBank
from pml_hashing.codes import binarize_unchecked
from pml_hashing.losses._base import BaseHashingLoss, LossDict, codes_of_networks
from pml_hashing.losses._classes import Assignment, ClassCodes, check_sizes, codes_with_tie_code
from pml_hashing.losses.terms import Batch, Quadratic, Term
from pml_hashing.pairs import IndicesTuple
from pml_hashing.solvers import check_sweeps, dcc, label_sums


class CodeUpdate(NamedTuple):
    """The objective per sample before and after a discrete step."""

    before: float
    after: float


class DiscreteLoss(BaseHashingLoss):
    r"""A weighted sum of terms over the networks and over binary codes that are learned with them.

    $$J = \sum_t w_t\, J_t(U, V, B), \qquad B \in \{-1, 1\}^{n \times K}$$

    where $U$ and $V$ hold the codes of the samples by one or two networks (`embeddings` and
    `ref_emb`), $B$ their binary codes, and a term $J_t$ is a mean over the $n$ samples: see
    `pml_hashing.losses.terms`. The loss of a batch is the mean over its samples, as one sub-loss
    for each term.

    *Mini-batch mode* (`code_bank=None`): the discrete variables are those of the batch, and are
    solved for in every call. *Data-set mode*: they are those of all samples of a data set and live
    in a `CodeBank`; a batch finds its own by `sample_indices`, every call in training mode
    remembers the batch's codes there, and `update_codes` makes the discrete step, once per round:
    the variables of the terms are fitted to $B$, then $B$ is improved bit by bit given them, by
    `solvers.dcc` over the sum of the terms' quadratics. Neither raises $J$.

    $B$ starts from codes of the classes that lie far apart (samples of several classes: their
    majority), unless a term has other codes to start from.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        terms: The weight of each term, and the term, by the name under which it is kept in the
            bank; its sub-loss is `<name>_loss`. A term of weight 0 costs nothing.
        warm_start: Discrete steps on the labels alone before a code bank is first used.
        sweeps: Sweeps over the bits in a discrete step.
        class_codes: Codes of the classes to start from. `"spread"`: codes that lie far apart.
            `"assigned"`: such codes, near ones for confused classes, by `use_features`, which the
            trainers call. Or codes of your own, -1 and 1, `(num_classes, code_length)`.
        seed: Seed of the codes that lie far apart.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        TypeError: If a term is none.
        ValueError: If a weight is negative, there is no term, `sweeps` is out of range, or the code
            bank is of other classes or bits.

    Examples:
        >>> import torch
        >>> from pml_hashing import CodeBank
        >>> from pml_hashing.losses import DiscreteLoss, terms
        >>> labels = torch.tensor([0, 0, 1, 2])
        >>> loss_func = DiscreteLoss(
        ...     num_classes=3,
        ...     code_length=16,
        ...     terms={
        ...         "inner_product": (1.0, terms.InnerProduct()),
        ...         "quantization": (0.5, terms.ClassStructureQuantization()),
        ...     },
        ...     code_bank=CodeBank(labels, 16),
        ... )
        >>> loss_func.sub_loss_names()
        ['inner_product_loss', 'quantization_loss']
        >>> loss = loss_func(torch.zeros(2, 16), sample_indices=torch.tensor([0, 3]))
        >>> before, after = loss_func.update_codes()
        >>> after <= before
        True
    """

    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        terms: Mapping[str, tuple[float, Term]],
        *,
        warm_start: int = 0,
        sweeps: int = 1,
        class_codes: ClassCodes = "spread",
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        check_sizes(num_classes, code_length)
        check_at_least(warm_start, 0, "warm_start")
        check_sweeps(sweeps)
        check_terms(terms)
        # PML asks for the names of the sub-losses before modules can be registered.
        self.weights = {name: float(weight) for name, (weight, _) in terms.items()}
        super().__init__(**kwargs)
        self.num_classes, self.code_length = num_classes, code_length
        self.warm_start, self.sweeps = warm_start, sweeps
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
        self.of_pairs = any(term.of_pairs for _, term in self._counted())
        # The last row breaks ties between the classes of a sample with several.
        codes = codes_with_tie_code(class_codes, num_classes, code_length, seed)
        self.register_buffer("class_codes", codes)
        self.assignment = Assignment(class_codes, seed)
        self.objective_value = float("nan")  # before the first batch
        if code_bank is not None:
            self._check_bank(code_bank)
            self.add_to_recordable_attributes(name="objective_value", is_stat=False)
        else:
            labels = CodeBank(torch.arange(num_classes), 1)  # each class as often as the others
            for _, term in self._counted():
                term.prepare(labels)
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

    def _sub_loss_names(self) -> list[str]:
        return [f"{name}_loss" for name in self.weights]

    @property
    def wants_features(self) -> bool:
        bank = self.code_bank
        return self.assignment.is_open and (bank is None or not bank.started)

    def use_features(self, features: Tensor, labels: Tensor) -> None:
        is_new = self.code_bank is None or not self.code_bank.started
        check(is_new, "a `code_bank` that has not started from class codes yet", "one that has")
        self.assignment.make(self.class_codes[:-1], features, labels)

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
            indices_tuple: Pairs chosen by a miner, for the terms that are of pairs. Where no term
                is, the samples are weighted by it.
            ref_emb: Codes of the same samples by the second network. One network if `None`.
            ref_labels: Not needed: the labels of `ref_emb` are `labels`.
            sample_indices: Places of the samples in the data set of the code bank,
                `(batch_size,)`. `None` without a code bank.

        Raises:
            RuntimeError: In evaluation mode, if training has not started the code bank.
            TypeError: If `sample_indices` are no tensor of integers.
            ValueError: If a shape is wrong, or `sample_indices` are missing where there is a code
                bank, given where there is none, or out of its range.
        """
        return self._reduced_loss(
            embeddings, labels, indices_tuple, ref_emb, ref_labels, sample_indices=sample_indices
        )

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
        sample_indices: Tensor | None = None,
    ) -> LossDict:
        codes = codes_of_networks(embeddings, ref_emb, self.code_length)
        bank, rows = self._bank_of(codes, labels, sample_indices)
        losses, zero = {}, torch.zeros_like(codes[0][:, 0])
        batch = Batch(bank, rows, codes, indices_tuple)
        for name, term in self._counted():
            losses[name] = self.weights[name] * term.losses(batch, bank.variables(name))
        return {f"{k}_loss": self.element_loss(losses.get(k, zero)) for k in self.weights}

    @torch.no_grad()
    def solve_batch(self, labels: Tensor, *codes: Tensor) -> CodeBank:
        """Return the discrete variables of one batch, as mini-batch mode has them.

        Args:
            labels: Labels of the batch.
            *codes: Its codes by one or two networks, of which no gradient is taken.
        """
        bank = CodeBank.of_batch(labels, self.num_classes, *codes)
        self._start(bank)
        self._improve(bank, fit=False)
        return bank

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
            before = self.objective(bank).item()
            self._improve(bank, progress)
            update = CodeUpdate(before, self.objective(bank).item())
        self.objective_value = update.after
        return update

    def objective(self, bank: CodeBank) -> Tensor:
        """Return the objective per sample, for the codes that `bank` remembers, in float64.

        Terms that would cost more than one pass over the data set are not in it.
        """
        total = bank.query_codes.new_zeros((), dtype=torch.float64)
        for block in bank.row_blocks():
            batch = Batch(bank, block, [codes[block] for codes in bank.networks])
            for name, term in self._counted():
                if term.in_objective:
                    losses = term.losses(batch, bank.variables(name))
                    total += (self.weights[name] * losses).double().sum()
        return total / len(bank)

    def improve_codes(self, bank: CodeBank, progress: bool = False) -> None:
        """Improve the binary codes of `bank`, given the variables of all terms.

        A method whose step is another than that of the sum of quadratics overrides this. It must
        not raise `objective`.
        """
        total = Quadratic()
        for name, term in self._counted():
            quadratic = term.quadratic(bank, bank.variables(name))
            if quadratic is not None:
                total = total.plus(quadratic, self.weights[name])
        gram, targets, own, own_targets = total
        for block in bank.row_blocks(progress):
            target = torch.zeros_like(bank.query_codes[block])
            if isinstance(targets, Tensor):
                target = targets[bank.groups[block]]
            for codes in bank.networks:
                target = target.add(codes[block], alpha=own)
            if isinstance(own_targets, Tensor):
                target = target + own_targets[block]
            codes = bank.binary_codes[block]
            if isinstance(gram, Tensor):
                codes.copy_(dcc(codes, gram, target, self.sweeps))
            else:
                codes.copy_(torch.where(target == 0, codes, binarize_unchecked(target)))

    def _counted(self) -> list[tuple[str, Term]]:
        """Return the terms that have a weight, by name."""
        return [(k, cast(Term, term)) for k, term in self.terms.items() if self.weights[k] > 0]

    @torch.no_grad()
    def _start(self, bank: CodeBank) -> None:
        """Start what has not started in this bank, and bring all terms up to its binary codes."""
        is_first = not bank.started
        for _, term in self._counted() if not bank.is_batch else []:
            term.prepare(bank)
        if is_first:
            self._start_codes(bank)
        self._start_terms(bank)
        if is_first and not bank.is_batch:
            for step in range(self.warm_start):  # on the labels: the networks' codes are zero
                self._improve(bank, fit=step > 0)
            self.objective_value = self.objective(bank).item()

    def _start_terms(self, bank: CodeBank) -> None:
        for name, term in self._counted():
            if not bank.keeps(name, term.kind):
                bank.keep(name, term.start(bank), term.kind)
            elif not bank.keeps(name, term.kind, current=True):  # another loss changed the codes
                bank.keep(name, term.refresh(bank, bank.variables(name)), term.kind)

    def _start_codes(self, bank: CodeBank) -> None:
        first = (term.first_codes(bank) for _, term in self._counted())
        codes = next((codes for codes in first if codes is not None), None)
        if codes is None:
            class_codes = self.class_codes.to(bank.query_codes)
            codes = label_sums(class_codes[:-1], bank.group_labels) + class_codes[-1] / 2
        bank.start_codes(codes)

    def _improve(self, bank: CodeBank, progress: bool = False, *, fit: bool = True) -> None:
        """Improve the variables of all terms if asked, then the binary codes."""
        for name, term in self._counted() if fit else []:
            bank.keep(name, term.fit(bank, bank.variables(name)), term.kind)
        self.improve_codes(bank, progress)
        bank.codes_changed()
        for name, term in self._counted():
            bank.keep(name, term.refresh(bank, bank.variables(name)), term.kind)

    def _bank_of(
        self, codes: list[Tensor], labels: Tensor | None, sample_indices: Tensor | None
    ) -> tuple[CodeBank, Tensor]:
        """Return the bank of this call, which knows its codes, and the rows of the batch."""
        if self.code_bank is not None:
            return self.code_bank, self._rows_of_bank(self.code_bank, codes, labels, sample_indices)
        if sample_indices is not None:
            raise ValueError("Expected no `sample_indices` without a code bank, got some.")
        labels = require_labels(labels, num_classes=self.num_classes)
        rows = torch.arange(len(labels), device=labels.device)
        return self.solve_batch(labels, *(network.detach() for network in codes)), rows

    def _rows_of_bank(
        self,
        bank: CodeBank,
        codes: list[Tensor],
        labels: Tensor | None,
        sample_indices: Tensor | None,
    ) -> Tensor:
        rows = bank.check_rows(sample_indices, len(codes[0]))
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
        terms = [(name, term.kind) for name, term in self._counted()]
        if not self.training and not (bank.started and all(bank.keeps(*term) for term in terms)):
            raise RuntimeError(
                "Expected a `code_bank` that training of this loss has started, got another: call "
                "the loss in training mode, or `update_codes`, before it is evaluated."
            )
        self._start(bank)
        if labels is not None:
            bank.check_labels(labels, rows)
        if self.training:  # first, so that sums over the bank count the batch as it is now
            bank.store(rows, *(network.detach() for network in codes))
        return rows

    def _check_bank(self, bank: CodeBank) -> None:
        wanted, got = (self.num_classes, self.code_length), (bank.num_classes, bank.code_length)
        if wanted != got:
            raise ValueError(
                f"Expected a `code_bank` of {wanted[0]} classes and {wanted[1]} bits, "
                f"got one of {got[0]} classes and {got[1]} bits."
            )


def check_terms(terms: Mapping[str, tuple[float, Term]]) -> None:
    """Raise unless these are weights and terms by names that a module can have."""
    if not terms:
        raise ValueError("Expected `terms` with at least one term, got none.")
    for name, (weight, term) in terms.items():
        if not isinstance(term, Term):
            raise TypeError(f"Expected a Term as `terms[{name!r}]`, got {type(term).__name__}.")
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(f"Expected names of `terms` such as 'quantization', got {name!r}.")
        check_weights(**{f"{name}_weight": weight})
