"""DSDH (Li et al., 2017): the likelihood of pairs, and codes that classify linearly."""

from typing import Any

from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.centers import spread_codes
from pml_hashing.code_bank import CodeBank, Rows
from pml_hashing.losses._base import LossDict
from pml_hashing.losses._base_discrete import BaseDiscreteLoss
from pml_hashing.losses._discrete import (
    mean_over_bank,
    own_quantization,
    set_class_codes,
    solve_codes,
)
from pml_hashing.losses._dual_regression import DualRegression
from pml_hashing.losses._likelihood import likelihood
from pml_hashing.losses.dsah_terms import of_networks
from pml_hashing.pairs import IndicesTuple


class DSDHLoss(BaseDiscreteLoss):
    r"""Likelihood of pairs of codes that are drawn to learned codes, which a linear map classifies.

    As in the paper, up to the scale of each term, which is that of the network's loss in the code
    of a third party:

    $$
    J = \frac{1}{n (n - 1)} \sum_{i \ne j} \left( \log(1 + e^{\Theta_{ij}}) - s_{ij} \Theta_{ij}
        \right) + \frac{\mu}{n} \lVert Y - B W \rVert^2 + \frac{\nu}{n} \lVert W \rVert^2
        + \frac{\eta}{n K} \lVert B - U \rVert^2, \qquad \Theta_{ij} = \tfrac{1}{2} u_i^\top u_j
    $$

    over the network, $B \in \{-1, 1\}^{n \times K}$ and $W \in \mathbb{R}^{K \times C}$, where $U$
    holds the network's codes $u_i$, $B$ the learned codes (`binary_codes` of the code bank), $Y$
    the labels, and $s_{ij}$ is 1 for similar samples and else 0. The labels reach the network by
    the likelihood, and by $B$.

    *Mini-batch mode*: the samples are those of the batch, and $W$ and $B$ are solved for in every
    call. *Data-set mode*: they are those of a `CodeBank`, and `update_codes` solves for $W$ by
    ridge regression, then improves $B$ by coordinate descent. The likelihood is estimated from the
    pairs of the batch, or from those with `bank_samples` samples of the bank. The objective that
    `update_codes` returns is without it: no learned code stands in it.

    Sub-losses: `likelihood_loss`, `regression_loss` (constant in the network: it shapes $B$),
    `quantization_loss`.

    Args:
        num_classes: Number of classes.
        code_length: Number of bits $K$.
        mu: Weight $\mu$ of the regression.
        nu: Ridge penalty $\nu$, positive.
        eta: Weight $\eta$ of the quantization.
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with in the likelihood; at least $n$: all. 0: those of the batch.
        sweeps: Sweeps over the bits in a discrete step.
        seed: Of the class codes to start from.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a weight is negative, `nu` is not positive, `sweeps` is less than 1, or the
            code bank is of other classes or bits.

    Note: Differences from the paper
        The paper sums over pairs and over samples, so that the weights of the latter fade with $n$;
        here all are means. $\eta$ is per bit, since the pull of the regression on one bit falls as
        $1 / K$. $B$ starts from class codes that lie far apart; in the paper, at random. With codes
        of a second network (`ref_emb`), $\Theta_{ij} = \frac{1}{2} u_i^\top v_j$ for all $i, j$,
        and $B$ is drawn to both. A miner's pairs, if given, replace those of the likelihood.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DSDHLoss
        >>> codes = torch.zeros(4, 8)  # every pair has probability ½
        >>> DSDHLoss(num_classes=2, code_length=8, mu=0, eta=1)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # ln 2 + eta
        tensor(1.6931)

    References:
        Li et al., [Deep Supervised Discrete Hashing](https://arxiv.org/abs/1705.10999), NeurIPS
        2017.
    """

    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        mu: float = 0.01,
        nu: float = 1.0,
        eta: float = 0.01,
        bank_samples: int = 0,
        sweeps: int = 1,
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, code_length, code_bank=code_bank, **kwargs)
        for name, value in (("mu", mu), ("eta", eta), ("bank_samples", bank_samples)):
            check_at_least(value, 0, name)
        check_at_least(sweeps, 1, "sweeps")
        self.eta, self.bank_samples, self.sweeps = eta, bank_samples, sweeps
        self.regression = DualRegression(mu, 0.0, nu, "none", "code_to_label")
        # The last row breaks ties between the classes of a sample with several.
        self.register_buffer("class_codes", spread_codes(num_classes + 1, code_length, seed))

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
        sample_indices: Tensor | None = None,
    ) -> LossDict:
        codes = of_networks(embeddings, ref_emb)
        bank, rows = self.bank_of(codes, labels, sample_indices)
        samples = self.bank_samples if bank is self.code_bank else 0
        losses = self._discrete_terms(bank, rows, codes)
        losses["likelihood_loss"] = likelihood(codes, bank, rows, samples, indices_tuple)
        return {name: self.element_loss(losses[name]) for name in self._sub_loss_names()}

    def _sub_loss_names(self) -> list[str]:
        return ["likelihood_loss", "regression_loss", "quantization_loss"]

    def _discrete_terms(self, bank: CodeBank, rows: Rows, codes: list[Tensor]) -> dict[str, Tensor]:
        """Return the terms of every sample in which its binary code stands."""
        own, labels = bank.binary_codes[rows].to(codes[0].dtype), bank.labels_of(rows)
        penalty = self.regression.nu * bank.class_weights.square().sum() / len(bank)
        quantization = own_quantization(bank, rows, codes)
        return {
            "regression_loss": self.regression(bank, bank.class_weights, own, labels) + penalty,
            "quantization_loss": self.eta / self.code_length * quantization,
        }

    def _fit(self, bank: CodeBank) -> None:
        weights = self.regression.fit(bank, bank.code_gram, bank.code_sums, bank.code_total)
        bank.class_weights.copy_(weights)

    def start_codes(self, bank: CodeBank) -> None:
        set_class_codes(bank, self.class_codes)
        self._fit(bank)

    def solve_batch(self, bank: CodeBank) -> None:
        set_class_codes(bank, self.class_codes)
        self.discrete_step(bank)

    def discrete_step(self, bank: CodeBank, progress: bool = False) -> None:
        self._fit(bank)
        gram, targets = self.regression.quadratic(bank, bank.class_weights, bank.group_labels)
        own_weight = self.eta / self.code_length
        solve_codes(bank, gram, targets, own_weight, self.sweeps, progress)

    def objective(self, bank: CodeBank) -> Tensor:
        return mean_over_bank(bank, self._discrete_terms)
