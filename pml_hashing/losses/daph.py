"""DAPH (Shen et al., 2017): two networks, with a set of learned codes each."""

from typing import Any

import torch
from torch import Tensor

from pml_hashing._checks import check_weights
from pml_hashing.code_bank import CodeBank, Variables
from pml_hashing.codes import binarize_unchecked
from pml_hashing.losses._discrete import DiscreteLoss
from pml_hashing.losses._similar_weight import SimilarWeight
from pml_hashing.losses.terms import Batch, BitBalance, BitDecorrelation, PairLikelihood, Term

FIRST = "first_network"
"""What the binary codes of the first network are kept under in a bank."""


class DAPHLoss(DiscreteLoss):
    r"""Likelihood of pairs across two networks, each of which is drawn to codes of its own.

    Terms as in the code of a third party, which says it is not complete; scales are ours.

    $$
    \begin{aligned}
    J = {} & \frac{1}{n^2} \sum_{i, j} w_{ij}
            \left( \log(1 + e^{\Theta_{ij}}) - s_{ij} \Theta_{ij} \right)
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
    The weights $w_{ij}$ of the pairs, ours, have a mean of 1 (`similar_weight`).

    *Mini-batch mode*: the samples are those of the batch, and $B$ and $H$ are solved for in every
    call. *Data-set mode*: they are those of a `CodeBank`, whose `binary_codes` are $H$, the
    codes to search in; $B$ are the `query_binary_codes` of the loss (with one network, the bank's
    are $B$). `update_codes`
    sets them to the best of all. Balance and decorrelation are those of the whole data set, at a
    cost that does not grow with $n$. The likelihood is estimated from the pairs of the batch, or
    from those with `bank_samples` samples of the bank. The objective that `update_codes` returns is
    without it: no learned code stands in it.

    Sub-losses: `likelihood_loss`, `quantization_loss`, `agreement_loss` (that of $\gamma$, constant
    in the networks), `decorrelation_loss`, `balance_loss`.

    Args:
        num_classes: Number of classes.
        code_length: Number of bits $K$.
        quantization_weight: Weight $\alpha$ of the quantization.
        agreement_weight: Weight $\gamma$ of the difference of the two sets of codes.
        decorrelation_weight: Weight $\lambda$ of the decorrelation of the bits.
        balance_weight: Weight $\beta$ of the bit balance. Ours: the third party has 0.01, on
            squared sums over the samples, which is $0.01\, n^2$ here.
        similar_weight: Weight of a similar pair over that of a dissimilar one in each likelihood;
            all are scaled to a mean of 1. `"balanced"`, ours: the number of dissimilar pairs over
            that of similar ones, in the data set or, in mini-batch mode, in the batch. 1: that of
            the third party.
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with in the likelihood; at least $n$: all. 0: those of the batch.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of `DiscreteLoss` (`class_codes`, `seed`), and of PML's losses
            (`reducer`, `embedding_regularizer`, ...).

    Raises:
        ValueError: If a weight is negative, `similar_weight` is not positive, or the code bank is
            of other classes or bits.

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
        >>> DAPHLoss(num_classes=2, code_length=8, decorrelation_weight=0)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # ln 2 + alpha
        tensor(10.6931)

    References:
        Shen et al., [Deep Asymmetric Pairwise Hashing](http://cfm.uestc.edu.cn/~fshen/DAPH.pdf),
        ACM Multimedia 2017. Equations: after the code of a third party.
    """

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        quantization_weight: float = 10.0,
        agreement_weight: float = 10.0,
        decorrelation_weight: float = 0.01,
        balance_weight: float = 1.0,
        similar_weight: SimilarWeight = "balanced",
        bank_samples: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        check_weights(
            quantization_weight=quantization_weight,
            agreement_weight=agreement_weight,
            decorrelation_weight=decorrelation_weight,
            balance_weight=balance_weight,
        )
        terms = {
            "likelihood": (1.0, PairLikelihood(bank_samples, similar_weight=similar_weight)),
            "quantization": (quantization_weight, OwnQuantization()),
            "agreement": (agreement_weight, Agreement()),
            "decorrelation": (decorrelation_weight, BitDecorrelation()),
            "balance": (balance_weight, BitBalance()),
        }
        super().__init__(num_classes, code_length, terms, code_bank=code_bank, **kwargs)

    @property
    def query_binary_codes(self) -> Tensor | None:
        """The codes $B$ of the first network, int8 `(n, code_length)`; `None` without a bank."""
        return None if self.code_bank is None else _first_codes(self.code_bank)

    def improve_codes(self, bank: CodeBank, progress: bool = False) -> None:
        first = bank.binary_codes.clone()
        for block in bank.row_blocks(progress):
            codes, held = [codes[block] for codes in bank.networks], bank.binary_codes[block]
            best = self._best_codes(codes, held) if len(codes) == 2 else [_signs(codes[0], held)]
            first[block], bank.binary_codes[block] = (b.to(torch.int8) for b in (best[0], best[-1]))
        if len(bank.networks) == 2:
            bank.keep(FIRST, {"binary_codes": first}, "binary_codes")

    def _best_codes(self, codes: list[Tensor], held: Tensor) -> list[Tensor]:
        """Return the best of the four values of every bit of B and H; of equals, those of H."""
        total, difference = codes[0] + codes[1], codes[0] - codes[1]
        # Equal bits gain alpha |u + z| + gamma, different ones alpha |u - z| - gamma.
        alpha, gamma = self.weights["quantization"], self.weights["agreement"]
        gain = alpha * (total.abs() - difference.abs()) + 2 * gamma
        equal, apart = _signs(total, held), binarize_unchecked(difference)
        return [torch.where(gain >= 0, equal, sign * apart) for sign in (1, -1)]


class Agreement(Term):
    r"""The squared distance of the two binary codes of a sample, per bit."""

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        first = _of_first(batch)
        return (first - batch.binary_codes).square().sum(dim=1) / first.shape[1]


class OwnQuantization(Term):
    """The squared distance of the codes of each network to its own binary codes, per bit."""

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        squares = (batch.codes[0] - _of_first(batch)).square().sum(dim=1)
        if len(batch.codes) == 2:
            squares = squares + (batch.codes[1] - batch.binary_codes).square().sum(dim=1)
        return squares / batch.bank.code_length


def _signs(codes: Tensor, held: Tensor) -> Tensor:
    """Return the signs of codes; of 0, as of a sample that no network has had, what is held."""
    return torch.where(codes == 0, held.to(codes), binarize_unchecked(codes))


def _first_codes(bank: CodeBank) -> Tensor:
    """Return the binary codes of the first network: those of the bank until they part."""
    return bank.variables(FIRST).get("binary_codes", bank.binary_codes)


def _of_first(batch: Batch) -> Tensor:
    """Return the binary codes of a batch that its first network is drawn to."""
    return _first_codes(batch.bank)[batch.rows].to(batch.codes[0].dtype)
