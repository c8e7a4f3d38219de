"""DSAH (Lu et al., 2022): dual semantic regression and class structure quantization."""

from typing import Any

from pml_hashing.code_bank import CodeBank
from pml_hashing.losses._classes import ClassCodes
from pml_hashing.losses._discrete import DiscreteLoss
from pml_hashing.losses.terms import (
    AffinityGraph,
    ClassStructureQuantization,
    DualRegression,
    InnerProduct,
)
from pml_hashing.losses.terms.regression import InterLabel, Regression


class DSAHLoss(DiscreteLoss):
    r"""Class structure quantization, affinity graph and dual semantic regression together.

    The equations are our reconstruction. The abstract of the paper names the three terms and tells
    what they are for; neither its equations nor its hyper-parameters were available to us. Report
    results as "DSAH (reconstruction in pml-hashing)".

    $$
    \begin{aligned}
    J = {} & \sum_{i, j} \left[ \frac{\gamma}{K} Q_{ij} \left( \lVert u_i - b_j \rVert^2
            + \lVert v_i - b_j \rVert^2 \right)
            + \frac{\lambda}{K} A_{ij} \lVert u_i - v_j \rVert^2 \right] \\
        & + \alpha \lVert Y - B W_1 \rVert^2 + \beta \lVert \tilde Y - B W_2 \rVert^2
        + \nu \lVert W_1 \rVert^2 + \nu \lVert W_2 \rVert^2
    \end{aligned}
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
    the data set, see `DiscreteLoss`; the outputs for samples outside the batch are the latest
    that the bank remembers. A discrete step solves $W_1, W_2$ (ridge regressions) and improves $B$
    (`solvers.dcc`); neither raises $J$. No $n \times n$ matrix is formed: see `CodeBank`.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        intra_weight: Weight $\alpha$ of the regression of the label.
        inter_weight: Weight $\beta$ of the regression of the inter-class label.
        quantization_weight: Weight $\gamma$ of the quantization. From about 4 on, the first outputs
            of the network freeze the codes before the regression has told the classes apart.
        graph_weight: Weight $\lambda$ of the affinity graph.
        ridge_penalty: Ridge penalty $\nu$, positive.
        class_share: Share $\rho$ of the class structure in the quantization: 0 is the usual one
            code to one code, 1 compares with all codes of the class.
        inner_product_weight: Weight $\kappa$ of $\frac{1}{n} \sum_{ij} (\frac{1}{K} u_i^\top b_j -
            S_{ij})^2$, the term of ADSH with its soft similarity $S$. Not in the abstract of DSAH,
            hence 0.
        inter_label: The inter-class label, as for `DualSemanticRegressionLoss`.
        regression: `"code_to_label"` as above, or `"label_to_code"`:
            $\alpha \lVert B - Y M_1 \rVert^2 + \beta \lVert B - \tilde Y M_2 \rVert^2$.
        warm_start: Discrete steps on the labels alone before a code bank is first used.
        sweeps: Sweeps over the bits in a discrete step.
        class_codes: Class codes to start from, as for `DiscreteLoss`. `"assigned"`, that confused
            classes get near ones as soon as there are features, is ours: the abstract has nothing
            of the kind. Until then, and with `"spread"`, they are in no order.
        seed: Seed of the class codes to start from.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a weight is negative, `ridge_penalty` is not positive, `class_share` is not
            from 0 to 1, a choice is unknown, or the code bank is of other classes or bits.

    Note: Differences from the paper
        Which differences there are cannot be known (see above). The defaults are ours. The weights
        of terms that sum over bits are divided by $K$, since the pull of the regression on one bit
        falls as $1 / K$: so one $\gamma$ serves all code lengths.

    Examples:
        >>> import torch
        >>> from pml_hashing import CodeBank, DSAHLoss
        >>> labels = torch.tensor([0, 0, 1, 2])
        >>> codes = torch.zeros(4, 16)
        >>> DSAHLoss(num_classes=3, code_length=16, intra_weight=0, inter_weight=0)(
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

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        intra_weight: float = 1.0,
        inter_weight: float = 1.0,
        quantization_weight: float = 0.5,
        graph_weight: float = 0.5,
        inner_product_weight: float = 0.0,
        class_share: float = 1.0,
        ridge_penalty: float = 1.0,
        inter_label: InterLabel = "center",
        regression: Regression = "code_to_label",
        warm_start: int = 10,
        sweeps: int = 2,
        class_codes: ClassCodes = "assigned",
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        regressions = DualRegression(
            intra_weight,
            inter_weight,
            ridge_penalty=ridge_penalty,
            inter_label=inter_label,
            regression=regression,
        )
        terms = {
            "quantization": (quantization_weight, ClassStructureQuantization(class_share)),
            "graph": (graph_weight, AffinityGraph()),
            "regression": (1.0, regressions),
            "inner_product": (inner_product_weight, InnerProduct()),
        }
        super().__init__(
            num_classes,
            code_length,
            terms,
            warm_start=warm_start,
            sweeps=sweeps,
            class_codes=class_codes,
            seed=seed,
            code_bank=code_bank,
            **kwargs,
        )
