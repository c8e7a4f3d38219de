"""DFH (Li et al., BMVC 2019): pairs with a margin, and binary centers that lie far apart."""

from typing import Any

from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.centers import spread_codes
from pml_hashing.code_bank import CodeBank, Rows
from pml_hashing.codes import binarize
from pml_hashing.losses._base import LossDict
from pml_hashing.losses._base_discrete import BaseDiscreteLoss
from pml_hashing.losses._discrete import (
    mean_over_bank,
    own_quantization,
    set_class_codes,
)
from pml_hashing.losses._pair_terms import likelihood_losses
from pml_hashing.losses.dsah_terms import of_networks
from pml_hashing.pairs import IndicesTuple, to_pairs
from pml_hashing.solvers import dcc, label_sums


class DFHLoss(BaseDiscreteLoss):
    r"""Likelihood of pairs with a margin, and codes drawn to centers of their classes.

    The terms are those of the authors' code, put together in one objective by us:

    $$
    J = \frac{1}{|\mathcal{S}|} \sum_{(i, j) \in \mathcal{S}} \left[
            s_{ij} \log\left(1 + e^{m - \Theta_{ij}}\right)
            + (1 - s_{ij}) \log\left(1 + e^{m + \Theta_{ij}}\right) \right]
        + \frac{\eta}{nK} \lVert B - U \rVert^2
        + \eta \mu \left[ \frac{1}{nK} \lVert B - Y C \rVert^2
            + \frac{\nu}{c^2} \sum_{a \ne b} \left(\tfrac{1}{K} c_a^\top c_b + 1\right)^2 \right]
    $$

    over the network, $B \in \{-1, 1\}^{n \times K}$ and $C \in \{-1, 1\}^{c \times K}$, where $U$
    holds the network's codes $u_i$, $\Theta_{ij} = \frac{1}{2} u_i^\top u_j$, $s_{ij}$ is 1 for
    similar samples and else 0, $\mathcal{S}$ holds the pairs of the batch, $Y$ the labels of $c$
    classes, and $c_a$, the rows of $C$, are the centers: samples close to their own, and centers
    far from each other, are the two sides of Fisher's discriminant.

    *Mini-batch mode*: the samples are those of the batch. Its classes are too few to place centers
    by: these are codes that lie far apart, and $B = \operatorname{sign}(U + \mu Y C)$. *Data-set
    mode*: the samples are those of a `CodeBank`, which keeps $C$ transposed in `class_weights[0]`;
    `update_codes` improves one center after the other, bit by bit, then solves for $B$. The
    objective that it returns is without the pairs: no learned code stands in them.

    Sub-losses: `pos_loss` and `neg_loss`, similar and dissimilar pairs, whose sum is the mean over
    pairs; `quantization_loss`; `center_loss` (constant in the network: it shapes $B$).

    Args:
        num_classes: Number of classes $c$.
        code_length: Number of bits $K$.
        margin: The margin $m$. The authors' script has it switched off; 3 is that of common PyTorch
            code.
        eta: Weight $\eta$ of the quantization, as in the authors' script.
        mu: Weight $\mu$ of the centers, as in the authors' script.
        nu: Weight $\nu$ of their distances, not negative: ours.
        sweeps: Sweeps over the bits of each center in a discrete step.
        seed: Of the centers to start from.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a weight is negative, `sweeps` is less than 1, or the code bank is of other
            classes or bits.

    Note: Differences from the authors' code
        It solves for relaxed centers in every batch, by 200 steps of gradient descent from the
        last ones, and takes their signs. It does not divide the products of centers by $K$: its
        $\nu = 1$ is $K^2$ here. It pairs the batch with the latest codes of all samples. With codes
        of a second network (`ref_emb`), $\Theta_{ij} = \frac{1}{2} u_i^\top v_j$ for all $i, j$ and
        $B$ is drawn to both.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DFHLoss
        >>> codes = torch.zeros(4, 8)  # every pair has probability ½
        >>> DFHLoss(num_classes=2, code_length=8, margin=0, eta=1, mu=0)(
        ...     codes, torch.tensor([0, 0, 1, 1])
        ... )  # ln 2 + eta
        tensor(1.6931)

    References:
        Li et al., [Push for Quantization: Deep Fisher Hashing](https://arxiv.org/abs/1909.00206),
        BMVC 2019; authors' code,
        [liyunqianggyn/Push-for-Quantization-Deep-Fisher-Hashing](https://github.com/liyunqianggyn/Push-for-Quantization-Deep-Fisher-Hashing).
    """

    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        margin: float = 3.0,
        eta: float = 0.5,
        mu: float = 1.0,
        nu: float = 1.0,
        sweeps: int = 1,
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, code_length, code_bank=code_bank, **kwargs)
        for name, value in (("margin", margin), ("eta", eta), ("mu", mu), ("nu", nu)):
            check_at_least(value, 0, name)
        check_at_least(sweeps, 1, "sweeps")
        self.margin, self.eta, self.mu, self.nu, self.sweeps = margin, eta, mu, nu, sweeps
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
        labels = bank.labels_of(rows)
        # Views, since the same object is taken for a batch paired with itself.
        pairs = to_pairs(indices_tuple, labels, labels if len(codes) == 1 else labels[:])
        losses = self._discrete_terms(bank, rows, codes)
        return {
            **likelihood_losses(self, codes[0] @ codes[-1].T / 2, pairs, self.margin),
            **{name: self.element_loss(values) for name, values in losses.items()},
        }

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss", "quantization_loss", "center_loss"]

    def _discrete_terms(self, bank: CodeBank, rows: Rows, codes: list[Tensor]) -> dict[str, Tensor]:
        """Return the terms of every sample in which its binary code stands."""
        centers = bank.class_weights[0].T.to(codes[0].dtype)
        own, mean = bank.binary_codes[rows], label_sums(centers, bank.labels_of(rows))
        within = (own - mean).square().sum(dim=1) / self.code_length
        between = _closeness(centers)
        return {
            "quantization_loss": self.eta / self.code_length * own_quantization(bank, rows, codes),
            "center_loss": self.eta * self.mu * (within + self.nu * between),
        }

    def start_codes(self, bank: CodeBank) -> None:
        set_class_codes(bank, self.class_codes)
        bank.class_weights[0].copy_(self.class_codes[:-1].T)

    def solve_batch(self, bank: CodeBank) -> None:
        self.start_codes(bank)
        self._solve_codes(bank)

    def discrete_step(self, bank: CodeBank, progress: bool = False) -> None:
        self._solve_centers(bank)
        self._solve_codes(bank, progress)

    def _solve_centers(self, bank: CodeBank) -> None:
        """Improve one center after the other, given the codes and the other centers."""
        if self.eta * self.mu == 0:  # they have no part in the objective
            return
        centers, together = bank.class_weights[0].T.clone(), bank.label_gram()
        samples, bits = len(bank) * self.code_length, self.code_length
        repulsion = 2 * self.nu / self.num_classes**2  # each two classes are two pairs
        for a in range(self.num_classes):
            others = centers.clone()
            others[a] = 0
            target = (bank.code_sums[a] - together[a] @ others) / samples
            target = target - repulsion / bits * others.sum(dim=0)
            gram = repulsion / bits**2 * (others.T @ others)
            centers[a] = dcc(centers[a : a + 1], gram, target[None], self.sweeps)[0]
        bank.class_weights[0].copy_(centers.T)

    def _solve_codes(self, bank: CodeBank, progress: bool = False) -> None:
        targets = self.mu * label_sums(bank.class_weights[0].T, bank.group_labels)
        for block in bank.row_blocks(progress):
            target = targets[bank.groups[block]]
            for codes, _ in bank.networks:
                target = target + codes[block]
            bank.binary_codes[block].copy_(binarize(target))

    def objective(self, bank: CodeBank) -> Tensor:
        return mean_over_bank(bank, self._discrete_terms)


def _closeness(centers: Tensor) -> Tensor:
    r"""Return the mean of $(\tfrac{1}{K} c_a^\top c_b + 1)^2$ over all classes, 0 where $a = b$.

    The sum of the squared products of all rows is that of all columns: no matrix of classes.
    """
    num_classes, bits = centers.shape
    squares = (centers.T @ centers).square().sum() / bits**2
    products = centers.sum(dim=0).square().sum() / bits
    own = (centers.square().sum(dim=1) / bits + 1).square().sum()
    return (squares + 2 * products - own) / num_classes**2 + 1
