"""DADH (Li et al., 2019): two networks against each other and against learned codes."""

from typing import Any

from pml_hashing._checks import check_weights
from pml_hashing.code_bank import CodeBank
from pml_hashing.losses._classes import check_sizes
from pml_hashing.losses._discrete import DiscreteLoss
from pml_hashing.losses._similar_weight import SimilarWeight
from pml_hashing.losses.terms import BitBalance, InnerProduct, PairLikelihood, Quantization


class DADHLoss(DiscreteLoss):
    r"""Likelihood of pairs across two networks, and inner products of both with learned codes.

    Reconstructed: terms, weights and discrete step are those of a third party's code that says it
    follows the paper; the matrix form is ours.

    $$
    \begin{aligned}
    J = {} & \frac{1}{n^2 K^2} \Big[ \lVert U B^\top - K S \rVert^2
            + \lVert V B^\top - K S \rVert^2
            + \tau \sum_{i, j} w_{ij} \left( \log(1 + e^{\Theta_{ij}})
            - s_{ij} \Theta_{ij} \right) \\
        & \qquad + \eta \lVert U^\top 1 \rVert^2 + \eta \lVert V^\top 1 \rVert^2 \Big] \\
        & + \frac{\gamma}{n K^2} \left( \lVert U - B \rVert^2 + \lVert V - B \rVert^2 \right),
        \qquad \Theta_{ij} = \tfrac{1}{2} u_i^\top v_j, \quad B \in \{-1, 1\}^{n \times K}
    \end{aligned}
    $$

    where $U$ holds the codes $u_i = \tanh f(x_i)$ of the first network, $V$ those of the second
    (`ref_emb`), $B$ the learned codes (`binary_codes` of the code bank), $s_{ij}$ is 1 for similar
    samples and else 0, and $S_{ij}$ is 1 for similar samples and else $-r$, $r$ the number of
    similar pairs over that of dissimilar pairs. With one network, the terms of $V$ are absent and
    the likelihood is of all pairs of different samples of $U$.
    The weights $w_{ij}$ of the pairs, ours, have a mean of 1 (`similar_weight`).

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
        likelihood_weight: Weight $\tau$ of the likelihood.
        quantization_weight: Weight $\gamma$ of the quantization: the paper's weight over $n$. The
            default is 100 at $n = 5{,}000$.
        balance_weight: Weight $\eta$ of the bit balance: ours; 10 in the third party's code. Inner
            products lose their scale as $r$ does, about as $1 / C$: with 10, balance outweighs them
            at 100 classes, and no class is told from another.
        soft_similarity: Dissimilar pairs have $S_{ij} = -r$. If `False`, -1, with which bits become
            constant unless $\gamma$ is near $K$.
        similar_weight: Weight of a similar pair over that of a dissimilar one in each likelihood;
            all are scaled to a mean of 1. `"balanced"`, ours: the number of dissimilar pairs over
            that of similar ones, in the data set or, in mini-batch mode, in the batch. 1: that of
            the third party.
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with in the likelihood; at least $n$: all. 0: those of the batch.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of `DiscreteLoss` (`sweeps`, `class_codes`, `seed`), and of PML's losses
            (`reducer`, `embedding_regularizer`, ...).

    Raises:
        ValueError: If a weight is negative, `similar_weight` is not positive, `sweeps` is less than
            1, or the code bank is of other classes or bits.

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
        >>> DADHLoss(num_classes=2, code_length=8, quantization_weight=0, likelihood_weight=64)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # 1 + ln 2
        tensor(1.6931)

    References:
        Li et al., [Dual Asymmetric Deep Hashing Learning](https://arxiv.org/abs/1801.08360), IEEE
        Access 7, 2019. Equations: after the code of a third party.
    """

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        likelihood_weight: float = 10.0,
        quantization_weight: float = 0.02,
        balance_weight: float = 1.0,
        soft_similarity: bool = True,
        similar_weight: SimilarWeight = "balanced",
        bank_samples: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        check_sizes(num_classes, code_length)
        check_weights(
            likelihood_weight=likelihood_weight,
            quantization_weight=quantization_weight,
            balance_weight=balance_weight,
        )
        terms = {
            "inner_product": (1.0, InnerProduct(soft_similarity)),
            "likelihood": (
                likelihood_weight / code_length**2,
                PairLikelihood(bank_samples, similar_weight=similar_weight),
            ),
            "quantization": (quantization_weight / code_length, Quantization()),
            "balance": (balance_weight / code_length, BitBalance()),
        }
        super().__init__(num_classes, code_length, terms, code_bank=code_bank, **kwargs)
