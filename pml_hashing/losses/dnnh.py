"""DNNH (Lai et al., CVPR 2015): the triplet ranking loss."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pml_hashing._checks import check_at_least
from pml_hashing.codes import at_least_float32
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._pair_terms import triplet_loss
from pml_hashing.losses._triplet_blocks import Penalty
from pml_hashing.pairs import IndicesTuple


class DNNHLoss(BaseHashingLoss):
    r"""Hinge on the distances of triplets, in bits, as in the paper.

    $$
    \ell(x, x^+, x^-) = \max\left(0,\; 1 + \lVert b - b^+ \rVert_2^2
        - \lVert b - b^- \rVert_2^2 \right), \qquad b \in [0, 1]^K
    $$

    where $b$, $b^+$ and $b^-$ are the codes of a sample, of one that shares a label with it, and of
    one that shares none. The codes $u$ of this library lie in $(-1, 1)^K$: with $b = (u + 1) / 2$,
    $\lVert b - b^+ \rVert^2 = \tfrac{1}{4} \lVert u - u^+ \rVert^2$, which is the Hamming distance
    where the codes are binary. The loss is the mean over all triplets of the batch, or of the batch
    and `ref_emb`.

    Args:
        margin: Bits by which the dissimilar sample shall be farther away than the similar one, 1 in
            the paper.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If `margin` is negative.

    Note: Differences from the paper
        The paper's divide-and-encode module, in which every bit has a slice of the features, a
        sigmoid, and a threshold that pushes it to 0 or 1, is a matter of the model: any that ends
        in a tanh works, and `QuantizationRegularizer` pushes to -1 and 1 (as
        `embedding_regularizer`). All triplets of the batch count, not a fixed list.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DNNHLoss
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> DNNHLoss()(codes, labels=torch.tensor([0, 0, 1]))  # (max(0, 1 + 1 - 2) + 1 + 1 - 1) / 2
        tensor(0.5000)

    References:
        Lai et al., [Simultaneous Feature Learning and Hash Coding with Deep Neural
        Networks](https://arxiv.org/abs/1504.03410), CVPR 2015: the triplet ranking loss.
    """

    def __init__(self, *, margin: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(margin, 0, "margin")
        self.margin = margin

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, ref_codes = at_least_float32(embeddings), at_least_float32(ref_emb)
        # -|u - v|^2 / 4 = (u, 1) (v / 2, -|v|^2 / 4)', less the part of u, which cancels out in a
        # triplet.
        lengths = ref_codes.square().sum(dim=1, keepdim=True)
        codes = torch.cat([codes, torch.ones_like(codes[:, :1])], dim=1)
        ref_codes = torch.cat([ref_codes / 2, -lengths / 4], dim=1)
        penalty = Penalty(self.margin, F.relu, _slope_of_relu)
        triplets = triplet_loss(self, codes, ref_codes, indices_tuple, labels, ref_labels, penalty)
        return {"triplet_loss": triplets}

    def _sub_loss_names(self) -> list[str]:
        return ["triplet_loss"]


def _slope_of_relu(x: Tensor) -> Tensor:
    return x.sign().relu()
