"""DTSH (Wang et al., ACCV 2016): the likelihood of triplet labels, and quantization."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pml_hashing._checks import check_at_least
from pml_hashing.codes import at_least_float32
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._pair_terms import quantization_losses, triplet_loss
from pml_hashing.losses._triplet_blocks import Penalty
from pml_hashing.pairs import IndicesTuple


class DTSHLoss(BaseHashingLoss):
    r"""Likelihood of triplet labels, and squared distance to the bits.

    The formula is the paper's, its constants are those of the authors' code.

    $$
    \begin{gathered}
    L = -\sum_{m=1}^{M} \left( \Theta_{q_m p_m} - \Theta_{q_m n_m} - \alpha
        - \log\left(1 + e^{\Theta_{q_m p_m} - \Theta_{q_m n_m} - \alpha}\right) \right)
        + \lambda \sum_{i=1}^{N} \lVert b_i - u_i \rVert_2^2, \\
    \Theta_{ij} = \tfrac{1}{2} u_i^\top u_j, \qquad b_i = \operatorname{sign}(u_i)
    \end{gathered}
    $$

    where $u_i \in \mathbb{R}^K$ is the code of sample $i$ and $(q_m, p_m, n_m)$ a triplet of the
    batch, or of the batch and `ref_emb`: a query, a sample that shares a label with it, and one
    that shares none. Computed as a mean over triplets (`triplet_loss`), plus `quantization_weight`
    times a mean over the samples of the batch and their bits (`quantization_loss`). The codes need
    no tanh: quantization bounds them.

    Args:
        margin: The margin $\alpha$. `code_length / 2`, as in the authors' code, if `None`.
        quantization_weight: Weight of the quantization mean: $\lambda$ becomes $\lambda N K / M$.
            The authors' code has $\lambda = 100$ and 22,500 triplets a query: 0.1 at 24 bits, and
            this is the default.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If `margin` or `quantization_weight` is negative.

    Note: Differences from the paper
        Sums are means. All triplets of the batch count; the authors' code draws triplets from the
        latest codes of the training set, which a miner, and `ref_emb`, can do.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DTSHLoss
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> DTSHLoss()(codes, labels=torch.tensor([0, 0, 1]))  # log(1 + e^-(1 + 1 - 1))
        tensor(0.3133)

    References:
        Wang et al., [Deep Supervised Hashing with Triplet Labels](https://arxiv.org/abs/1612.03900),
        ACCV 2016; authors' code, [Minione/DTSH](https://github.com/Minione/DTSH).
    """

    def __init__(
        self, *, margin: float | None = None, quantization_weight: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if margin is not None:
            check_at_least(margin, 0, "margin")
        check_at_least(quantization_weight, 0, "quantization_weight")
        self.margin, self.quantization_weight = margin, quantization_weight

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, ref_codes = at_least_float32(embeddings), at_least_float32(ref_emb)
        margin = codes.shape[1] / 2 if self.margin is None else self.margin
        # log(1 + e^x) - x = softplus(-x), for x the difference less the margin.
        penalty = Penalty(margin, F.softplus, torch.sigmoid)
        triplets = triplet_loss(
            self, codes / 2, ref_codes, indices_tuple, labels, ref_labels, penalty
        )
        quantization = self.quantization_weight * quantization_losses(codes)
        return {"triplet_loss": triplets, "quantization_loss": self.element_loss(quantization)}

    def _sub_loss_names(self) -> list[str]:
        return ["triplet_loss", "quantization_loss"]
