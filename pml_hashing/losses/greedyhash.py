"""GreedyHash (Su et al., NeurIPS 2018): a classifier of bits, trained through the sign."""

from typing import Any

import torch
from torch import Tensor, nn

from pml_hashing._checks import check_at_least
from pml_hashing.codes import straight_through_sign
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._classes import batch_of_classes, check_sizes, cross_entropy
from pml_hashing.pairs import IndicesTuple


class GreedyHashLoss(BaseHashingLoss):
    r"""Cross entropy of a linear classifier of the bits, and a cubic quantization.

    As in the authors' code.

    $$
    \mathcal{L} = \frac{1}{n} \sum_i \left[ - \frac{1}{\lvert y_i \rvert} \sum_c y_{ic} \log
        \frac{e^{w_c^\top b_i}}{\sum_k e^{w_k^\top b_i}}
        + \frac{\alpha}{K} \sum_k \bigl\lvert \lvert u_{ik} \rvert - 1 \bigr\rvert^3 \right],
    \qquad b_i = \operatorname{sign}(u_i), \quad \frac{\partial b_i}{\partial u_i} := I
    $$

    where $u_i \in \mathbb{R}^K$ is the code of sample $i$, $y_i \in \{0, 1\}^C$ its labels, and
    $w_c \in \mathbb{R}^K$ the weights of class $c$, which are learned with the network: they are
    a parameter of the loss, `class_weights`, and need an optimizer (`metric_loss_optimizer` in
    PML's trainers). The gradient passes through the sign as if nothing had been done. The first
    term is the sub-loss `class_loss`, of which a sample without labels has none, the second the
    `quantization_loss`. Codes of a second network (`ref_emb`) add a loss of their own.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        alpha: Weight $\alpha$ of the quantization. The authors use 0.1 on CIFAR-10, 1 on ImageNet.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a size is too small or `alpha` is negative.

    Note: Differences from the paper
        Several labels are ours: the authors' classifier has one. The codes have no tanh there,
        and need none here.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import GreedyHashLoss
        >>> loss_func = GreedyHashLoss(2, 2)
        >>> _ = loss_func.class_weights.data.zero_()
        >>> codes = torch.tensor([[2.0, 1.0]])
        >>> loss_func(codes, torch.tensor([0])).detach()  # log 2 + 0.1 * (1 + 0) / 2
        tensor(0.7431)

    References:
        Su et al., [Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN](
        https://papers.nips.cc/paper/2018/hash/13f3cf8c531952d72e5847c4183e6910-Abstract.html),
        NeurIPS 2018; their [code](https://github.com/ssppp/GreedyHash).
    """

    of_pairs = False

    def __init__(
        self, num_classes: int, code_length: int, *, alpha: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(num_classes, code_length)
        check_at_least(alpha, 0, "alpha")
        self.num_classes, self.code_length, self.alpha = num_classes, code_length, alpha
        # As torch's nn.Linear starts, which the authors use.
        weights = torch.empty(num_classes, code_length)
        self.class_weights = nn.Parameter(nn.init.uniform_(weights, -1, 1) / code_length**0.5)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, rows = batch_of_classes(self.class_weights, embeddings, ref_emb, labels)
        logits = straight_through_sign(codes) @ self.class_weights.to(codes).T
        cubes = (codes.abs() - 1).abs().pow(3).mean(dim=2)
        return {
            "class_loss": self.element_loss(cross_entropy(logits, rows)),
            "quantization_loss": self.element_loss(self.alpha * cubes.sum(dim=0)),
        }

    def _sub_loss_names(self) -> list[str]:
        return ["class_loss", "quantization_loss"]
