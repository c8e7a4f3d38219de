"""Bi-half Net (Li and van Gemert, AAAI 2021): features' similarity in bits that halve a batch."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pml_hashing._checks import check, check_at_least, check_codes, require_labels
from pml_hashing.codes import at_least_float32
from pml_hashing.losses._base import BaseHashingLoss, LossDict, codes_of_networks
from pml_hashing.pairs import IndicesTuple


class BiHalfLoss(BaseHashingLoss):
    r"""Similarity of features kept by bits that halve every batch. Needs no labels.

    With the gradient of the paper:

    $$
    \mathcal{L} = \frac{1}{n (n - 1)} \sum_{i \ne j} \left(
        \cos(b_i, b_j) - \cos(x_i, x_j) \right)^2, \qquad
    \frac{\partial \mathcal{L}}{\partial u_{ik}} := \frac{\partial \mathcal{L}}{\partial b_{ik}}
        + \frac{\gamma}{n K} (u_{ik} - b_{ik})
    $$

    where $u_i \in \mathbb{R}^K$ is the code of sample $i$ in a batch of $n$, and $x_i$ are features
    of it, such as those of a frozen backbone, which stay as they are. The bits $b$ are those in
    balance that the codes are nearest to, an optimal transport: of each bit, $b_{ik} = 1$ for the
    half of the batch with the largest $u_{ik}$, and -1 for the other. In an odd batch the sample in
    the middle has the sign of its own code. When images are encoded, bits are signs as ever.

    The gradient's second part is that of a second sub-loss: `similarity_loss` is $\mathcal{L}$, a
    mean over $j$ for each sample, through which the gradient passes from bits to codes unchanged,
    and `transport_loss` is $\frac{\gamma}{2 K} \lVert u_i - b_i \rVert^2$, with $b$ constant.

    **Labels name the features**: where others have the class of a sample, this has the row of its
    features, as `IndexedDataset` gives it. So it works in any loop and in PML's trainers, and rows
    may also be of classes, such as vectors of their names; of a sample with several labels, their
    sum.

    Args:
        features: $x$, any floating dtype, `(num_rows, num_features)`. **Center them, or better
            standardize each over the data set**: cosines of features that are all positive are all
            positive, which those of balanced bits cannot be. They are no part of the state.
        gamma: $\gamma$, the pull of codes to their bits. The default is that of the authors' code.
            Without it, bits do not become balanced signs, and codes are of little use.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        TypeError: If `features` are no tensor.
        ValueError: If `features` are not floating, or of another shape, or `gamma` is negative.

    Note: Differences from the paper
        The authors compare each sample of the first half of a batch with one of the second; here
        all pairs are compared, which is the same on average. Two networks (`ref_emb`, codes of the
        same samples) are ours: each $b_i$ is compared with all those of the second network.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import BiHalfLoss
        >>> loss_func = BiHalfLoss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> codes = torch.tensor([[0.5, 0.9], [0.1, -1.0]])  # bits 1 1 and -1 -1, a cosine of -1
        >>> loss_func(codes, torch.tensor([0, 1]))  # 1 + 6 / 8 * (0.25 + 0.01 + 1.21)
        tensor(2.1025)

        Labels are the rows of the samples, which `IndexedDataset` gives:

        >>> from torch.utils.data import DataLoader
        >>> from pml_hashing.datasets import IndexedDataset
        >>> features = torch.randn(64, 20)
        >>> loader = DataLoader(IndexedDataset(features), batch_size=32, shuffle=True)
        >>> layer, loss_func = torch.nn.Linear(20, 16), BiHalfLoss(features)
        >>> [loss_func(layer(batch), rows).shape for batch, rows in loader]
        [torch.Size([]), torch.Size([])]

    References:
        Li and van Gemert, [Deep Unsupervised Image Hashing by Maximizing Bit
        Entropy](https://doi.org/10.1609/aaai.v35i3.16296), AAAI 2021; their
        [code](https://github.com/liyunqianggyn/Deep-Unsupervised-Image-Hashing).
    """

    of_pairs = False
    features: Tensor

    def __init__(self, features: Tensor, *, gamma: float = 6.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_codes(features, "features")
        check(features.is_floating_point(), "floating `features`", features.dtype)
        check_at_least(gamma, 0, "gamma")
        self.gamma = gamma
        self.register_buffer("features", features.detach(), persistent=False)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes = torch.stack(codes_of_networks(embeddings, ref_emb))
        features = self._features_of(labels).to(codes)
        bits = torch.stack([halves(u) for u in codes.detach()])
        binary_codes = bits + (codes - codes.detach())  # of the bits' value, with a gradient of 1
        errors = cosines(binary_codes[0], binary_codes[-1]) - cosines(features, features)
        if len(codes) == 1:  # no sample is compared with itself
            errors = errors.fill_diagonal_(0)
        num_others = max(1, len(embeddings) - (len(codes) == 1))
        transport = (codes - bits).square().mean(dim=2).sum(dim=0)
        return {
            "similarity_loss": self.element_loss(errors.square().sum(dim=1) / num_others),
            "transport_loss": self.element_loss(self.gamma / 2 * transport),
        }

    def _features_of(self, labels: Tensor | None) -> Tensor:
        """Return the features of a batch, from where they lie: all of them may be large."""
        labels = require_labels(labels, num_classes=len(self.features)).to(self.features.device)
        if labels.ndim == 1:
            return self.features[labels.long()]
        features = at_least_float32(self.features)
        return labels.to(features.dtype) @ features

    def _sub_loss_names(self) -> list[str]:
        return ["similarity_loss", "transport_loss"]


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of each row of the one with each of the other, 0 of a row of zeros."""
    return F.normalize(left) @ F.normalize(right).T


def halves(codes: Tensor) -> Tensor:
    """Return bits of a batch in balance: 1 for the half with the largest values of each, else -1.

    Equal values are told apart by their place.

    Args:
        codes: `(n, code_length)`.

    Returns:
        Values -1 and 1, as `codes`. If `n` is odd, the row in the middle has the sign of its code.
    """
    n = len(codes)
    ranks = codes.argsort(dim=0, stable=True).argsort(dim=0)
    above = 2 * ranks - (n - 1)  # negative for the lower half, 0 for the middle of an odd batch
    is_set = torch.where(above == 0, codes >= 0, above > 0)
    return torch.where(is_set, 1, -1).to(codes)
