r"""Balance and decorrelation of bits over a whole data set, at the cost of a batch.

Both depend on the codes $U$ of all $n$ samples by $U^\top 1$ and $U^\top U$ alone, which a
`CodeBank` keeps up to date. The loss of a sample is its share in the whole, so that the mean over
all samples is the term; its gradient is that of the whole, in which it occurs twice.
"""

import torch
from torch import Tensor

from pml_hashing.code_bank import Variables
from pml_hashing.losses.terms._base import Batch, Term, sum_of


class BitBalance(Term):
    r"""The squared mean of every bit over the data set, averaged over the bits, by each network.

    $$\frac{1}{K} \left\lVert \tfrac{1}{n} U^\top 1 \right\rVert^2$$
    """

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        losses = []
        for codes, gram in zip(batch.codes, batch.bank.sums("network_gram"), strict=True):
            share = codes @ (gram[0, 1:] / gram[0, 0]).to(codes)
            losses.append(2 * share - share.detach())
        return sum_of(losses) / batch.bank.code_length


class BitDecorrelation(Term):
    r"""The squared distance of the correlation of the bits from the identity, by each network.

    $$\frac{1}{K^2} \left\lVert \tfrac{1}{n} U^\top U - I \right\rVert^2$$
    """

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        losses = []
        for codes, gram in zip(batch.codes, batch.bank.sums("network_gram"), strict=True):
            excess = (gram[1:, 1:] / gram[0, 0]).to(codes)
            excess = excess - torch.eye(len(excess), device=excess.device).to(excess)
            share = (codes @ excess * codes).sum(dim=1)
            losses.append(2 * share - share.detach() - excess.trace())
        return sum_of(losses) / batch.bank.code_length**2
