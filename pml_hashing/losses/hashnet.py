"""HashNet (Cao et al., ICCV 2017): a pairwise likelihood, balanced between kinds of pair."""

from typing import Any

from pytorch_metric_learning.distances import BaseDistance, DotProductSimilarity
from torch import Tensor
from torch.nn import functional as F

from pml_hashing._checks import require_labels
from pml_hashing.codes import at_least_float32
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.pairs import IndicesTuple, to_pairs


class HashNetLoss(BaseHashingLoss):
    r"""Weighted negative log-likelihood of the similarity of pairs, as in the paper.

    $$
    \mathcal{L} = \frac{1}{|\mathcal{S}|} \sum_{(i, j) \in \mathcal{S}} w_{ij} \left[
        \log\left(1 + e^{\alpha h_i^\top h_j}\right) - \alpha\, s_{ij}\, h_i^\top h_j
    \right], \qquad
    w_{ij} = \frac{c_{ij}\, |\mathcal{S}|}{|\{(k, l) \in \mathcal{S} : s_{kl} = s_{ij}\}|}
    $$

    where $h_i \in (-1, 1)^K$ is the code of sample $i$, $s_{ij}$ is 1 if samples $i$ and $j$ share
    a label and 0 if not, and $\mathcal{S}$ holds the pairs of the batch, or of the batch and
    `ref_emb`. $c_{ij} = 1$ unless `label_overlap` is set. The weights make this one mean over
    similar pairs (`pos_loss`) plus one over dissimilar pairs (`neg_loss`), which is how it is
    computed. The tanh that bounds the codes, and its growing slope, belong to the model: see
    `models.TanhContinuation`.

    Args:
        alpha: Slope $\alpha$ of the sigmoid. `10 / code_length`, as in the authors' code, if
            `None`.
        label_overlap: Weigh similar pairs by $c_{ij} = |y_i \cap y_j| / |y_i \cup y_j|$ of their
            sets of labels, as in the paper; the authors' code does not.
        **kwargs: Arguments of PML's losses: `distance` in place of $h_i^\top h_j$ (of one not
            inverted, the negative); `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If `alpha` is not positive.

    Note: Differences from the paper
        $c_{ij}$ of Eq. (2) is 1 by default, as in the authors' PyTorch code, and always for
        dissimilar pairs: they have no label in common, and would not count at all. A sample is not
        paired with itself.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import HashNetLoss
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> HashNetLoss(alpha=1.0)(codes, labels=torch.tensor([0, 0, 1]))  # 2 log(1 + e^-2)
        tensor(0.2539)

    References:
        Cao et al., [HashNet: Deep Learning to Hash by Continuation](https://arxiv.org/abs/1702.00758),
        ICCV 2017, Eq. (2) and (4).
    """

    def __init__(
        self, *, alpha: float | None = None, label_overlap: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if alpha is not None and not alpha > 0:
            raise ValueError(f"Expected a positive `alpha`, got {alpha}.")
        self.alpha, self.label_overlap = alpha, label_overlap

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        a1, p, a2, n = to_pairs(indices_tuple, labels, ref_labels)
        alpha = 10 / embeddings.shape[1] if self.alpha is None else self.alpha
        alpha = alpha if self.distance.is_inverted else -alpha  # the nearer, the more similar
        logits = alpha * self.distance(at_least_float32(embeddings), at_least_float32(ref_emb))
        # softplus(x) = log(1 + e^x), without overflow; softplus(x) - x = softplus(-x).
        similar, dissimilar = F.softplus(-logits[a1, p]), F.softplus(logits[a2, n])
        if self.label_overlap:
            similar = similar * _overlap(labels, ref_labels, similar)[a1, p]
        return {
            "pos_loss": self.pair_loss(similar, (a1, p), "pos"),
            "neg_loss": self.pair_loss(dissimilar, (a2, n), "neg"),
        }

    def get_default_distance(self) -> BaseDistance:
        return DotProductSimilarity(normalize_embeddings=False)

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss"]


def _overlap(labels: Tensor | None, ref_labels: Tensor | None, like: Tensor) -> Tensor:
    """Return intersection over union of the sets of labels of all pairs."""
    rows, columns = require_labels(labels), require_labels(ref_labels, "ref_labels")
    if rows.ndim == 1:
        return (rows[:, None] == columns).to(like)
    rows, columns = rows.to(like), columns.to(like)
    both = rows @ columns.T
    either = rows.sum(dim=1)[:, None] + columns.sum(dim=1) - both
    return both / either.clamp(min=1)
