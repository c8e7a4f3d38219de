"""DFH (Li et al., BMVC 2019): pairs with a margin, and binary centers that lie far apart."""

from typing import Any, cast

from torch import Tensor

from pml_hashing._checks import check_weights
from pml_hashing.code_bank import CodeBank
from pml_hashing.losses._classes import ClassCodes, codes_with_tie_code
from pml_hashing.losses._discrete import DiscreteLoss
from pml_hashing.losses._similar_weight import SimilarWeight
from pml_hashing.losses.terms import FisherCenters, PairLikelihood, Quantization


class DFHLoss(DiscreteLoss):
    r"""Likelihood of pairs with a margin, and codes drawn to centers of their classes.

    The terms are those of the authors' code, put together in one objective by us:

    $$
    \begin{aligned}
    J = {} & \frac{1}{|\mathcal{S}|} \sum_{(i, j) \in \mathcal{S}} w_{ij} \left[
            s_{ij} \log\left(1 + e^{m - \Theta_{ij}}\right)
            + (1 - s_{ij}) \log\left(1 + e^{m + \Theta_{ij}}\right) \right] \\
        & + \frac{\eta}{nK} \lVert B - U \rVert^2
        + \eta \mu \left[ \frac{1}{nK} \lVert B - Y C \rVert^2
            + \frac{\nu}{c^2} \sum_{a \ne b} \left(\tfrac{1}{K} c_a^\top c_b + 1\right)^2 \right]
    \end{aligned}
    $$

    over the network, $B \in \{-1, 1\}^{n \times K}$ and $C \in \{-1, 1\}^{c \times K}$, where $U$
    holds the network's codes $u_i$, $\Theta_{ij} = \frac{1}{2} u_i^\top u_j$, $s_{ij}$ is 1 for
    similar samples and else 0, $\mathcal{S}$ holds the pairs of the batch, $Y$ the labels of $c$
    classes, and $c_a$, the rows of $C$, are the centers: samples close to their own, and centers
    far from each other, are the two sides of Fisher's discriminant. The weights $w_{ij}$ of the
    pairs have a mean of 1 (`similar_weight`).

    *Mini-batch mode*: the samples are those of the batch. Its classes are too few to place centers
    by: these are codes that lie far apart, and $B = \operatorname{sign}(U + \mu Y C)$. *Data-set
    mode*: the samples are those of a `CodeBank`, which keeps $C$; `update_codes` improves one
    center after the other, bit by bit, then solves for $B$. The objective that it returns is
    without the pairs: no learned code stands in them.

    Sub-losses: `likelihood_loss`, `quantization_loss`, `center_loss` (constant in the network: it
    shapes $B$).

    Args:
        num_classes: Number of classes $c$.
        code_length: Number of bits $K$.
        margin: The margin $m$. The authors' script has it switched off; 3 is that of common PyTorch
            code.
        quantization_weight: Weight $\eta$ of the quantization, as in the authors' script.
        center_weight: Weight $\mu$ of the centers, as in the authors' script.
        separation_weight: Weight $\nu$ of their distances, not negative: ours.
        similar_weight: Weight of a similar pair over that of a dissimilar one in each likelihood;
            all are scaled to a mean of 1. `"balanced"`, ours: the number of dissimilar pairs over
            that of similar ones, in the data set or, in mini-batch mode, in the batch. 1: that of
            the authors' code.
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with; at least $n$: all. 0: those of the batch.
        sweeps: Sweeps over the bits of each center in a discrete step.
        class_codes: Centers to start from, as for `DiscreteLoss`.
        seed: Seed of the centers to start from, where none are given.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a weight is negative, `similar_weight` is not positive, `sweeps` is less than
            1, or the code bank is of other classes or bits.

    Note: Differences from the authors' code
        It solves for relaxed centers in every batch, by 200 steps of gradient descent from the
        last ones, and takes their signs. It does not divide the products of centers by $K$: its
        $\nu = 1$ is $K^2$ here. It pairs the batch with the latest codes of all samples. With codes
        of a second network (`ref_emb`), $\Theta_{ij} = \frac{1}{2} u_i^\top v_j$ for all $i, j$ and
        $B$ is drawn to both.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DFHLoss
        >>> codes = torch.zeros(4, 8)  # every pair has probability ½
        >>> DFHLoss(num_classes=2, code_length=8, margin=0, quantization_weight=1, center_weight=0)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # ln 2 + eta
        tensor(1.6931)

    References:
        Li et al., [Push for Quantization: Deep Fisher Hashing](https://arxiv.org/abs/1909.00206),
        BMVC 2019; authors' code,
        [liyunqianggyn/Push-for-Quantization-Deep-Fisher-Hashing](https://github.com/liyunqianggyn/Push-for-Quantization-Deep-Fisher-Hashing).
    """

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        margin: float = 3.0,
        quantization_weight: float = 0.5,
        center_weight: float = 1.0,
        separation_weight: float = 1.0,
        similar_weight: SimilarWeight = "balanced",
        bank_samples: int = 0,
        sweeps: int = 1,
        class_codes: ClassCodes = "spread",
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        check_weights(quantization_weight=quantization_weight, center_weight=center_weight)
        # Those that the binary codes start from.
        first = codes_with_tie_code(class_codes, num_classes, code_length, seed)[:-1]
        centers = FisherCenters(first, separation_weight, sweeps)
        terms = {
            "likelihood": (
                1.0,
                PairLikelihood(bank_samples, margin=margin, similar_weight=similar_weight),
            ),
            "quantization": (quantization_weight, Quantization()),
            "center": (quantization_weight * center_weight, centers),
        }
        super().__init__(
            num_classes,
            code_length,
            terms,
            class_codes=class_codes,
            seed=seed,
            code_bank=code_bank,
            **kwargs,
        )

    def use_features(self, features: Tensor, labels: Tensor) -> None:
        super().use_features(features, labels)
        cast(FisherCenters, self.terms["center"]).first_centers.copy_(self.class_codes[:-1])
