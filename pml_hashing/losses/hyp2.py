"""HyP² (Xu et al., ACM MM 2022): learned proxies, and pairs where several labels collide."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pml_hashing._checks import check_at_least
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._classes import batch_of_classes, check_sizes, unit
from pml_hashing.pairs import IndicesTuple


class HyP2Loss(BaseHashingLoss):
    r"""Cosines of codes with learned proxies of their classes, and of dissimilar codes.

    As in the authors' code.

    $$
    \mathcal{L} = \frac{\sum_{i, c} y_{ic} \left( 1 - \cos(u_i, p_c) \right)}{\sum_{i, c} y_{ic}}
        + \frac{\sum_{i, c} (1 - y_{ic}) \left[ \cos(u_i, p_c) - \zeta \right]_+}
               {\sum_{i, c} (1 - y_{ic})}
        + \beta\, \frac{\sum_{(i, j) \in \mathcal{D}} \left[ \cos(u_i, u_j) - \zeta \right]_+}
               {\lvert \mathcal{D} \rvert}
    $$

    where $u_i \in \mathbb{R}^K$ is the code of sample $i$, $y_i \in \{0, 1\}^C$ its labels,
    $p_c \in \mathbb{R}^K$ the proxy of class $c$, learned with the network (the parameter
    `proxies` of the loss, which needs an optimizer: `metric_loss_optimizer` in PML's trainers),
    and $\mathcal{D}$ the pairs of samples of the batch that share no label and have more than one
    each. The sub-losses are `pos_loss`, `neg_loss` and `pair_loss`; a term that is over no pair is
    0. Each is given per sample, scaled so that the mean over the batch is the term. Codes of a
    second network (`ref_emb`) add a loss of their own. Codes and proxies shorter than 0.001 are
    divided by that, not by their norm.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        threshold: Cosine $\zeta$ below which codes are far enough apart: 0 is a Hamming distance
            of $K / 2$. That of `proxy_threshold` if `None`, which is 0 for few classes.
        beta: Weight $\beta$ of the pairs.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a size is too small, `threshold` is no cosine, or `beta` is negative.

    Note: Differences from the paper
        The authors look $\zeta$ up in a table. All its values that are known to us are those of
        `proxy_threshold`; see there for the others.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import HyP2Loss
        >>> loss_func = HyP2Loss(2, 2)
        >>> loss_func.proxies.data = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
        >>> loss = loss_func(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        >>> loss.detach()  # (1 - 3 / 5) + (1 - 0)
        tensor(1.4000)

    References:
        Xu et al., [HyP² Loss: Beyond Hypersphere Metric Space for Multi-label Image
        Retrieval](https://arxiv.org/abs/2208.06866), ACM MM 2022; their
        [code](https://github.com/JerryXu0129/HyP2-Loss).
    """

    of_pairs = False

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        threshold: float | None = None,
        beta: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(num_classes, code_length)
        check_at_least(beta, 0, "beta")
        if threshold is None:
            threshold = proxy_threshold(num_classes, code_length)
        if not -1 <= threshold < 1:
            raise ValueError(f"Expected `threshold` of at least -1 and below 1, got {threshold}.")
        self.num_classes, self.code_length = num_classes, code_length
        self.threshold, self.beta = threshold, beta
        # Their length decides how fast they turn.
        proxies = torch.empty(num_classes, code_length)
        self.proxies = nn.Parameter(nn.init.kaiming_normal_(proxies, mode="fan_out"))

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, rows = batch_of_classes(self.proxies, embeddings, ref_emb, labels)
        codes, several = unit(codes), (rows.sum(dim=1) > 1).to(rows)
        of_classes = codes @ unit(self.proxies.to(codes)).T
        of_samples = codes @ codes.mT
        dissimilar = several * several[:, None] * (rows @ rows.T == 0)
        return {
            "pos_loss": self._mean(1 - of_classes, rows),
            "neg_loss": self._mean(F.relu(of_classes - self.threshold), 1 - rows),
            "pair_loss": self._mean(self.beta * F.relu(of_samples - self.threshold), dissimilar),
        }

    def _mean(self, losses: Tensor, weights: Tensor) -> dict[str, Any]:
        """Return one loss per sample, whose mean is that of `losses` weighted by `weights`."""
        share = len(weights) / weights.sum().clamp(min=1)
        return self.element_loss((losses * weights).sum(dim=(0, 2)) * share)

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss", "pair_loss"]


def proxy_threshold(num_classes: int, code_length: int) -> float:
    r"""Return the cosine of two codes that lie as far apart as so many codes can, at least 0.

    $$\zeta = \max\left(0,\; 1 - \frac{2 d}{K}\right), \quad
        d = \max \Big\{ d \text{ even} :
        \sum_{i=0}^{k - 1} \left\lceil \frac{d}{2^i} \right\rceil \le K \Big\},
        \quad k = \lceil \log_2 C \rceil$$

    The authors of HyP² read $1 - 2 d / K$ off a table by $K$ and $k$, where $d$ is the smallest
    distance of the best linear code known of $K$ bits with $2^k$ words. Griesmer's bound, which
    many such codes meet, is the sum above.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.

    Raises:
        ValueError: If a size is too small.

    Note: Reconstruction
        The table itself was not available to us. These values of it are known, and equal: 0 up to
        38 classes and 0.125 for 80 and 100 at 32 bits, 0.25 for 38 at 16 bits, 0.333 for 20 at 12
        bits. Where no code meets the bound, the table lies above by some $4 / K$. What it has
        where $1 - 2 d / K$ is negative, for up to 16 classes, is not known: here 0, as for 17.

    Examples:
        >>> from pml_hashing.losses.hyp2 import proxy_threshold
        >>> [proxy_threshold(num_classes, 32) for num_classes in (10, 21, 38, 80, 100)]
        [0.0, 0.0, 0.0, 0.125, 0.125]

    References:
        Griesmer, [A Bound for Error-Correcting Codes](https://doi.org/10.1147/rd.45.0532), IBM
        Journal of Research and Development 4, 1960.
    """
    check_sizes(num_classes, code_length)
    dimension = (num_classes - 1).bit_length()
    distance = 0  # then 1: two codes that are not the same
    while _griesmer_length(distance + 2, dimension) <= code_length:
        distance += 2
    return max(0.0, 1 - 2 * max(1, distance) / code_length)


def _griesmer_length(distance: int, dimension: int) -> int:
    """Return the least length of a linear code of so many dimensions with this distance."""
    return sum(-(-distance // 2**i) for i in range(dimension))
