"""OrthoHash (Hoe et al., NeurIPS 2021): the cosine of codes and orthogonal hash centers."""

from typing import Any

from torch import Tensor

from pml_hashing._checks import check_at_least, check_positive
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._classes import (
    Assignment,
    ClassCodes,
    batch_of_classes,
    codes_of_classes,
    margin_cosine_losses,
)
from pml_hashing.pairs import IndicesTuple


class OrthoHashLoss(BaseHashingLoss):
    r"""Cross entropy of the cosines between a code and the hash centers, with a margin.

    As in the authors' code.

    $$
    \mathcal{L} = - \frac{1}{n} \sum_i \frac{1}{\lvert y_i \rvert} \sum_c y_{ic} \log
        \frac{e^{s (\cos(u_i, c_c) - m\, y_{ic})}}{\sum_k e^{s (\cos(u_i, c_k) - m\, y_{ik})}}
    $$

    where $u_i \in \mathbb{R}^K$ is the code of sample $i$, $y_i \in \{0, 1\}^C$ its labels, and
    $c_c \in \{-1, 1\}^K$ the hash center of class $c$. A cosine of 1 with a binary code leaves no
    quantization error, so that no second term is needed. A sample without labels adds nothing.
    Codes of a second network (`ref_emb`) add a loss of their own. Codes shorter than 0.001 are
    divided by that, not by their norm.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        scale: Scale $s$ of the cosines.
        margin: Margin $m$. The authors use 0.3 on CIFAR-10.
        class_codes: `"spread"`: the hash centers are those of `pml_hashing.centers.hash_centers`.
            `"assigned"`: confused classes get near ones of these, by `use_features`, which the
            trainers call. Or hash centers of your own, -1 and 1, `(num_classes, code_length)`, such
            as those of `semantic_centers` there.
        seed: Seed of the hash centers.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a size is too small, `scale` is not positive, the margin is negative, or
            `class_codes` are no binary codes of that shape.

    Note: Differences from the paper
        The authors' code draws every bit of a center at random, so that centers are orthogonal
        only in expectation. The hash layer it trains ends in batch normalization, without a tanh:
        that belongs to the model.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import OrthoHashLoss
        >>> centers = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> loss_func = OrthoHashLoss(2, 2, scale=1, margin=0, class_codes=centers)
        >>> loss_func(torch.tensor([[3.0, 3.0]]), torch.tensor([0]))  # cosines 1, 0: log(1 + 1/e)
        tensor(0.3133)

    References:
        Hoe et al., [One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning
        Objective](https://arxiv.org/abs/2109.14449), NeurIPS 2021; their
        [code](https://github.com/kamwoh/orthohash).
    """

    of_pairs = False
    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        scale: float = 8.0,
        margin: float = 0.2,
        class_codes: ClassCodes = "spread",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(scale, "scale")
        check_at_least(margin, 0, "margin")
        centers = codes_of_classes(class_codes, num_classes, code_length, seed)
        self.num_classes, self.code_length = num_classes, code_length
        self.scale, self.margin = scale, margin
        self.add_to_recordable_attributes(list_of_names=["scale", "margin"], is_stat=False)
        self.register_buffer("class_codes", centers)
        self.assignment = Assignment(class_codes, seed)

    @property
    def wants_features(self) -> bool:
        return self.assignment.is_open

    def use_features(self, features: Tensor, labels: Tensor) -> None:
        self.assignment.make(self.class_codes, features, labels)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, rows = batch_of_classes(self.class_codes, embeddings, ref_emb, labels)
        losses = margin_cosine_losses(codes, self.class_codes, rows, self.scale, self.margin)
        return {"loss": self.element_loss(losses)}
