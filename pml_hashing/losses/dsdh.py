"""DSDH (Li et al., 2017): the likelihood of pairs, and codes that classify linearly."""

from typing import Any

from pml_hashing._checks import check_weights
from pml_hashing.code_bank import CodeBank
from pml_hashing.losses._discrete import DiscreteLoss
from pml_hashing.losses._similar_weight import SimilarWeight
from pml_hashing.losses.terms import DualRegression, PairLikelihood, Quantization


class DSDHLoss(DiscreteLoss):
    r"""Likelihood of pairs of codes that are drawn to learned codes, which a linear map classifies.

    As in the paper, up to the weights of the pairs and the scale of each term, which is that of the
    network's loss in the code of a third party:

    $$
    \begin{aligned}
    J = {} & \frac{1}{n (n - 1)} \sum_{i \ne j} w_{ij} \left( \log(1 + e^{\Theta_{ij}})
            - s_{ij} \Theta_{ij} \right) + \frac{\mu}{n} \lVert Y - B W \rVert^2 \\
        & + \frac{\nu}{n} \lVert W \rVert^2 + \frac{\eta}{n K} \lVert B - U \rVert^2,
        \qquad \Theta_{ij} = \tfrac{1}{2} u_i^\top u_j
    \end{aligned}
    $$

    over the network, $B \in \{-1, 1\}^{n \times K}$ and $W \in \mathbb{R}^{K \times C}$, where $U$
    holds the network's codes $u_i$, $B$ the learned codes (`binary_codes` of the code bank), $Y$
    the labels, and $s_{ij}$ is 1 for similar samples and else 0. The weights $w_{ij}$ of the pairs,
    ours, have a mean of 1 (`similar_weight`). The labels reach the network by the likelihood, and
    by $B$.

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
        regression_weight: Weight $\mu$ of the regression.
        ridge_penalty: Ridge penalty $\nu$, positive.
        quantization_weight: Weight $\eta$ of the quantization.
        similar_weight: Weight of a similar pair over that of a dissimilar one in each likelihood;
            all are scaled to a mean of 1. `"balanced"`, ours: the number of dissimilar pairs over
            that of similar ones, in the data set or, in mini-batch mode, in the batch. 1: that of
            the paper.
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with in the likelihood; at least $n$: all. 0: those of the batch.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of `DiscreteLoss` (`sweeps`, `class_codes`, `seed`), and of PML's losses
            (`reducer`, `embedding_regularizer`, ...).

    Raises:
        ValueError: If a weight is negative, `similar_weight` is not positive, `ridge_penalty` is
            not positive, `sweeps` is less than 1, or the code bank is of other classes or bits.

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
        >>> DSDHLoss(num_classes=2, code_length=8, regression_weight=0, quantization_weight=1)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # ln 2 + eta
        tensor(1.6931)

    References:
        Li et al., [Deep Supervised Discrete Hashing](https://arxiv.org/abs/1705.10999), NeurIPS
        2017.
    """

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        regression_weight: float = 0.01,
        ridge_penalty: float = 1.0,
        quantization_weight: float = 0.01,
        similar_weight: SimilarWeight = "balanced",
        bank_samples: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        check_weights(regression_weight=regression_weight, quantization_weight=quantization_weight)
        regression = DualRegression(
            regression_weight, ridge_penalty=ridge_penalty, inter_label="none"
        )
        terms = {
            "likelihood": (1.0, PairLikelihood(bank_samples, similar_weight=similar_weight)),
            "regression": (1.0, regression),
            "quantization": (quantization_weight, Quantization()),
        }
        super().__init__(num_classes, code_length, terms, code_bank=code_bank, **kwargs)
