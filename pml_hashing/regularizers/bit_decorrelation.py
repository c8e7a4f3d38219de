"""Asks that no bit repeat what another bit says."""

from typing import Any

import torch
from pytorch_metric_learning.regularizers import BaseRegularizer
from torch import Tensor

from pml_hashing._checks import check_codes
from pml_hashing.codes import at_least_float32


class BitDecorrelationRegularizer(BaseRegularizer):
    r"""Squared inner products of the bits over the batch, less the identity, as a mean.

    $$
    \mathcal{L} = \frac{1}{K^2} \Bigl\lVert \frac{1}{n} U^\top U - I \Bigr\rVert_F^2
    $$

    where the rows of $U$ are the $n$ codes of the batch and $K$ is the code length. It is 0 for
    binary codes of which any two bits agree in half of the batch, and $(K - 1) / K$ if all bits are
    the same. Off the diagonal stands how much one bit tells of another. The diagonal, which is the
    identity for any binary codes, keeps real codes from shrinking to zero. Computed in float32 at
    least, under autocast too.

    A batch of fewer samples than bits cannot reach 0, as $U^\top U$ then has no full rank:
    $(K - n) / K^2$ is the least. One number for the batch, so that a `reducer` changes nothing.

    Note: Differences from the paper
        DAPH, as its public port reads, has $\lVert \frac{1}{n} U^\top U - I \rVert_F^2$: this,
        times $K^2$.

    Examples:
        >>> import torch
        >>> from pml_hashing.regularizers import BitDecorrelationRegularizer
        >>> BitDecorrelationRegularizer()(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        tensor(0.5000)

    References:
        Shen et al., Deep Asymmetric Pairwise Hashing (DAPH), ACM Multimedia 2017.
    """

    def compute_loss(self, x: Tensor) -> dict[str, dict[str, Any]]:
        check_codes(x, "embeddings")
        codes = at_least_float32(x)
        identity = torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device)
        with torch.autocast(codes.device.type, enabled=False):
            loss = (codes.T @ codes / len(codes) - identity).square().mean()
        return {"loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"}}
