"""DSAH (Lu et al., 2022): dual semantic regression and class structure quantization."""

from typing import Any

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.centers import spread_codes
from pml_hashing.code_bank import CodeBank, Rows, moments, spread
from pml_hashing.losses._base import LossDict
from pml_hashing.losses._base_discrete import BaseDiscreteLoss
from pml_hashing.losses._discrete import mean_over_bank, set_class_codes, solve_codes
from pml_hashing.losses._dual_regression import DualRegression, InterLabel, Regression
from pml_hashing.losses._inner_product import (
    inner_product_step,
    inner_products_of_networks,
    remember_similar_sums,
)
from pml_hashing.losses.dsah_terms import mined_affinity, of_networks
from pml_hashing.pairs import IndicesTuple
from pml_hashing.solvers import label_sums


class DSAHLoss(BaseDiscreteLoss):
    r"""Class structure quantization, affinity graph and dual semantic regression together.

    The equations are our reconstruction. The abstract of the paper names the three terms and tells
    what they are for; neither its equations nor its hyper-parameters were available to us. Report
    results as "DSAH (reconstruction in pml-hashing)".

    $$
    J = \sum_{i, j} \left[ \frac{\gamma}{K} Q_{ij} \left( \lVert u_i - b_j \rVert^2
            + \lVert v_i - b_j \rVert^2 \right)
            + \frac{\lambda}{K} A_{ij} \lVert u_i - v_j \rVert^2 \right]
        + \alpha \lVert Y - B W_1 \rVert^2 + \beta \lVert \tilde Y - B W_2 \rVert^2
        + \nu \lVert W_1 \rVert^2 + \nu \lVert W_2 \rVert^2
    $$

    over $B \in \{-1, 1\}^{n \times K}$, $W_1, W_2 \in \mathbb{R}^{K \times C}$ and the networks,
    where $u_i = \tanh f(x_i)$ is the code of sample $i$ and $v_i$ that of a second network
    (`ref_emb`; with one network the term of $v_i$ is absent and $v_j = u_j$ in the graph), $b_j$ a
    binary code, $Y \in \{0, 1\}^{n \times C}$ the labels, $\tilde Y$ the inter-class labels, $A$
    the affinity graph, $A_{ij} = \sum_c Y_{ic} Y_{jc} / (\lvert y_i \rvert\, n_c)$ with $n_c$
    samples of class $c$, and $Q = (1 - \rho) I + \rho A$. The loss is $J / n$, as one sub-loss a
    term: `quantization_loss`, `graph_loss`, `regression_loss` (constant in the networks: it shapes
    $B$) and `inner_product_loss` ($\kappa$).

    *Mini-batch mode*: the samples are those of the batch, and $W_1, W_2, B$ are solved for in every
    call, from class codes that lie far apart. *Data-set mode*, with a `code_bank`: all samples of
    the data set, see `BaseDiscreteLoss`; the outputs for samples outside the batch are the latest
    that the bank remembers. A discrete step solves $W_1, W_2$ (ridge regressions) and improves $B$
    (`solvers.dcc`); neither raises $J$. No $n \times n$ matrix is formed: see `CodeBank`.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        alpha: Weight $\alpha$ of the regression of the label.
        beta: Weight $\beta$ of the regression of the inter-class label.
        gamma: Weight $\gamma$ of the quantization. From about 4 on, the first outputs of the
            network freeze the codes before the regression has told the classes apart.
        lambda_: Weight $\lambda$ of the affinity graph.
        nu: Ridge penalty $\nu$, positive.
        rho: Share $\rho$ of the class structure in the quantization: 0 is the usual one code to one
            code, 1 compares with all codes of the class.
        kappa: Weight of $\frac{1}{n} \sum_{ij} (\frac{1}{K} u_i^\top b_j - S_{ij})^2$, the term of
            ADSH with its soft similarity $S$. Not in the abstract of DSAH, hence 0.
        inter: The inter-class label, as for `DualSemanticRegressionLoss`.
        regression: `"code_to_label"` as above, or `"label_to_code"`:
            $\alpha \lVert B - Y M_1 \rVert^2 + \beta \lVert B - \tilde Y M_2 \rVert^2$.
        warm_start: Discrete steps on the labels alone before a code bank is first used.
        sweeps: Sweeps over the bits in a discrete step.
        seed: Of the class codes to start from.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a weight is negative, `nu` is not positive, `rho` is not from 0 to 1, a
            choice is unknown, or the code bank is of other classes or bits.

    Note: Differences from the paper
        Which differences there are cannot be known (see above). The defaults are ours. The weights
        of terms that sum over bits are divided by $K$, since the pull of the regression on one bit
        falls as $1 / K$: so one $\gamma$ serves all code lengths.

    Examples:
        >>> import torch
        >>> from pml_hashing import CodeBank, DSAHLoss
        >>> labels = torch.tensor([0, 0, 1, 2])
        >>> codes = torch.zeros(4, 16)
        >>> DSAHLoss(num_classes=3, code_length=16, alpha=0, beta=0)(
        ...     codes, labels
        ... )  # gamma |0 - b|^2 / K
        tensor(0.5000)
        >>> loss_func = DSAHLoss(3, 16, code_bank=CodeBank(labels, 16))
        >>> loss = loss_func(codes[:2], sample_indices=torch.tensor([0, 3]))
        >>> before, after = loss_func.update_codes()
        >>> after <= before
        True

    References:
        Lu et al., [Deep Asymmetric Hashing with Dual Semantic Regression and Class Structure
        Quantization](https://arxiv.org/abs/2110.12478), Information Sciences 589, 2022: abstract.
        Shen et al., [Supervised Discrete Hashing](https://arxiv.org/abs/1503.01557), CVPR 2015: the
        regression and the discrete step.
    """

    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 0.5,
        lambda_: float = 0.5,
        nu: float = 1.0,
        rho: float = 1.0,
        kappa: float = 0.0,
        inter: InterLabel = "center",
        regression: Regression = "code_to_label",
        warm_start: int = 10,
        sweeps: int = 2,
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, code_length, code_bank=code_bank, **kwargs)
        for name, value in (("gamma", gamma), ("lambda_", lambda_), ("rho", rho), ("kappa", kappa)):
            check_at_least(value, 0, name)
        if rho > 1:
            raise ValueError(f"Expected `rho` from 0 to 1, got {rho}.")
        check_at_least(warm_start, 0, "warm_start")
        check_at_least(sweeps, 1, "sweeps")
        self.gamma, self.lambda_, self.rho, self.kappa = gamma, lambda_, rho, kappa
        self.regression = DualRegression(alpha, beta, nu, inter, regression)
        self.warm_start, self.sweeps = warm_start, sweeps
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
        if indices_tuple is None:
            graph = self._graph(bank, rows, codes)
        else:
            weights = mined_affinity(indices_tuple, codes[0], codes[-1], labels, ref_labels)
            graph = spread(codes[0], weights @ moments(codes[-1]))
        losses = self._discrete_terms(bank, rows, codes)
        losses["graph_loss"] = self.lambda_ * graph / self.code_length
        return {name: self.element_loss(losses[name]) for name in self._sub_loss_names()}

    def _sub_loss_names(self) -> list[str]:
        return ["quantization_loss", "graph_loss", "regression_loss", "inner_product_loss"]

    def _graph(self, bank: CodeBank, rows: Tensor, codes: list[Tensor]) -> Tensor:
        """Return the graph term of every sample, times K: of its row in the graph."""
        labels = bank.labels_of(rows)
        if bank is not self.code_bank:
            sums = bank.class_sums(moments(codes[-1]))
            return spread(codes[0], bank.row_average(sums, labels))
        (_, query_sums), (_, database_sums) = bank.networks[0], bank.networks[-1]
        of_row = spread(codes[0], bank.row_average(database_sums[0], labels))
        of_column = spread(codes[-1], bank.column_average(query_sums[1], labels))
        # A pair pulls at both of its ends, but counts once in the objective.
        both = of_row + of_column
        return both - both.detach() / 2

    def _discrete_terms(self, bank: CodeBank, rows: Rows, codes: list[Tensor]) -> dict[str, Tensor]:
        """Return the terms of every sample in which its binary code or those of others stand."""
        labels = bank.labels_of(rows)
        own = bank.binary_codes[rows].to(codes[0].dtype)
        sizes = label_sums(torch.ones_like(bank.code_sums[:, :1]), labels).clamp(max=1)
        mean = bank.row_average(bank.code_sums, labels)
        sums = torch.cat([sizes, mean, self.code_length * sizes], dim=1)
        sums = (1 - self.rho) * moments(own) + self.rho * sums
        quantization = torch.stack([spread(network, sums) for network in codes]).sum(dim=0)
        penalty = self.regression.nu * bank.class_weights.square().sum() / len(bank)
        losses = {
            "quantization_loss": self.gamma * quantization / self.code_length,
            "regression_loss": self.regression(bank, bank.class_weights, own, labels) + penalty,
            "inner_product_loss": torch.zeros_like(quantization),
        }
        if self.kappa > 0:
            losses["inner_product_loss"] = self.kappa * inner_products_of_networks(
                bank, rows, codes
            )
        return losses

    def start_codes(self, bank: CodeBank) -> None:
        set_class_codes(bank, self.class_codes)
        for _ in range(self.warm_start):  # the networks' codes are zero: the labels alone decide
            self._solve(bank, kappa=0.0)
            bank.refresh_binary_codes()
        self._sum_similar(bank)

    def solve_batch(self, bank: CodeBank) -> None:
        set_class_codes(bank, self.class_codes)
        self.discrete_step(bank)
        bank.refresh_binary_codes()

    def discrete_step(self, bank: CodeBank, progress: bool = False) -> None:
        self._solve(bank, self.kappa, progress)
        self._sum_similar(bank)

    def _sum_similar(self, bank: CodeBank) -> None:
        if self.kappa > 0:
            remember_similar_sums(bank)

    def _solve(self, bank: CodeBank, kappa: float, progress: bool = False) -> None:
        weights = self.regression.fit(bank, bank.code_gram, bank.code_sums, bank.code_total)
        gram, targets = self.regression.quadratic(bank, weights, bank.group_labels)
        for _, sums in bank.networks:
            pull = bank.column_average(sums[1, :, 1:-1], bank.group_labels)
            targets = targets + self.gamma * self.rho / self.code_length * pull
        if kappa > 0:
            more_gram, more_targets = inner_product_step(bank)
            gram, targets = gram + kappa * more_gram, targets + kappa * more_targets
        one_to_one = self.gamma * (1 - self.rho) / self.code_length
        solve_codes(bank, gram, targets, one_to_one, self.sweeps, progress)
        bank.class_weights.copy_(weights)

    def objective(self, bank: CodeBank) -> Tensor:
        return mean_over_bank(bank, self._terms)

    def _terms(self, bank: CodeBank, rows: Rows, codes: list[Tensor]) -> dict[str, Tensor]:
        """Return all terms of some samples, for the codes that the bank remembers."""
        sums = bank.row_average(bank.networks[-1][1][0], bank.labels_of(rows))
        graph = {"graph_loss": self.lambda_ * spread(codes[0], sums) / self.code_length}
        return graph | self._discrete_terms(bank, rows, codes)
