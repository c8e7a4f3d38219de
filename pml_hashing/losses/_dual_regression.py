r"""The two ridge regressions of DSAH, in terms of class sums.

Every inter-class label is $\tilde Y = s Y + 1 t^\top$ for a number $s$ and a row $t$, so that
no $n \times C$ matrix is formed from class ids. With $T_1 = Y W_1^\top$ and
$T_2 = \tilde Y W_2^\top = s Y W_2^\top + 1 (W_2 t)^\top$, both forms are one quadratic in a code,

$$b\, G\, b^\top - 2\, b\, p_i^\top + c_i, \qquad P = \alpha T_1 + \beta T_2,$$

which the discrete step minimises: code to label has $G = \alpha W_1 W_1^\top + \beta W_2 W_2^\top$;
label to code, with $M_1 = W_1^\top$ and $M_2 = W_2^\top$, has $G = (\alpha + \beta) I$.
"""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least, check_choice
from pml_hashing.code_bank import CodeBank
from pml_hashing.solvers import dcc_objective, label_counts, label_sums, ridge

InterLabel: TypeAlias = Literal["center", "simplex", "complement", "none"]
Regression: TypeAlias = Literal["code_to_label", "label_to_code"]


class DualRegression:
    """The regressions of one loss: their weights, how to solve them, and their quadratic."""

    def __init__(
        self, alpha: float, beta: float, nu: float, inter: InterLabel, regression: Regression
    ) -> None:
        check_at_least(alpha, 0, "alpha")
        check_at_least(beta, 0, "beta")
        if not nu > 0:
            raise ValueError(f"Expected a positive `nu`, got {nu}.")
        check_choice(inter, get_args(InterLabel), "inter")
        check_choice(regression, get_args(Regression), "regression")
        self.alpha, self.beta, self.nu = alpha, beta if inter != "none" else 0.0, nu
        self.inter, self.regression = inter, regression

    def _inter_label(self, bank: CodeBank) -> tuple[float, Tensor]:
        """Return the number and the row that make the inter-class label out of the label."""
        ones, num_classes = torch.ones_like(bank.class_counts), bank.num_classes
        if self.inter == "center":
            return 1.0, -bank.class_counts / len(bank)
        if self.inter == "simplex":
            return num_classes / (num_classes - 1), -ones / (num_classes - 1)
        return -1.0, ones

    def fit(self, bank: CodeBank, gram: Tensor, sums: Tensor, total: Tensor) -> Tensor:
        r"""Return $W_1$ and $W_2$ (or $M_1^\top$ and $M_2^\top$), `(2, code_length, num_classes)`.

        Args:
            bank: The bank of the samples, for their labels.
            gram: $B^\top B$.
            sums: $Y^\top B$.
            total: $B^\top 1$.
        """
        scale, shift = self._inter_label(bank)
        inter_sums = scale * sums + torch.outer(shift, total)
        weights = torch.zeros_like(bank.class_weights)
        if self.regression == "code_to_label":
            systems = ((gram, sums.T), (gram, inter_sums.T))
        else:
            label_gram, mixed = bank.label_gram(), scale * torch.outer(bank.class_counts, shift)
            inter_gram = scale**2 * label_gram + mixed + mixed.T
            inter_gram += len(bank) * torch.outer(shift, shift)
            systems = ((label_gram, sums), (inter_gram, inter_sums))
        for solution, weight, system in zip(weights, (self.alpha, self.beta), systems, strict=True):
            if weight > 0:
                solved = ridge(*system, self.nu / weight)
                solution.copy_(solved if self.regression == "code_to_label" else solved.T)
        return weights

    def quadratic(self, bank: CodeBank, weights: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return $G$, `(code_length, code_length)`, and $P$, one row a label."""
        (scale, shift), (intra, inter) = self._inter_label(bank), weights
        targets = scale * label_sums(inter.T, labels) + inter @ shift
        targets = self.alpha * label_sums(intra.T, labels) + self.beta * targets
        if self.regression == "label_to_code":
            return (self.alpha + self.beta) * torch.eye(len(intra)).to(intra), targets
        return self.alpha * intra @ intra.T + self.beta * inter @ inter.T, targets

    def _constant(self, bank: CodeBank, weights: Tensor, labels: Tensor) -> Tensor:
        """Return what the quadratic lacks to the squared errors, one value a label."""
        (scale, shift), (intra, inter) = self._inter_label(bank), weights
        if self.regression == "label_to_code":
            inter_codes = scale * label_sums(inter.T, labels) + inter @ shift
            squares = (label_sums(intra.T, labels).square(), inter_codes.square())
            return self.alpha * squares[0].sum(dim=1) + self.beta * squares[1].sum(dim=1)
        sizes = label_counts(labels, intra.dtype)
        inter_sizes = scale**2 * sizes + 2 * scale * label_sums(shift[:, None], labels)[:, 0]
        return self.alpha * sizes + self.beta * (inter_sizes + shift @ shift)

    def __call__(self, bank: CodeBank, weights: Tensor, codes: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted squared errors of both regressions, one value a code."""
        gram, targets = self.quadratic(bank, weights, labels)
        return dcc_objective(codes, gram, targets) + self._constant(bank, weights, labels)
