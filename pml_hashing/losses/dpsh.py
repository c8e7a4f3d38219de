"""DPSH (Li et al., IJCAI 2016): the likelihood of pairwise labels, and quantization."""

from typing import Any

from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.codes import at_least_float32
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._pair_terms import likelihood_losses, quantization_losses
from pml_hashing.pairs import IndicesTuple, to_pairs


class DPSHLoss(BaseHashingLoss):
    r"""Likelihood of pairwise labels, and squared distance to the bits, as in the paper.

    $$
    \mathcal{J} = -\sum_{s_{ij} \in \mathcal{S}} \left( s_{ij} \Theta_{ij}
        - \log\left(1 + e^{\Theta_{ij}}\right) \right)
        + \eta \sum_{i=1}^{n} \lVert b_i - u_i \rVert_2^2, \qquad
    \Theta_{ij} = \tfrac{1}{2} u_i^\top u_j, \quad b_i = \operatorname{sign}(u_i)
    $$

    where $u_i \in \mathbb{R}^K$ is the code of sample $i$, $s_{ij}$ is 1 if samples $i$ and $j$
    share a label and 0 if not, and $\mathcal{S}$ holds the pairs of the batch, or of the batch and
    `ref_emb`. Computed as a mean over pairs, in two parts that add up to it (`pos_loss` and
    `neg_loss`, similar and dissimilar pairs), plus `quantization_weight` times a mean over samples
    and bits (`quantization_loss`, of the batch only). The codes need no tanh: quantization bounds
    them.

    Args:
        quantization_weight: Weight of the quantization mean: $\eta$ becomes
            $\eta\, n K / |\mathcal{S}|$. The paper's $\eta = 10$ on CIFAR-10, with all pairs of its
            $n = 5000$ training samples, is 0.1 at 48 bits, and this is the default.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If `quantization_weight` is negative.

    Note: Differences from the paper
        It pairs the batch with the latest codes of the whole training set: give those as `ref_emb`
        and their labels as `ref_labels`. Sums are means. A sample is not paired with itself.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DPSHLoss
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> DPSHLoss()(codes, labels=torch.tensor([0, 0, 1]))  # log(1 + e^-1)
        tensor(0.3133)

    References:
        Li et al., [Feature Learning based Deep Supervised Hashing with Pairwise
        Labels](https://arxiv.org/abs/1511.03855), IJCAI 2016, Eq. (4).
    """

    def __init__(self, *, quantization_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(quantization_weight, 0, "quantization_weight")
        self.quantization_weight = quantization_weight

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        pairs = to_pairs(indices_tuple, labels, ref_labels)
        codes, ref_codes = at_least_float32(embeddings), at_least_float32(ref_emb)
        quantization = self.quantization_weight * quantization_losses(codes)
        return {
            **likelihood_losses(self, codes @ ref_codes.T / 2, pairs),
            "quantization_loss": self.element_loss(quantization),
        }

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss", "quantization_loss"]
