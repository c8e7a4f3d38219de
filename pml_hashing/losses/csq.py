"""CSQ (Yuan et al., CVPR 2020): every code is driven to the hash center of its classes."""

from typing import Any

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.codes import binarize_unchecked
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._classes import (
    Assignment,
    ClassCodes,
    batch_of_classes,
    codes_of_classes,
    with_tie_code,
)
from pml_hashing.pairs import IndicesTuple

SMALLEST_AGREEMENT = 1e-4
"""Of 1 + c u: below, the logarithm goes on as a line, with a gradient that stays finite."""


class CSQLoss(BaseHashingLoss):
    r"""Cross entropy between every bit and that of a fixed hash center, and quantization.

    As in the authors' code, less its pairwise term.

    $$
    \mathcal{L} = \frac{1}{nK} \sum_{i, k} \left[
        - \log \frac{1 + c_{ik} u_{ik}}{2} + \lambda \left( \lvert u_{ik} \rvert - 1 \right)^2
    \right]
    $$

    where $u_i \in (-1, 1)^K$ is the code of sample $i$ (a tanh bounds it) and
    $c_i \in \{-1, 1\}^K$ its hash center: that of its class, or, of several labels,
    $\operatorname{sign} \sum_c y_{ic} c_c$ with ties broken by one fixed random code. The first
    term (`center_loss`) is the binary cross entropy of $(1 + u) / 2$ and $(1 + c) / 2$, the second
    the `quantization_loss`. A sample without labels has no center, so only the second.

    Below $c u = -1 + 10^{-4}$ the logarithm goes on as its tangent. Beyond $-1$, where only codes
    without a tanh can be, it goes on as a line of slope 1, the slope at 0: such a bit is corrected,
    by no more than others. Beyond 1 the first term is 0. Codes of a second network (`ref_emb`) add
    a loss of their own.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        quantization_weight: Weight $\lambda$.
        class_codes: `"spread"`: the hash centers are those of `pml_hashing.centers.hash_centers`.
            `"assigned"`: confused classes get near ones of these, by `use_features`, which the
            trainers call. Or hash centers of your own, -1 and 1, `(num_classes, code_length)`, such
            as those of `semantic_centers` and `separated_centers` there.
        seed: Seed of the hash centers, and of the code that breaks ties.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a size is too small, a weight is negative, or `class_codes` are no binary
            codes of that shape.

    Note: Differences from the paper
        The authors' code, on which the weight 0.05 stands, also adds 0.2 of a pairwise loss; the
        paper does not. To have it, add `DHNLoss(alpha=10 / code_length, quantization_weight=0,
        similar_weight=1)` by PML's `MultipleLosses`. To our knowledge the paper smooths the
        quantization by log cosh, where the code squares it.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import CSQLoss
        >>> centers = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> codes = torch.tensor([[0.5, 0.5]])  # -log(3 / 4)
        >>> CSQLoss(2, 2, quantization_weight=0, class_codes=centers)(codes, torch.tensor([0]))
        tensor(0.2877)

    References:
        Yuan et al., [Central Similarity Quantization for Efficient Image and Video
        Retrieval](https://arxiv.org/abs/1908.00347), CVPR 2020; their
        [code](https://github.com/yuanli2333/Hadamard-Matrix-for-hashing).
    """

    of_pairs = False
    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        quantization_weight: float = 0.05,
        class_codes: ClassCodes = "spread",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(quantization_weight, 0, "quantization_weight")
        centers = codes_of_classes(class_codes, num_classes, code_length, seed)
        self.num_classes, self.code_length = num_classes, code_length
        self.quantization_weight = quantization_weight
        # The last row breaks ties between the classes of a sample with several.
        self.register_buffer("class_codes", with_tie_code(centers, seed))
        self.assignment = Assignment(class_codes, seed)

    @property
    def wants_features(self) -> bool:
        return self.assignment.is_open

    def use_features(self, features: Tensor, labels: Tensor) -> None:
        self.assignment.make(self.class_codes[:-1], features, labels)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        class_codes, tie_code = self.class_codes[:-1], self.class_codes[-1]
        codes, rows = batch_of_classes(class_codes, embeddings, ref_emb, labels)
        # The sums are whole numbers: half a bit decides only those that are 0.
        centers = binarize_unchecked(rows @ class_codes.to(codes) + tie_code.to(codes) / 2)
        center_loss = _cross_entropy(centers * codes) * (rows.sum(dim=1) > 0)
        quantization = self.quantization_weight * (codes.abs() - 1).square().mean(dim=2)
        return {
            "center_loss": self.element_loss(center_loss.sum(dim=0)),
            "quantization_loss": self.element_loss(quantization.sum(dim=0)),
        }

    def _sub_loss_names(self) -> list[str]:
        return ["center_loss", "quantization_loss"]


def _cross_entropy(agreement: Tensor) -> Tensor:
    """Return -log((1 + agreement) / 2), mean over the bits, with lines in place of its pole."""
    shifted = 1 + agreement.clamp(max=1)
    above_pole = shifted.clamp(min=SMALLEST_AGREEMENT)
    tangent = (above_pole - shifted) / SMALLEST_AGREEMENT
    lines = torch.where(shifted < 0, 1 - shifted, tangent)
    return (lines - (above_pole / 2).log()).mean(dim=-1)
