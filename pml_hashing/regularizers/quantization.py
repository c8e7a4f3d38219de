"""Pulls every element of a code towards -1 or 1."""

from typing import Any

import torch
from pytorch_metric_learning.regularizers import BaseRegularizer
from torch import Tensor

from pml_hashing._checks import check_at_least, check_codes
from pml_hashing.codes import at_least_float32, binarize_unchecked


class QuantizationRegularizer(BaseRegularizer):
    r"""What binarization changes in a code, as a mean over its bits.

    $$
    q(u_i) = \frac{1}{K} \sum_{k=1}^{K} \bigl| u_{ik} - \operatorname{sign}(u_{ik}) \bigr|^p
           = \frac{1}{K} \sum_{k=1}^{K} \bigl| |u_{ik}| - 1 \bigr|^p
    $$

    where $u_i$ is the code of sample $i$, of length $K$, and the sign of zero is 1. One loss for
    each sample, whose mean PML's reducer takes. Computed in the first form, which pulls a zero
    towards 1, in float32 at least.

    Args:
        p: Power of the difference, at least 1. The square is DPSH's, 1 is DSH's.
        **kwargs: Arguments of PML's regularizers: `reducer`, `collect_stats`.

    Raises:
        ValueError: If `p` is less than 1.

    Note: Differences from the papers
        They sum over bits. The mean keeps one weight valid for every code length.

    Examples:
        >>> import torch
        >>> from pml_hashing.regularizers import QuantizationRegularizer
        >>> QuantizationRegularizer()(torch.tensor([[1.0, -1.0], [0.5, -2.0]]))
        tensor(0.3125)

    References:
        Li et al., [Feature Learning based Deep Supervised Hashing with Pairwise
        Labels](https://arxiv.org/abs/1511.03855) (DPSH), IJCAI 2016.

        Liu et al., Deep Supervised Hashing for Fast Image Retrieval (DSH), CVPR 2016.
    """

    def __init__(self, *, p: float = 2, **kwargs: Any) -> None:
        check_at_least(p, 1, "p")
        super().__init__(**kwargs)
        self.p = p
        self.add_to_recordable_attributes(list_of_names=["p"], is_stat=False)

    def compute_loss(self, x: Tensor) -> dict[str, dict[str, Any]]:
        check_codes(x, "embeddings")
        codes = at_least_float32(x)
        losses = (codes - binarize_unchecked(codes)).abs().pow(self.p).mean(dim=1)
        indices = torch.arange(len(codes), device=codes.device)
        return {"loss": {"losses": losses, "indices": indices, "reduction_type": "element"}}
