"""The three terms of DSAH (Lu et al., 2022) as losses of their own."""

from typing import Any

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least, check_label_values, require_labels
from pml_hashing.code_bank import CodeBank, moments, spread
from pml_hashing.codes import at_least_float32, binarize
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._dual_regression import DualRegression, InterLabel, Regression
from pml_hashing.pairs import IndicesTuple, affinity, to_pairs


class ClassStructureQuantizationLoss(BaseHashingLoss):
    r"""Distance of every code to the binary codes of all samples of its classes.

    This equation is our reconstruction: the paper's abstract tells that quantization uses the
    class prior in place of the usual one code to one code, and no more.

    $$
    \mathcal{L} = \frac{1}{nK} \sum_{i, j} Q_{ij} \left( \lVert u_i - b_j \rVert^2
        + \lVert v_i - b_j \rVert^2 \right), \qquad
    Q = \operatorname{diag}(1 / \lvert y_i \rvert)\, Y \operatorname{diag}(1 / n_c)\, Y^\top
    $$

    where $u_i \in (-1, 1)^K$ is the code of sample $i$, $v_i$ that of a second network (without
    one, its part is absent), $Y$ the labels with $n_c$ samples of class $c$ in the batch, and
    $b_j$ the binary code of sample $j$, which here takes the value that minimises $\mathcal{L}$:
    $B = \operatorname{sign}(Q^\top (U + V))$. The sum over $j$ is computed from $\sum_j Q_{ij}$ and
    $\sum_j Q_{ij} b_j$. Nothing here drives classes apart: add this to a loss that does.

    Args:
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import ClassStructureQuantizationLoss
        >>> codes = torch.tensor([[0.5, -1.0], [1.0, -1.0], [-1.0, 1.0]])
        >>> ClassStructureQuantizationLoss()(
        ...     codes, labels=torch.tensor([0, 0, 1])
        ... )  # 0.5² / (3 · 2)
        tensor(0.0417)

    References:
        Lu et al., [Deep Asymmetric Hashing with Dual Semantic Regression and Class Structure
        Quantization](https://arxiv.org/abs/2110.12478), Information Sciences 589, 2022: the term
        (i) of the abstract. Equations: ours.
    """

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        networks = of_networks(embeddings, ref_emb)
        labels = require_labels(labels)
        weights = affinity(labels, labels, networks[0].dtype)
        with torch.no_grad():
            binary_codes = binarize(weights.T @ torch.stack(networks).sum(dim=0))
            sums = weights @ moments(binary_codes)
        losses = torch.stack([spread(codes, sums) for codes in networks]).sum(dim=0)
        return {"loss": self.element_loss(losses / embeddings.shape[1])}


class AffinityGraphLoss(BaseHashingLoss):
    r"""Squared distance of the codes that an affinity graph joins.

    This equation is our reconstruction: the paper's abstract tells of a pairwise loss that shrinks
    the distances of class-related network outputs by an affinity graph, and no more.

    $$
    \mathcal{L} = \frac{1}{nK} \sum_{i, j} A_{ij} \lVert u_i - v_j \rVert^2, \qquad
    A = \operatorname{diag}(1 / \lvert y_i \rvert)\, Y \operatorname{diag}(1 / n_c)\, Y_{ref}^\top
    $$

    where $u_i$ is the code of sample $i$ of the batch and $v_j$ that of sample $j$ of the reference
    set (`ref_emb`: another network's codes, or the batch itself), in which class $c$ has $n_c$
    samples. Pairs $(i, j)$ of a miner replace the graph: $A_{ij}$ is then one over the number of
    similar pairs of $i$; dissimilar pairs are not used. Nothing here drives classes apart: add this
    to a loss that does.

    Args:
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import AffinityGraphLoss
        >>> codes = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
        >>> AffinityGraphLoss()(codes, labels=torch.tensor([0, 0, 1]))  # (½ + ½) / (3 · 2)
        tensor(0.1667)

    References:
        Lu et al., [Deep Asymmetric Hashing with Dual Semantic Regression and Class Structure
        Quantization](https://arxiv.org/abs/2110.12478), Information Sciences 589, 2022: the term
        (iii) of the abstract. Equations: ours.
    """

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, ref_codes = at_least_float32(embeddings), at_least_float32(ref_emb)
        if indices_tuple is None:
            labels, ref_labels = require_labels(labels), require_labels(ref_labels, "ref_labels")
            weights = affinity(labels, ref_labels, codes.dtype)
        else:
            weights = mined_affinity(indices_tuple, codes, ref_codes, labels, ref_labels)
        losses = spread(codes, weights @ moments(ref_codes))
        return {"loss": self.element_loss(losses / embeddings.shape[1])}


