"""The distance of every code to the binary codes of all samples of its classes."""

import torch
from torch import Tensor

from pml_hashing.code_bank import CodeBank, Variables
from pml_hashing.losses.terms._base import Batch, Quadratic, Term, sum_of
from pml_hashing.moments import moments, spread
from pml_hashing.solvers import label_sums


class ClassStructureQuantization(Term):
    r"""Squared distance of the codes to all binary codes of their classes, per bit.

    The equation is our reconstruction of what the abstract of DSAH tells.

    $$
    \frac{1}{K} \sum_j Q_{ij} \left( \lVert u_i - b_j \rVert^2 + \lVert v_i - b_j \rVert^2 \right),
    \qquad Q = (1 - \rho) I + \rho
    \operatorname{diag}(1 / \lvert y_i \rvert)\, Y \operatorname{diag}(1 / n_c)\, Y^\top
    $$

    The sum over $j$ comes from $\sum_j Q_{ij}$ and $\sum_j Q_{ij} b_j$, by class sums.

    Args:
        class_share: The share $\rho$ of the class structure, from 0 (the usual one code to one
            code, see `Quantization`) to 1.

    Raises:
        ValueError: If `class_share` is not from 0 to 1.
    """

    def __init__(self, class_share: float = 1.0) -> None:
        super().__init__()
        if not 0 <= class_share <= 1:
            raise ValueError(f"Expected `class_share` from 0 to 1, got {class_share}.")
        self.class_share = class_share

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        bank, labels = batch.bank, batch.summed_labels
        code_sums = bank.sums("code_sums")[0]
        sizes = label_sums(torch.ones_like(code_sums[:, :1]), labels).clamp(max=1)
        mean = bank.row_average(code_sums, labels)
        sums = torch.cat([sizes, mean, bank.code_length * sizes], dim=1)
        if self.class_share < 1:
            own = moments(batch.binary_codes)
            sums = (1 - self.class_share) * own + self.class_share * sums
        return sum_of([spread(codes, sums) for codes in batch.codes]) / bank.code_length

    def quadratic(self, bank: CodeBank, variables: Variables) -> Quadratic:
        scale = 1 / bank.code_length
        targets = self.class_share * scale * self.pull(bank)
        return Quadratic(targets=targets, own=(1 - self.class_share) * scale)

    def pull(self, bank: CodeBank) -> Tensor:
        r"""Return $Q^\top (U + V)$ where $\rho$ is 1: one row for each group of equal labels."""
        pulls = [
            bank.column_average(sums[1, :, 1:-1], bank.group_labels)
            for sums in bank.sums("class_moments")
        ]
        return sum_of(pulls)
