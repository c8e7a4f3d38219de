"""HashNet (Cao et al., ICCV 2017): a pairwise likelihood, balanced between kinds of pair."""

from typing import Any

from pytorch_metric_learning.distances import BaseDistance, DotProductSimilarity
from torch import Tensor

from pml_hashing._checks import check_positive, require_labels
from pml_hashing.codes import at_least_float32
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._pair_blocks import Labels, losses_of_pairs, pair_sums, sums_of_logits
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
        if alpha is not None:
            check_positive(alpha, "alpha")
        self.alpha, self.label_overlap = alpha, label_overlap

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, ref_codes = at_least_float32(embeddings), at_least_float32(ref_emb)
        alpha = 10 / codes.shape[1] if self.alpha is None else self.alpha
        if indices_tuple is None and self.takes_means("pos_loss", "neg_loss"):
            return self._mean_losses(alpha, codes, ref_codes, Labels.of(labels, ref_labels))
        a1, p, a2, n = pairs = to_pairs(indices_tuple, labels, ref_labels)
        similar, dissimilar = losses_of_pairs(self._logits(alpha, codes, ref_codes), pairs)
        if self.label_overlap:
            rows, columns = require_labels(labels), require_labels(ref_labels, "ref_labels")
            similar = similar * _overlap(rows, columns).to(similar)[a1, p]
        return {
            "pos_loss": self.pair_loss(similar, (a1, p), "pos"),
            "neg_loss": self.pair_loss(dissimilar, (a2, n), "neg"),
        }

    def _logits(self, alpha: float, codes: Tensor, ref_codes: Tensor) -> Tensor:
        alpha = alpha if self.distance.is_inverted else -alpha  # the nearer, the more similar
        return alpha * self.distance(codes, ref_codes)

    def _mean_losses(
        self, alpha: float, codes: Tensor, ref_codes: Tensor, labels: Labels
    ) -> LossDict:
        """Return losses of the samples, whose means are those of all pairs of each kind."""
        weights = _overlap if self.label_overlap else None
        if _is_inner_product(self.distance):
            sums = pair_sums(alpha * codes, ref_codes, labels, pair_weights=weights)
        else:
            sums = sums_of_logits(self._logits(alpha, codes, ref_codes), labels, weights)
        similar = sums.similar * (len(codes) / sums.num_similar.sum().clamp(min=1))
        dissimilar = sums.dissimilar * (len(codes) / sums.num_dissimilar.sum().clamp(min=1))
        return {"pos_loss": self.element_loss(similar), "neg_loss": self.element_loss(dissimilar)}

    def get_default_distance(self) -> BaseDistance:  # pyright: ignore[reportIncompatibleMethodOverride]
        return DotProductSimilarity(normalize_embeddings=False)

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss"]


def _is_inner_product(distance: BaseDistance) -> bool:
    """Return whether a distance is nothing but the inner product of codes."""
    plain = type(distance) is DotProductSimilarity
    return plain and not distance.normalize_embeddings and distance.power == 1


def _overlap(rows: Tensor, columns: Tensor) -> Tensor:
    """Return intersection over union of the sets of labels of all pairs."""
    if rows.ndim == 1:
        return (rows[:, None] == columns).float()
    rows, columns = rows.float(), columns.float()
    both = rows @ columns.T
    either = rows.sum(dim=1)[:, None] + columns.sum(dim=1) - both
    return both / either.clamp(min=1)
