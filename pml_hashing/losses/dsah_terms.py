"""The three terms of DSAH (Lu et al., 2022) as losses of their own."""

from typing import Any

import torch
from torch import Tensor

from pml_hashing._checks import check_num_classes, require_labels
from pml_hashing.code_bank import CodeBank
from pml_hashing.codes import at_least_float32, binarize_unchecked
from pml_hashing.losses._base import BaseHashingLoss, LossDict, codes_of_networks
from pml_hashing.losses.terms import Batch, ClassStructureQuantization, DualRegression
from pml_hashing.losses.terms.affinity_graph import graph_losses
from pml_hashing.losses.terms.regression import InterLabel, Regression
from pml_hashing.pairs import IndicesTuple, classes_of_batch, require_both


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
    $b_j$ the binary code of sample $j$, which here takes the value that minimizes $\mathcal{L}$:
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

    of_pairs = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.term = ClassStructureQuantization()

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes = codes_of_networks(embeddings, ref_emb)
        labels, num_classes = classes_of_batch(require_labels(labels))
        with torch.no_grad():
            bank = CodeBank.of_batch(labels, num_classes, *(c.detach() for c in codes))
            pull = self.term.pull(bank)
            bank.binary_codes.copy_(binarize_unchecked(pull)[bank.groups])
            bank.codes_changed()
        losses = self.term.losses(Batch(bank, slice(None), codes), {})
        return {"loss": self.element_loss(losses)}


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
            labels, ref_labels = require_both(labels, ref_labels)
        losses = graph_losses(codes, ref_codes, labels, ref_labels, indices_tuple)
        return {"loss": self.element_loss(losses)}


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
        intra_weight: Weight $\alpha$ of the intra-class label.
        inter_weight: Weight $\beta$ of the inter-class label.
        ridge_penalty: Ridge penalty $\nu$, positive.
        inter_label: The inter-class label $\tilde Y$. `"center"`: $Y - 1 p^\top$ with the class
            shares $p_c = n_c / n$. `"simplex"`: 1 for own classes, $-1 / (C - 1)$ for others.
            `"complement"`: $1 - Y$, taken literally; it rewards a constant bit and says nothing new
            of the classes, so use it with small `inter_weight` only. `"none"`: no second label.
        regression: `"code_to_label"` as above, or `"label_to_code"`:
            $\alpha \lVert U - Y M_1 \rVert^2 + \beta \lVert U - \tilde Y M_2 \rVert^2 + \dots$
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If `num_classes` is less than 2, a weight is negative, `ridge_penalty` is not
            positive, or a choice is unknown.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DualSemanticRegressionLoss
        >>> codes = torch.tensor([[1.0], [-1.0]])  # W_2 = (1/4, -1/4)
        >>> loss_func = DualSemanticRegressionLoss(
        ...     2, intra_weight=0, inter_weight=1, ridge_penalty=2
        ... )
        >>> loss_func(codes, labels=torch.tensor([0, 1]))  # (4 / 16 + 2 * 2 / 16) / 2
        tensor(0.2500)

    References:
        Lu et al., [Deep Asymmetric Hashing with Dual Semantic Regression and Class Structure
        Quantization](https://arxiv.org/abs/2110.12478), Information Sciences 589, 2022: the term
        (ii) of the abstract. Equations: ours.
    """

    of_pairs = False

    def __init__(
        self,
        num_classes: int,
        *,
        intra_weight: float = 1.0,
        inter_weight: float = 1.0,
        ridge_penalty: float = 1.0,
        inter_label: InterLabel = "center",
        regression: Regression = "code_to_label",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_num_classes(num_classes, least=2)
        self.num_classes = num_classes
        self.term = DualRegression(
            intra_weight,
            inter_weight,
            ridge_penalty=ridge_penalty,
            inter_label=inter_label,
            regression=regression,
        )

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes = codes_of_networks(embeddings, ref_emb)[0]
        labels = require_labels(labels, num_classes=self.num_classes)
        with torch.no_grad():
            bank = CodeBank.of_batch(labels, self.num_classes, codes.detach())
            weights = self.term.solve_codes(bank, codes)
        return {"loss": self.element_loss(self.term.errors(bank, weights, codes, labels))}
