r"""Balance and independence of bits over a whole data set, at the cost of a batch.

Both depend on the codes $U$ of all $n$ samples by $U^\top 1$ and $U^\top U$ alone, which a
`CodeBank` keeps up to date. The loss of a sample is its share in the whole, so that the mean over
all samples is the term; its gradient is that of the whole, in which it occurs twice.
"""

import torch
from torch import Tensor

from pml_hashing.code_bank import CodeBank


def balance_losses(codes: Tensor, gram: Tensor) -> Tensor:
    r"""Return the shares in $\lVert U^\top 1 / n \rVert^2$, `(batch_size,)`.

    Args:
        codes: Codes of some samples.
        gram: $(1, U)^\top (1, U)$ of all samples.
    """
    share = codes @ (gram[0, 1:] / gram[0, 0]).to(codes)
    return 2 * share - share.detach()


def balance_of_networks(bank: CodeBank, codes: list[Tensor]) -> Tensor:
    """Return the shares of some samples of a bank, summed over their codes by each network."""
    pairs = zip(codes, bank.network_grams, strict=True)
    return torch.stack([balance_losses(u, gram) for u, gram in pairs]).sum(dim=0)


def independence_losses(codes: Tensor, gram: Tensor) -> Tensor:
    r"""Return the shares in $\lVert U^\top U / n - I \rVert^2$, as `balance_losses` does."""
    excess = (gram[1:, 1:] / gram[0, 0]).to(codes)
    excess = excess - torch.eye(len(excess)).to(excess)
    share = (codes @ excess * codes).sum(dim=1)
    return 2 * share - share.detach() - excess.trace()
