"""DPSH (Li et al., IJCAI 2016): the likelihood of pairwise labels, and quantization."""

from typing import Any

from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.codes import at_least_float32
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._pair_terms import likelihood_losses, quantization_losses
from pml_hashing.losses._similar_weight import SimilarWeight, check_similar_weight
from pml_hashing.pairs import IndicesTuple


class DPSHLoss(BaseHashingLoss):
    r"""Likelihood of pairwise labels, and squared distance to the bits.

    The formula is the paper's, with a weight $w_{ij}$ that is 1 there.

    $$
    \mathcal{J} = -\sum_{s_{ij} \in \mathcal{S}} w_{ij} \left( s_{ij} \Theta_{ij}
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
        similar_weight: Weight $w_{ij}$ of a similar pair over that of a dissimilar one; all are
            scaled to a mean of 1. `"balanced"`, ours: the number of dissimilar pairs of
            $\mathcal{S}$ over that of similar ones. 1: the paper's.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If `quantization_weight` is negative, or `similar_weight` not positive.

    Note: Differences from the paper
        It pairs the batch with the latest codes of the whole training set: give those as `ref_emb`
        and their labels as `ref_labels`, or wrap the loss in `CrossBatchMemory`. Its pairs all
        count alike: of 100 classes one in a hundred is similar, and the likelihood is won by
        pushing all codes apart. Sums are means. A sample is not paired with itself.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DPSHLoss
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> DPSHLoss()(codes, labels=torch.tensor([0, 0, 1]))  # log(1 + e^-1), of both kinds
        tensor(0.3133)

    References:
        Li et al., [Feature Learning based Deep Supervised Hashing with Pairwise
        Labels](https://arxiv.org/abs/1511.03855), IJCAI 2016, Eq. (4).
    """

    def __init__(
        self,
        *,
        quantization_weight: float = 0.1,
        similar_weight: SimilarWeight = "balanced",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(quantization_weight, 0, "quantization_weight")
        check_similar_weight(similar_weight)
        self.quantization_weight = quantization_weight
        self.similar_weight: SimilarWeight = similar_weight

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, ref_codes = at_least_float32(embeddings), at_least_float32(ref_emb)
        quantization = self.quantization_weight * quantization_losses(codes)
        likelihood = likelihood_losses(
            self, codes / 2, ref_codes, indices_tuple, labels, ref_labels, self.similar_weight
        )
        return {**likelihood, "quantization_loss": self.element_loss(quantization)}

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss", "quantization_loss"]
