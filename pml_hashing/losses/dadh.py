"""DADH (Li et al., 2019): two networks against each other and against learned codes."""

from typing import Any

from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.centers import spread_codes
from pml_hashing.code_bank import CodeBank, Rows
from pml_hashing.losses._base import LossDict
from pml_hashing.losses._base_discrete import BaseDiscreteLoss
from pml_hashing.losses._bit_statistics import balance_of_networks
from pml_hashing.losses._discrete import mean_over_bank, own_quantization, set_class_codes
from pml_hashing.losses._inner_product import (
    improve_codes,
    inner_products_of_networks,
    remember_similar_sums,
)
from pml_hashing.losses._likelihood import likelihood
from pml_hashing.losses.dsah_terms import of_networks
from pml_hashing.pairs import IndicesTuple


class DADHLoss(BaseDiscreteLoss):
    r"""Likelihood of pairs across two networks, and inner products of both with learned codes.

    Reconstructed: terms, weights and discrete step are those of a third party's code that says it
    follows the paper; the matrix form is ours.

    $$
    \begin{aligned}
    J = {} & \frac{1}{n^2 K^2} \Big[ \lVert U B^\top - K S \rVert^2
            + \lVert V B^\top - K S \rVert^2
            + \tau \sum_{i, j} \left( \log(1 + e^{\Theta_{ij}}) - s_{ij} \Theta_{ij} \right)
            + \eta \lVert U^\top 1 \rVert^2 + \eta \lVert V^\top 1 \rVert^2 \Big] \\
        & + \frac{\gamma}{n K^2} \left( \lVert U - B \rVert^2 + \lVert V - B \rVert^2 \right),
        \qquad \Theta_{ij} = \tfrac{1}{2} u_i^\top v_j, \quad B \in \{-1, 1\}^{n \times K}
    \end{aligned}
    $$

    where $U$ holds the codes $u_i = \tanh f(x_i)$ of the first network, $V$ those of the second
    (`ref_emb`), $B$ the learned codes (`binary_codes` of the code bank), $s_{ij}$ is 1 for similar
    samples and else 0, and $S_{ij}$ is 1 for similar samples and else $-r$, $r$ the number of
    similar pairs over that of dissimilar pairs. With one network, the terms of $V$ are absent and
    the likelihood is of all pairs of different samples of $U$.

    *Mini-batch mode*: the samples are those of the batch, and $B$ is solved for in every call.
    *Data-set mode*: they are those of a `CodeBank`, whose codes `update_codes` improves by
    coordinate descent. Inner products are then with the codes of the whole data set, through sums
    over equal labels, and balance is that of the whole data set: neither costs more with larger
    $n$. The likelihood cannot be summed so. It is estimated from the pairs of the batch, or from
    those with `bank_samples` samples of the bank. The objective that `update_codes` returns is
    without it: no learned code stands in it.

    Sub-losses: `inner_product_loss`, `likelihood_loss`, `quantization_loss`, `balance_loss`.

    Args:
        num_classes: Number of classes.
        code_length: Number of bits $K$.
        tau: Weight $\tau$ of the likelihood.
        gamma: Weight $\gamma$ of the quantization: the paper's weight over $n$. The default is 100
            at $n = 5{,}000$.
        eta: Weight $\eta$ of the bit balance.
        soft_similarity: Dissimilar pairs have $S_{ij} = -r$. If `False`, -1, with which bits become
            constant unless $\gamma$ is near $K$.
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with in the likelihood; at least $n$: all. 0: those of the batch.
        sweeps: Sweeps over the bits in a discrete step.
        seed: Of the class codes to start from.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a weight is negative, `sweeps` is less than 1, or the code bank is of other
            classes or bits.

    Note: Differences from the paper
        Whether the paper's $S$ is soft is not known to us. $B$ starts from class codes that lie far
        apart (samples of several classes: their majority); in the third party's code, at random.
        Both networks learn from the same batch at once; there, in turns. That code takes norms
        without squaring them, balances a code and not a bit, and has the sign of the pair inside
        the exponent: this is the form without these. A miner's pairs, if given, replace those of
        the likelihood.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DADHLoss
        >>> codes = torch.zeros(4, 8)  # S is 1 and -1, and every pair has probability ½
        >>> DADHLoss(num_classes=2, code_length=8, gamma=0, tau=64)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # 1 + ln 2
        tensor(1.6931)

    References:
        Li et al., [Dual Asymmetric Deep Hashing Learning](https://arxiv.org/abs/1801.08360), IEEE
        Access 7, 2019. Equations: after the code of a third party.
    """

    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        tau: float = 10.0,
        gamma: float = 0.02,
        eta: float = 10.0,
        soft_similarity: bool = True,
        bank_samples: int = 0,
        sweeps: int = 1,
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, code_length, code_bank=code_bank, **kwargs)
        for name, value in (("tau", tau), ("gamma", gamma), ("eta", eta)):
            check_at_least(value, 0, name)
        check_at_least(bank_samples, 0, "bank_samples")
        check_at_least(sweeps, 1, "sweeps")
        self.tau, self.gamma, self.eta = tau, gamma, eta
        self.soft_similarity, self.bank_samples, self.sweeps = soft_similarity, bank_samples, sweeps
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
        losses["likelihood_loss"] *= self.tau / self.code_length**2
        return {name: self.element_loss(losses[name]) for name in self._sub_loss_names()}

    def _sub_loss_names(self) -> list[str]:
        return ["inner_product_loss", "likelihood_loss", "quantization_loss", "balance_loss"]

    def _discrete_terms(self, bank: CodeBank, rows: Rows, codes: list[Tensor]) -> dict[str, Tensor]:
        """Return all terms but the likelihood, of every sample."""
        scale = self.code_length**-2
        return {
            "inner_product_loss": inner_products_of_networks(bank, rows, codes),
            "quantization_loss": self.gamma * scale * own_quantization(bank, rows, codes),
            "balance_loss": self.eta * scale * balance_of_networks(bank, codes),
        }

    def start_codes(self, bank: CodeBank) -> None:
        set_class_codes(bank, self.class_codes)
        remember_similar_sums(bank, self.soft_similarity)

    def solve_batch(self, bank: CodeBank) -> None:
        self.start_codes(bank)
        self.discrete_step(bank)
        bank.refresh_binary_codes()

    def discrete_step(self, bank: CodeBank, progress: bool = False) -> None:
        soft, own_weight = self.soft_similarity, self.gamma / self.code_length**2
        improve_codes(bank, own_weight, soft=soft, sweeps=self.sweeps, progress=progress)

    def objective(self, bank: CodeBank) -> Tensor:
        return mean_over_bank(bank, self._discrete_terms)
