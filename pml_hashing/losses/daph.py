"""DAPH (Shen et al., 2017): two networks, with a set of learned codes each."""

from typing import Any

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.centers import spread_codes
from pml_hashing.code_bank import CodeBank, Rows
from pml_hashing.codes import binarize
from pml_hashing.losses._base import LossDict
from pml_hashing.losses._base_discrete import BaseDiscreteLoss
from pml_hashing.losses._bit_statistics import balance_losses, independence_losses
from pml_hashing.losses._discrete import mean_over_bank, set_class_codes
from pml_hashing.losses._likelihood import likelihood
from pml_hashing.losses.dsah_terms import of_networks
from pml_hashing.pairs import IndicesTuple


class DAPHLoss(BaseDiscreteLoss):
    r"""Likelihood of pairs across two networks, each of which is drawn to codes of its own.

    Terms as in the code of a third party, which says it is not complete; scales are ours.

    $$
    \begin{aligned}
    J = {} & \frac{1}{n^2} \sum_{i, j} \left( \log(1 + e^{\Theta_{ij}}) - s_{ij} \Theta_{ij} \right)
        + \frac{\alpha}{n K} \left( \lVert U - B \rVert^2 + \lVert Z - H \rVert^2 \right)
        + \frac{\gamma}{n K} \lVert B - H \rVert^2 \\
        & + \frac{\lambda}{K^2} \left( \lVert \tfrac{1}{n} U^\top U - I \rVert^2
            + \lVert \tfrac{1}{n} Z^\top Z - I \rVert^2 \right)
        + \frac{\beta}{K} \left( \lVert \tfrac{1}{n} U^\top 1 \rVert^2
            + \lVert \tfrac{1}{n} Z^\top 1 \rVert^2 \right),
        \qquad \Theta_{ij} = \tfrac{1}{2} u_i^\top z_j
    \end{aligned}
    $$

    over $B, H \in \{-1, 1\}^{n \times K}$, where $U$ holds the codes $u_i = \tanh f(x_i)$ of the
    first network, which encodes queries, $Z$ those of the second (`ref_emb`), which encodes the
    database, and $s_{ij}$ is 1 for similar samples and else 0. With one network, the terms of $Z$
    and $H$ are absent and the likelihood is of all pairs of different samples of $U$.

    *Mini-batch mode*: the samples are those of the batch, and $B$ and $H$ are solved for in every
    call. *Data-set mode*: they are those of a `CodeBank` with `query_binary_codes=True`, which are
    $B$; its `binary_codes` are $H$, the codes to search in ($B$ with one network). `update_codes`
    sets them to the best of all. Balance and independence are those of the whole data set, at a
    cost that does not grow with $n$. The likelihood is estimated from the pairs of the batch, or
    from those with `bank_samples` samples of the bank. The objective that `update_codes` returns is
    without it: no learned code stands in it.

    Sub-losses: `likelihood_loss`, `quantization_loss`, `agreement_loss` (that of $\gamma$, constant
    in the networks), `independence_loss`, `balance_loss`.

    Args:
        num_classes: Number of classes.
        code_length: Number of bits $K$.
        alpha: Weight $\alpha$ of the quantization.
        gamma: Weight $\gamma$ of the difference of the two sets of codes.
        lambda_: Weight $\lambda$ of the independence of bits.
        beta: Weight $\beta$ of the bit balance. Ours: the third party has 0.01, on squared sums
            over the samples, which is $0.01\, n^2$ here.
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with in the likelihood; at least $n$: all. 0: those of the batch.
        seed: Of the class codes to start from.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a weight is negative, or the code bank is of other classes or bits or has one
            set of binary codes for two networks.

    Note: Differences from the paper
        The published step sets $B = \operatorname{sign}(\alpha U + \gamma H)$, then
        $H = \operatorname{sign}(\alpha Z + \gamma B)$. With $\gamma \ge \alpha$, as published, and
        codes in $(-1, 1)$, that copies $H$ to $B$ and back: no code ever changes. Here each bit
        takes the best of its four values in $B$ and $H$ together. Both sets start from class codes
        that lie far apart; there, at random. Both networks learn from the same batch at once;
        there, in turns. A miner's pairs, if given, replace those of the likelihood.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DAPHLoss
        >>> codes = torch.zeros(4, 8)  # every pair has probability ½
        >>> DAPHLoss(num_classes=2, code_length=8, lambda_=0)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # ln 2 + alpha
        tensor(10.6931)

    References:
        Shen et al., [Deep Asymmetric Pairwise Hashing](http://cfm.uestc.edu.cn/~fshen/DAPH.pdf),
        ACM Multimedia 2017. Equations: after the code of a third party.
    """

    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        alpha: float = 10.0,
        gamma: float = 10.0,
        lambda_: float = 0.01,
        beta: float = 1.0,
        bank_samples: int = 0,
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, code_length, code_bank=code_bank, **kwargs)
        weights = {"alpha": alpha, "gamma": gamma, "lambda_": lambda_, "beta": beta}
        for name, value in (weights | {"bank_samples": bank_samples}).items():
            check_at_least(value, 0, name)
        if code_bank is not None and len(_sets(code_bank)) < len(code_bank.networks):
            raise ValueError(
                "Expected a `code_bank` with binary codes for both of its networks "
                "(`query_binary_codes=True`), got one with a single set."
            )
        self.alpha, self.gamma, self.lambda_, self.beta = alpha, gamma, lambda_, beta
        self.bank_samples = bank_samples
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
        terms = ("likelihood", "quantization", "agreement", "independence", "balance")
        return [f"{term}_loss" for term in terms]

    def _discrete_terms(self, bank: CodeBank, rows: Rows, codes: list[Tensor]) -> dict[str, Tensor]:
        """Return all terms but the likelihood, of every sample."""
        learned = [own[rows].to(codes[0].dtype) for own in _sets(bank)]
        grams = list(zip(codes, bank.network_grams, strict=True))
        squares = [(u - b).square().sum(dim=1) for u, b in zip(codes, learned, strict=True)]
        independence = [independence_losses(network, gram) for network, gram in grams]
        balance = [balance_losses(network, gram) for network, gram in grams]
        apart, bits = (learned[0] - learned[-1]).square().sum(dim=1), self.code_length
        return {
            "quantization_loss": self.alpha / bits * torch.stack(squares).sum(dim=0),
            "agreement_loss": self.gamma / bits * apart,
            "independence_loss": self.lambda_ / bits**2 * torch.stack(independence).sum(dim=0),
            "balance_loss": self.beta / bits * torch.stack(balance).sum(dim=0),
        }

    def start_codes(self, bank: CodeBank) -> None:
        set_class_codes(bank, self.class_codes)
        for own in _sets(bank):
            own.copy_(bank.binary_codes)

    def solve_batch(self, bank: CodeBank) -> None:
        if len(bank.networks) == 2:
            bank.query_binary_codes = torch.ones_like(bank.binary_codes)
        self.discrete_step(bank)

    def discrete_step(self, bank: CodeBank, progress: bool = False) -> None:
        sets = _sets(bank)
        for block in bank.row_blocks(progress):
            codes = [codes[block] for codes, _ in bank.networks]
            best = self._best_codes(codes) if len(sets) == 2 else [binarize(codes[0])]
            for own, new in zip(sets, best, strict=True):
                own[block] = new.to(own.dtype)

    def _best_codes(self, codes: list[Tensor]) -> list[Tensor]:
        """Return the best of the four values of every bit of B and H."""
        total, difference = codes[0] + codes[1], codes[0] - codes[1]
        # Equal bits gain alpha |u + z| + gamma, different ones alpha |u - z| - gamma.
        gain = self.alpha * (total.abs() - difference.abs()) + 2 * self.gamma
        equal, apart = binarize(total), binarize(difference)
        return [torch.where(gain >= 0, equal, sign * apart) for sign in (1, -1)]

    def objective(self, bank: CodeBank) -> Tensor:
        return mean_over_bank(bank, self._discrete_terms)


def _sets(bank: CodeBank) -> list[Tensor]:
    """Return the binary codes of every network: B and H, or B alone."""
    if bank.query_binary_codes is None or len(bank.networks) == 1:
        return [bank.binary_codes]
    return [bank.query_binary_codes, bank.binary_codes]
