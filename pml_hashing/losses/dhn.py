"""DHN (Zhu et al., AAAI 2016): a pairwise likelihood, and a smooth quantization."""

import math
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from pml_hashing._checks import check_at_least, check_positive
from pml_hashing.codes import at_least_float32
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._pair_terms import likelihood_losses
from pml_hashing.losses._similar_weight import SimilarWeight, check_similar_weight
from pml_hashing.pairs import IndicesTuple


class DHNLoss(BaseHashingLoss):
    r"""Likelihood of pairwise labels, and a smooth quantization.

    The formula is the paper's, with a weight $w_{ij}$ that is 1 there.

    $$
    \mathcal{C} = \sum_{s_{ij} \in \mathcal{S}} w_{ij} \left[
        \log\left(1 + e^{\alpha z_i^\top z_j}\right) - \alpha\, s_{ij}\, z_i^\top z_j \right]
        + \lambda \sum_{s_{ij} \in \mathcal{S}} \sum_{k=1}^{K} \left[
        \log\cosh(|z_{ik}| - 1) + \log\cosh(|z_{jk}| - 1) \right]
    $$

    where $z_i \in (-1, 1)^K$ is the code of sample $i$ (the tanh belongs to the model), $s_{ij}$ is
    1 if samples $i$ and $j$ share a label and 0 if not, $\mathcal{S}$ holds the pairs of the batch,
    or of the batch and `ref_emb`, and $\alpha = 1$. Computed as a mean over pairs, in two parts
    that add up to it (`pos_loss` and `neg_loss`), plus `quantization_weight` times a mean over the
    samples of the batch and their bits (`quantization_loss`).

    Args:
        quantization_weight: Weight of the quantization mean: $2 K \lambda$ in the paper's letters,
            who chose $\lambda$ by cross-validation. The default is that of common PyTorch code.
        alpha: Slope $\alpha$ of the sigmoid: 1 in the paper, 1/2 in common PyTorch code, where
            fewer pairs are saturated from the start.
        similar_weight: Weight $w_{ij}$ of a similar pair over that of a dissimilar one; all are
            scaled to a mean of 1. `"balanced"`, ours: the number of dissimilar pairs of
            $\mathcal{S}$ over that of similar ones. 1: the paper's.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If `quantization_weight` is negative, or `alpha` or `similar_weight` not
            positive.

    Note: Differences from the paper
        In the paper all pairs count alike: of 100 classes one in a hundred is similar, and the
        likelihood is won by pushing all codes apart. Sums are means. A sample is not paired with
        itself.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DHNLoss
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> DHNLoss()(codes, labels=torch.tensor([0, 0, 1]))  # log(1 + e^-2)
        tensor(0.1269)

    References:
        Zhu et al., [Deep Hashing Network for Efficient Similarity
        Retrieval](https://doi.org/10.1609/aaai.v30i1.10235), AAAI 2016: the pairwise cross-entropy
        loss and the smooth surrogate of the pairwise quantization loss.
    """

    def __init__(
        self,
        *,
        quantization_weight: float = 0.1,
        alpha: float = 1.0,
        similar_weight: SimilarWeight = "balanced",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(quantization_weight, 0, "quantization_weight")
        check_positive(alpha, "alpha")
        check_similar_weight(similar_weight)
        self.quantization_weight, self.alpha = quantization_weight, alpha
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
        errors = codes.abs() - 1
        # log cosh(x) = x + log(1 + e^(-2 x)) - log 2, which does not overflow for x >= -1.
        quantization = (errors + F.softplus(-2 * errors) - math.log(2)).mean(dim=1)
        quantization = self.quantization_weight * quantization
        codes = self.alpha * codes
        likelihood = likelihood_losses(
            self, codes, ref_codes, indices_tuple, labels, ref_labels, self.similar_weight
        )
        return {**likelihood, "quantization_loss": self.element_loss(quantization)}

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss", "quantization_loss"]
