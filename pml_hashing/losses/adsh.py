r"""ADSH (Jiang and Li, 2018): network codes against learned codes of the whole database."""

from typing import Any

from pml_hashing._checks import check_weights
from pml_hashing.code_bank import CodeBank
from pml_hashing.losses._classes import check_sizes
from pml_hashing.losses._discrete import DiscreteLoss
from pml_hashing.losses.terms import InnerProduct, Quantization


class ADSHLoss(DiscreteLoss):
    r"""Inner products of the network's codes with learned codes, against the similarity.

    As in the authors' code, up to the scale of the whole:

    $$
    J = \frac{1}{n^2 K^2} \sum_{i, j} \left( u_i^\top v_j - K S_{ij} \right)^2
        + \frac{\gamma}{n K^2} \sum_i \lVert v_i - u_i \rVert^2,
    \qquad V \in \{-1, 1\}^{n \times K}
    $$

    where $u_i = \tanh f(x_i)$ is the network's code of sample $i$, $v_j$ the learned code of sample
    $j$ (`binary_codes` of the code bank), and $S_{ij}$ their similarity: 1 for similar samples and
    $-r$ for dissimilar ones, $r$ the number of similar pairs over that of dissimilar pairs. The sum
    over $j$ is computed from $V^\top V$ and $S V$, and $S V$ from sums of $V$ over equal labels:
    the cost of a batch does not depend on $n$.

    *Mini-batch mode*: the samples are those of the batch, and $V$ is solved for in every call.
    *Data-set mode*: they are those of a `CodeBank`, whose codes `update_codes` improves by
    coordinate descent. Queries are encoded by the network, the database is $V$.

    Sub-losses: `inner_product_loss`, `quantization_loss`.

    Args:
        num_classes: Number of classes.
        code_length: Number of bits $K$.
        quantization_weight: Weight $\gamma$ of the quantization: the paper's weight over $n$. The
            default is the paper's 200 at its $n = 59{,}000$.
        soft_similarity: Dissimilar pairs have $S_{ij} = -r$. If `False`, -1, with which bits become
            constant unless $\gamma$ is near $K$.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of `DiscreteLoss` (`sweeps`, `class_codes`, `seed`), and of PML's losses
            (`reducer`, `embedding_regularizer`, ...).

    Raises:
        ValueError: If a weight is negative, `sweeps` is less than 1, or the code bank is of other
            classes or bits.

    Note: Differences from the paper
        $V$ starts from class codes that lie far apart (samples of several classes: their majority);
        in the paper from zero, with which the first round learns nothing of similarity. The
        network learns from all samples; in the paper from 2,000, drawn anew every round. Codes of a
        second network (`ref_emb`) add the same terms over again. A miner weighs the
        samples.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import ADSHLoss
        >>> codes = torch.zeros(4, 8)
        >>> ADSHLoss(num_classes=2, code_length=8, quantization_weight=0)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # S is 1 and -1, of which the products are all 0
        tensor(1.)

    References:
        Jiang and Li, [Asymmetric Deep Supervised Hashing](https://arxiv.org/abs/1707.08325), AAAI
        2018: the objective, and its two learning steps.
    """

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        quantization_weight: float = 200 / 59_000,
        soft_similarity: bool = True,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        check_sizes(num_classes, code_length)
        check_weights(quantization_weight=quantization_weight)
        # --8<-- [start:terms]
        terms = {
            "inner_product": (1.0, InnerProduct(soft_similarity)),
            "quantization": (quantization_weight / code_length, Quantization()),
        }
        # --8<-- [end:terms]
        super().__init__(num_classes, code_length, terms, code_bank=code_bank, **kwargs)
