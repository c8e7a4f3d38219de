"""Asks that every bit be set in half of the samples."""

from typing import Any

from pytorch_metric_learning.regularizers import BaseRegularizer
from torch import Tensor

from pml_hashing._checks import check_codes
from pml_hashing.codes import at_least_float32


class BitBalanceRegularizer(BaseRegularizer):
    r"""Squared mean of every bit over the batch, as a mean over bits.

    $$
    \mathcal{L} = \frac{1}{K} \sum_{k=1}^{K} \Bigl( \frac{1}{n} \sum_{i=1}^{n} u_{ik} \Bigr)^2
                = \frac{1}{K} \Bigl\lVert \frac{1}{n} U^\top \mathbf{1} \Bigr\rVert^2
    $$

    where $u_{ik}$ is bit $k$ of the code of sample $i$, the rows of $U$ are the $n$ codes of the
    batch, and $K$ is the code length. It is 0 if every bit is 1 for half of the batch and -1 for
    the other half, and 1 if all codes are the same binary code. Computed in float32 at least.
    One number for the batch, so that a `reducer` changes nothing.

    Note: Differences from the paper
        DAPH, as its public port reads, has $\lVert U^\top \mathbf{1} \rVert^2$: this, times
        $n^2 K$.

    Examples:
        >>> import torch
        >>> from pml_hashing.regularizers import BitBalanceRegularizer
        >>> BitBalanceRegularizer()(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        tensor(0.5000)

    References:
        Shen et al., Deep Asymmetric Pairwise Hashing (DAPH), ACM Multimedia 2017.
    """

    def compute_loss(self, x: Tensor) -> dict[str, dict[str, Any]]:
        check_codes(x, "embeddings")
        codes = at_least_float32(x)
        loss = codes.mean(dim=0).square().mean()
        return {"loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"}}