class DualSemanticRegressionLoss(BaseHashingLoss):
    r"""Regression between the codes and two labels: what a sample is, and what it is not.

    This equation is our reconstruction: the paper's abstract tells that a label mechanism describes
    both intra-class compactness and inter-class separability, and no more.

    $$
    \mathcal{L} = \min_{W_1, W_2} \frac{1}{n} \left( \alpha \lVert Y - U W_1 \rVert^2
        + \beta \lVert \tilde Y - U W_2 \rVert^2
        + \nu \lVert W_1 \rVert^2 + \nu \lVert W_2 \rVert^2 \right)
    $$

    where $U$ holds the codes of the batch, $Y \in \{0, 1\}^{n \times C}$ the labels and $\tilde Y$
    the inter-class labels. Both minima are ridge regressions, solved in closed form; the gradient
    of a minimum is that of its argument with $W_1, W_2$ held fixed, so none flows through the
    solution. In `DSAHLoss` the binary codes $B$ stand in place of $U$. Codes of a second network
    (`ref_emb`) are not used.

    Args:
        num_classes: Number of classes $C$.
        alpha: Weight $\alpha$ of the intra-class label.
        beta: Weight $\beta$ of the inter-class label.
        nu: Ridge penalty $\nu$, positive.
        inter: The inter-class label $\tilde Y$. `"center"`: $Y - 1 p^\top$ with the class shares
            $p_c = n_c / n$. `"simplex"`: 1 for own classes, $-1 / (C - 1)$ for others.
            `"complement"`: $1 - Y$, taken literally; it rewards a constant bit and says nothing
            new of the classes, so use it with small $\beta$ only. `"none"`: no second label.
        regression: `"code_to_label"` as above, or `"label_to_code"`:
            $\alpha \lVert U - Y M_1 \rVert^2 + \beta \lVert U - \tilde Y M_2 \rVert^2 + \dots$
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If `num_classes` is less than 2, a weight is negative, `nu` is not positive, or
            a choice is unknown.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DualSemanticRegressionLoss
        >>> codes = torch.tensor([[1.0], [-1.0]])  # W_2 = (1/4, -1/4)
        >>> loss_func = DualSemanticRegressionLoss(2, alpha=0, beta=1, nu=2)
        >>> loss_func(codes, labels=torch.tensor([0, 1]))  # (4 / 16 + 2 * 2 / 16) / 2
        tensor(0.2500)

    References:
        Lu et al., [Deep Asymmetric Hashing with Dual Semantic Regression and Class Structure
        Quantization](https://arxiv.org/abs/2110.12478), Information Sciences 589, 2022: the term
        (ii) of the abstract. Equations: ours.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        nu: float = 1.0,
        inter: InterLabel = "center",
        regression: Regression = "code_to_label",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(num_classes, 2, "num_classes")
        self.num_classes = num_classes
        self.regression = DualRegression(alpha, beta, nu, inter, regression)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, labels = at_least_float32(embeddings), require_labels(labels)
        if not labels.is_cuda:  # reading values back from a GPU would stop it
            check_label_values(labels, self.num_classes, "labels")
        with torch.no_grad():
            bank = CodeBank.of_batch(labels, self.num_classes, codes.detach())
            sums = bank.class_sums(codes)
            weights = self.regression.fit(bank, codes.T @ codes, sums, codes.sum(dim=0))
            penalty = self.regression.nu * weights.square().sum() / len(codes)
        return {"loss": self.element_loss(self.regression(bank, weights, codes, labels) + penalty)}


def of_networks(embeddings: Tensor, ref_emb: Tensor) -> list[Tensor]:
    """Return the codes of the batch by each network: `ref_emb` may be the batch itself."""
    if ref_emb is embeddings:
        return [at_least_float32(embeddings)]
    if ref_emb.shape != embeddings.shape:
        raise ValueError(
            f"Expected `ref_emb` of shape {tuple(embeddings.shape)}, the codes of the same samples "
            f"by the second network, got {tuple(ref_emb.shape)}."
        )
    return [at_least_float32(embeddings), at_least_float32(ref_emb)]


def mined_affinity(
    indices_tuple: IndicesTuple, codes: Tensor, ref_codes: Tensor, labels: Any, ref_labels: Any
) -> Tensor:
    """Return the affinity of `codes` to `ref_codes` whose edges are a miner's similar pairs."""
    anchors, similar, *_ = to_pairs(indices_tuple, labels, ref_labels)
    graph = codes.new_zeros(len(codes), len(ref_codes))
    graph[anchors, similar] = 1.0
    return graph / graph.sum(dim=1, keepdim=True).clamp(min=1)
