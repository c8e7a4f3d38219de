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
            of $K / 2$.
        beta: Weight $\beta$ of the pairs.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a size is too small, `threshold` is no cosine, or `beta` is negative.

    Note: Differences from the paper
        The authors look $\zeta$ up, by $K$ and $\log_2 C$, in a table of how far apart binary
        codes can lie, which was not available to us. It should be above 0 where there are far
        more classes than bits.

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
        threshold: float = 0.0,
        beta: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(num_classes, code_length)
        check_at_least(beta, 0, "beta")
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
