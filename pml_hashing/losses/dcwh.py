"""DCWH (Zhe et al., TNNLS 2019): a Gaussian for every class, in the hypercube."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pml_hashing._checks import check_at_least, check_positive
from pml_hashing.codes import binarize_unchecked
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._classes import batch_of_classes, check_sizes, cross_entropy, sums_by_class
from pml_hashing.pairs import IndicesTuple

CUBE = 1.1
"""Half the edge of the hypercube: a little room about the vertices."""


class DCWHLoss(BaseHashingLoss):
    r"""Likelihood of the classes as Gaussians, and hinges to the hypercube and its vertices.

    As in the code of a group that shares an author with the paper; the paper was not available to
    us.

    $$
    \mathcal{L} = \frac{1}{n} \sum_i \left[
        - \frac{1}{\lvert y_i \rvert} \sum_c y_{ic} \log
            \frac{e^{-\lVert r_i - \mu_c \rVert^2 / 2 \sigma^2}}
                 {\sum_k e^{-\lVert r_i - \mu_k \rVert^2 / 2 \sigma^2}}
        + \frac{\eta}{K} \sum_k \left[ \lvert r_{ik} \rvert - 1.1 \right]_+
        + \frac{\nu}{K} \left\lVert r_i - \operatorname{sign}(r_i) \right\rVert^2
    \right]
    $$

    where $r_i \in \mathbb{R}^K$ is the code of sample $i$ (no tanh bounds it: the cube does),
    $y_i \in \{0, 1\}^C$ its labels and $\mu_c$ the center of class $c$. The sub-losses are
    `class_loss`, computed as the cross entropy of $(r_i^\top \mu_c - \lVert \mu_c \rVert^2 / 2) /
    \sigma^2$, in which $\lVert r_i \rVert^2$ cancels, and of which a sample without labels has
    none; `cube_loss`; and `vertex_loss`. Codes of a second network (`ref_emb`) add a loss of
    their own.

    The paper optimizes in two stages, without and with the vertices, and sets the centers to the
    means of their classes between epochs: `DCWHSchedule` does both. Without it, all terms count
    from the start, and centers stay random unless they are learned.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        inverse_variance: $1 / \sigma^2$.
        cube_weight: Weight $\eta$.
        vertex_weight: Weight $\nu$.
        learn_centers: The centers are a parameter of the loss, `centers`, trained with the network
            (by `metric_loss_optimizer` in PML's trainers), not a buffer that the schedule sets.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a size is too small, a weight is negative, or `inverse_variance` is not
            positive.

    Note: Differences from the paper
        Several labels are ours. The weights 10 and 0.1 are those of the code, where the terms are
        summed over bits and divided by $K$ as here; it ran with $1 / \sigma^2 = 1$, although its
        command line says 0.5.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DCWHLoss
        >>> loss_func = DCWHLoss(2, 2, vertex_weight=0)
        >>> loss_func.centers = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> codes = torch.tensor([[1.3, 1.0]])
        >>> loss_func(codes, torch.tensor([0]))  # log(1 + exp(-4 / 4)) + 10 * 0.2 / 2
        tensor(1.3133)

    References:
        Zhe et al., [Deep Class-Wise Hashing: Semantics-Preserving Hashing via Class-wise
        Loss](https://arxiv.org/abs/1803.04137), IEEE TNNLS 2019. Code:
        [mzhang367/hpdh](https://github.com/mzhang367/hpdh),
        [mzhang367/dcwh](https://github.com/mzhang367/dcwh).
    """

    of_pairs = False
    centers: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        inverse_variance: float = 0.5,
        cube_weight: float = 10.0,
        vertex_weight: float = 0.1,
        learn_centers: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(num_classes, code_length)
        check_positive(inverse_variance, "inverse_variance")
        check_at_least(cube_weight, 0, "cube_weight")
        check_at_least(vertex_weight, 0, "vertex_weight")
        self.num_classes, self.code_length = num_classes, code_length
        self.inverse_variance, self.learn_centers = inverse_variance, learn_centers
        self.cube_weight, self.vertex_weight = cube_weight, vertex_weight
        self.refining = True  # the stage: see `refine`
        centers = torch.randn(num_classes, code_length)
        if learn_centers:
            self.centers = nn.Parameter(centers)
        else:
            self.register_buffer("centers", centers)

    def refine(self, refining: bool = True) -> None:
        """Enter the second stage, in which the vertices count, or go back to the first."""
        self.refining = refining

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, rows = batch_of_classes(self.centers, embeddings, ref_emb, labels)
        centers = self.centers.to(codes)
        logits = self.inverse_variance * (codes @ centers.T - centers.square().sum(dim=1) / 2)
        cube = F.relu(codes.abs() - CUBE).mean(dim=2)
        vertex = (codes - binarize_unchecked(codes)).square().mean(dim=2)
        vertex_weight = self.vertex_weight if self.refining else 0.0
        return {
            "class_loss": self.element_loss(cross_entropy(logits, rows)),
            "cube_loss": self.element_loss(self.cube_weight * cube.sum(dim=0)),
            "vertex_loss": self.element_loss(vertex_weight * vertex.sum(dim=0)),
        }

    def _sub_loss_names(self) -> list[str]:
        return ["class_loss", "cube_loss", "vertex_loss"]


class DCWHSchedule:
    """The two stages of DCWH, and its centers between epochs.

    Call `step` at the end of every epoch, or give it to a trainer of PML as
    `lr_schedulers={"metric_loss_scheduler_by_epoch": ...}`, which saves and resumes it (the
    centers are saved with the loss).

    Args:
        loss_func: The loss. Its vertices do not count for the first `refine_after` epochs.
        refine_after: Epochs of the first stage, "establishment", before "refinement". We use half
            of all.
        model: Maps inputs to codes: a `HashingModel`, or `torch.nn.Sequential(trunk, embedder)`.
            `None` where the centers are learned.
        batches: Inputs and labels of the training set, such as a `DataLoader`; gone through once
            a refresh. `None` where the centers are learned.
        refresh_every: Epochs from one refresh of the centers to the next.

    Raises:
        ValueError: If a number is too small, or `model` and `batches` are missing where the
            centers are refreshed, or given where they are learned.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DCWHLoss, DCWHSchedule
        >>> batches = [(torch.tensor([[1.0], [3.0], [-1.0]]), torch.tensor([0, 0, 1]))]
        >>> loss_func = DCWHLoss(2, 1)
        >>> schedule = DCWHSchedule(loss_func, 2, torch.nn.Identity(), batches)
        >>> schedule.step()
        >>> loss_func.centers, loss_func.refining
        (tensor([[ 2.],
                [-1.]]), False)
        >>> schedule.step()
        >>> loss_func.refining
        True
    """

    def __init__(
        self,
        loss_func: DCWHLoss,
        refine_after: int,
        model: nn.Module | None = None,
        batches: Iterable[Any] | None = None,
        *,
        refresh_every: int = 1,
    ) -> None:
        check_at_least(refine_after, 0, "refine_after")
        check_at_least(refresh_every, 1, "refresh_every")
        if loss_func.learn_centers != (model is None) or (model is None) != (batches is None):
            given = [n for n, x in (("model", model), ("batches", batches)) if x is not None]
            raise ValueError(
                "Expected `model` and `batches`, both where the centers are refreshed and neither "
                f"where they are learned (learn_centers={loss_func.learn_centers}), got {given}."
            )
        self.loss_func, self.refine_after = loss_func, refine_after
        self.refresh_every = refresh_every
        self.model, self.batches, self.epoch = model, batches, 0
        self._set_stage()

    def step(self) -> None:
        """End an epoch: refresh the centers where it is time, and enter the next stage."""
        self.epoch += 1
        self._set_stage()
        if self.model is not None and self.epoch % self.refresh_every == 0:
            self.refresh_centers()

    def _set_stage(self) -> None:
        self.loss_func.refine(self.epoch >= self.refine_after)

    @torch.no_grad()
    def refresh_centers(self) -> None:
        """Set every center to the mean code of its class, with the model in eval mode.

        A sample counts in each of its classes. A class without samples keeps its center.

        Raises:
            ValueError: If the centers are learned, or a label is out of range.
        """
        if self.model is None or self.batches is None:
            raise ValueError("Expected a schedule with `model` and `batches`, got none.")
        centers = self.loss_func.centers
        sums, counts = sums_by_class(self.model, self.batches, centers)
        means = sums / counts.clamp(min=1)[:, None]
        centers.copy_(torch.where(counts[:, None] > 0, means, centers))

    def state_dict(self) -> dict[str, int]:
        """Return what `load_state_dict` takes: the number of epochs that have ended."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after an epoch, in its stage."""
        self.epoch = state_dict["epoch"]
        self._set_stage()
