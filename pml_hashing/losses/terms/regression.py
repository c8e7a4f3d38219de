r"""Ridge regressions between the codes and the labels, in terms of class sums.

Every inter-class label is $\tilde Y = s Y + 1 t^\top$ for a number $s$ and a row $t$, so that
no $n \times C$ matrix is formed from class ids. With $T_1 = Y W_1^\top$ and
$T_2 = \tilde Y W_2^\top = s Y W_2^\top + 1 (W_2 t)^\top$, both forms are one quadratic in a code,

$$b\, G\, b^\top - 2\, b\, p_i^\top + c_i, \qquad P = \alpha T_1 + \beta T_2,$$

which the discrete step minimizes: code to label has $G = \alpha W_1 W_1^\top + \beta W_2 W_2^\top$;
label to code, with $M_1 = W_1^\top$ and $M_2 = W_2^\top$, has $G = (\alpha + \beta) I$.
"""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least, check_choice, check_positive
from pml_hashing.code_bank import CodeBank, Variables
from pml_hashing.label_rows import LabelRows
from pml_hashing.losses.terms._base import Batch, Quadratic, Term
from pml_hashing.moments import gram_of
from pml_hashing.solvers import dcc_objective, label_counts, label_sums, ridge

InterLabel: TypeAlias = Literal["center", "simplex", "complement", "none"]
Regression: TypeAlias = Literal["code_to_label", "label_to_code"]


