r"""ADSH (Jiang and Li, 2018): network codes against learned codes of the whole database."""

from typing import Any

from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.centers import spread_codes
from pml_hashing.code_bank import CodeBank, Rows
from pml_hashing.losses._base import LossDict
from pml_hashing.losses._base_discrete import BaseDiscreteLoss
from pml_hashing.losses._discrete import mean_over_bank, own_quantization, set_class_codes
from pml_hashing.losses._inner_product import (
    improve_codes,
    inner_products_of_networks,
    remember_similar_sums,
)
from pml_hashing.losses.dsah_terms import of_networks
from pml_hashing.pairs import IndicesTuple


class ADSHLoss(BaseDiscreteLoss):
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
        gamma: Weight $\gamma$ of the quantization: the paper's weight over $n$. The default is the
            paper's 200 at its $n = 59{,}000$.
        soft_similarity: Dissimilar pairs have $S_{ij} = -r$. If `False`, -1, with which bits become
            constant unless $\gamma$ is near $K$.
        sweeps: Sweeps over the bits in a discrete step.
        seed: Of the class codes to start from.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a weight is negative, `sweeps` is less than 1, or the code bank is of other
            classes or bits.

    Note: Differences from the paper
        $V$ starts from class codes that lie far apart (samples of several classes: their majority);
        in the paper from zero, with which the first round learns nothing of similarity. The
        network learns from all samples; in the paper from 2,000, drawn anew every round. Codes of a
        second network (`ref_emb`) add the same terms over again. A miner's pairs are not used.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import ADSHLoss
        >>> codes = torch.zeros(4, 8)
        >>> ADSHLoss(num_classes=2, code_length=8, gamma=0)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # S is 1 and -1, of which the products are all 0
        tensor(1.)

    References:
        Jiang and Li, [Asymmetric Deep Supervised Hashing](https://arxiv.org/abs/1707.08325), AAAI
        2018: the objective, and its two learning steps.
    """

    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        gamma: float = 200 / 59_000,
        soft_similarity: bool = True,
        sweeps: int = 1,
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, code_length, code_bank=code_bank, **kwargs)
        check_at_least(gamma, 0, "gamma")
        check_at_least(sweeps, 1, "sweeps")
        self.gamma, self.soft_similarity, self.sweeps = gamma, soft_similarity, sweeps
        # The last row breaks ties between the classes of a sample with several.
        self.register_buffer("class_codes", spread_codes(num_classes + 1, code_length, seed))

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
        sample_indices: Tensor | None = None,
    ) -> LossDict:
        codes = of_networks(embeddings, ref_emb)
        bank, rows = self.bank_of(codes, labels, sample_indices)
        losses = self._terms(bank, rows, codes)
        return {name: self.element_loss(losses[name]) for name in self._sub_loss_names()}

    def _sub_loss_names(self) -> list[str]:
        return ["inner_product_loss", "quantization_loss"]

    def _terms(self, bank: CodeBank, rows: Rows, codes: list[Tensor]) -> dict[str, Tensor]:
        quantization = own_quantization(bank, rows, codes)
        return {
            "inner_product_loss": inner_products_of_networks(bank, rows, codes),
            "quantization_loss": self.gamma * quantization / self.code_length**2,
        }

    def start_codes(self, bank: CodeBank) -> None:
        set_class_codes(bank, self.class_codes)
        remember_similar_sums(bank, self.soft_similarity)

    def solve_batch(self, bank: CodeBank) -> None:
        self.start_codes(bank)
        self.discrete_step(bank)
        bank.refresh_binary_codes()

    def discrete_step(self, bank: CodeBank, progress: bool = False) -> None:
        soft, own_weight = self.soft_similarity, self.gamma / self.code_length**2
        improve_codes(bank, own_weight, soft=soft, sweeps=self.sweeps, progress=progress)

    def objective(self, bank: CodeBank) -> Tensor:
        return mean_over_bank(bank, self._terms)