class DualRegression(Term):
    r"""Regressions of two labels on the binary codes: what a sample is, and what it is not.

    $$
    \alpha \lVert y_i - b_i W_1 \rVert^2 + \beta \lVert \tilde y_i - b_i W_2 \rVert^2
        + \tfrac{\nu}{n} \left( \lVert W_1 \rVert^2 + \lVert W_2 \rVert^2 \right)
    $$

    with $W_1, W_2$ in closed form. It is constant in the networks: it shapes the binary codes.

    Variables: `weights`, $W_1$ and $W_2$ (or $M_1^\top$ and $M_2^\top$),
    `(2, code_length, num_classes)`.

    Args:
        intra_weight: Weight $\alpha$ of the label.
        inter_weight: Weight $\beta$ of the inter-class label.
        ridge_penalty: The number $\nu$, positive.
        inter_label: The inter-class label $\tilde Y$. `"center"`: $Y - 1 p^\top$ with the class
            shares $p_c = n_c / n$. `"simplex"`: 1 for own classes, $-1 / (C - 1)$ for others.
            `"complement"`: $1 - Y$, taken literally; it rewards a constant bit and says nothing
            new of the classes. `"none"`: no second label.
        regression: `"code_to_label"` as above, or `"label_to_code"`:
            $\alpha \lVert b_i - y_i M_1 \rVert^2 + \beta \lVert b_i - \tilde y_i M_2 \rVert^2$.

    Raises:
        ValueError: If a weight is negative, `ridge_penalty` is not positive, or a choice is
            unknown.
    """

    def __init__(
        self,
        intra_weight: float = 1.0,
        inter_weight: float = 1.0,
        *,
        ridge_penalty: float = 1.0,
        inter_label: InterLabel = "center",
        regression: Regression = "code_to_label",
    ) -> None:
        super().__init__()
        check_at_least(intra_weight, 0, "intra_weight")
        check_at_least(inter_weight, 0, "inter_weight")
        check_positive(ridge_penalty, "ridge_penalty")
        check_choice(inter_label, get_args(InterLabel), "inter_label")
        check_choice(regression, get_args(Regression), "regression")
        self.intra_weight, self.ridge_penalty = intra_weight, ridge_penalty
        self.inter_weight = inter_weight if inter_label != "none" else 0.0
        self.inter_label, self.regression = inter_label, regression

    def extra_repr(self) -> str:
        return f"inter_label={self.inter_label!r}, regression={self.regression!r}"

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        weights, labels = variables["weights"], batch.summed_labels
        return self.errors(batch.bank, weights, batch.binary_codes, labels)

    def start(self, bank: CodeBank) -> Variables:
        return self.fit(bank, {})

    def fit(self, bank: CodeBank, variables: Variables) -> Variables:
        return {"weights": self.solve(bank, bank.sums("code_gram")[0], bank.sums("code_sums")[0])}

    def quadratic(self, bank: CodeBank, variables: Variables) -> Quadratic:
        return Quadratic(*self._quadratic(bank, variables["weights"], bank.group_labels))

    def solve_codes(self, bank: CodeBank, codes: Tensor) -> Tensor:
        """Return the weights for any codes of all samples of a bank."""
        return self.solve(bank, gram_of(codes), bank.class_sums(codes))

    def solve(self, bank: CodeBank, gram: Tensor, sums: Tensor) -> Tensor:
        r"""Return $W_1$ and $W_2$ from $(1, B)^\top (1, B)$ and $Y^\top B$."""
        (scale, shift), total, gram = self._inter_label(bank), gram[0, 1:], gram[1:, 1:]
        inter_sums = scale * sums + torch.outer(shift, total)
        weights = sums.new_zeros(2, *sums.T.shape)
        if self.regression == "code_to_label":
            systems = ((gram, sums.T), (gram, inter_sums.T))
        else:
            label_gram, mixed = bank.label_gram(), scale * torch.outer(bank.class_counts, shift)
            inter_gram = scale**2 * label_gram + mixed + mixed.T
            inter_gram += len(bank) * torch.outer(shift, shift)
            systems = ((label_gram, sums), (inter_gram, inter_sums))
        both = (self.intra_weight, self.inter_weight)
        for solution, weight, system in zip(weights, both, systems, strict=True):
            if weight > 0:
                solved = ridge(*system, self.ridge_penalty / weight)
                solution.copy_(solved if self.regression == "code_to_label" else solved.T)
        return weights

    def errors(
        self, bank: CodeBank, weights: Tensor, codes: Tensor, labels: Tensor | LabelRows
    ) -> Tensor:
        """Return the weighted squared errors of both regressions, and the penalty, per code."""
        gram, targets = self._quadratic(bank, weights, labels)
        errors = dcc_objective(codes, gram, targets) + self._constant(bank, weights, labels)
        return errors + self.ridge_penalty * weights.square().sum() / len(bank)

    def _inter_label(self, bank: CodeBank) -> tuple[float, Tensor]:
        """Return the number and the row that make the inter-class label out of the label."""
        ones, num_classes = torch.ones_like(bank.class_counts), bank.num_classes
        if self.inter_label == "center":
            return 1.0, -bank.class_counts / len(bank)
        if self.inter_label == "simplex":
            return num_classes / (num_classes - 1), -ones / (num_classes - 1)
        return -1.0, ones

    def _quadratic(
        self, bank: CodeBank, weights: Tensor, labels: Tensor | LabelRows
    ) -> tuple[Tensor, Tensor]:
        """Return $G$, `(code_length, code_length)`, and $P$, one row for each label."""
        (scale, shift), (intra, inter) = self._inter_label(bank), weights
        alpha, beta = self.intra_weight, self.inter_weight
        targets = label_sums((alpha * intra + beta * scale * inter).T, labels)
        targets = targets + beta * (inter @ shift)
        if self.regression == "label_to_code":
            return (alpha + beta) * torch.eye(len(intra), device=intra.device).to(intra), targets
        return alpha * intra @ intra.T + beta * inter @ inter.T, targets

    def _constant(self, bank: CodeBank, weights: Tensor, labels: Tensor | LabelRows) -> Tensor:
        """Return what the quadratic lacks to the squared errors, one value for each label."""
        (scale, shift), (intra, inter) = self._inter_label(bank), weights
        alpha, beta = self.intra_weight, self.inter_weight
        if self.regression == "label_to_code":
            inter_codes = scale * label_sums(inter.T, labels) + inter @ shift
            squares = (label_sums(intra.T, labels).square(), inter_codes.square())
            return alpha * squares[0].sum(dim=1) + beta * squares[1].sum(dim=1)
        sizes = label_counts(labels, intra.dtype)
        inter_sizes = scale**2 * sizes + 2 * scale * label_sums(shift[:, None], labels)[:, 0]
        return alpha * sizes + beta * (inter_sizes + shift @ shift)
