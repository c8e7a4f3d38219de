"""SDH: codes from which labels can be regressed, and a kernel regression of the codes."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from pml_hashing._checks import check_at_least, check_integer, check_positive
from pml_hashing.baselines._base import BaseShallowHasher
from pml_hashing.baselines._kernel import AnchorKernel
from pml_hashing.codes import binarize_unchecked
from pml_hashing.solvers import (
    check_sweeps,
    class_sums,
    dcc,
    dcc_objective,
    label_counts,
    label_sums,
    ridge,
)


class SDH(BaseShallowHasher):
    r"""Supervised discrete hashing.

    $$
    \min_{B, W, P} \lVert Y - B W \rVert^2 + \lambda \lVert W \rVert^2
        + \nu \bigl( \lVert B - \phi(X) P \rVert^2 + \delta \lVert P \rVert^2 \bigr),
    \qquad B \in \{-1, 1\}^{n \times K}
    $$

    where the rows of $Y$ are the multi-hot labels, $W$ classifies codes, $\phi(x)$ are kernel
    values $\exp(-\gamma \lVert x - a_j \rVert^2)$ of a sample and the anchors, and a constant 1,
    and $P$ is the hash function: the code of a sample is $\operatorname{sign}(\phi(x) P)$. In
    turn, $B$ is improved by discrete cyclic coordinate descent (`pml_hashing.solvers.dcc`), and
    $W$ and $P$ are ridge regressions. The objective never rises.

    As in the authors' code, but for the width of the kernel: their 0.4 is for features of norm 1,
    and here it is taken from the data, as KSH does.

    Args:
        code_length: Number of bits $K$.
        num_anchors: Number of anchors, drawn among the samples: all of them if there are fewer.
        gamma: The number $\gamma$ of the kernel. If `None`, 1 over twice the mean squared distance
            of samples and anchors. The authors' width $\sigma$ is $\gamma = 1 / (2 \sigma^2)$.
        classifier_penalty: The number $\lambda$.
        quantization_weight: The number $\nu$.
        kernel_penalty: The number $\delta$.
        max_iter: Number of alternations. Fewer are made if $B$ no longer changes.
        sweeps: Number of sweeps over the bits in one alternation.
        random_state: Of the anchors, and of the codes to start from.

    Attributes:
        kernel_: The function $\phi$, without the constant.
        weights_: The matrix $P$, `(num_anchors + 1, code_length)`, the constant's row the last.
        objective_: The objective after every alternation, `(n_iter_,)`.
        n_iter_: Number of alternations made.

    Examples:
        >>> import numpy as np
        >>> from pml_hashing.baselines import SDH
        >>> features = np.array([[0.0], [0.1], [5.0], [5.1]])
        >>> hasher = SDH(code_length=8, random_state=0).fit(features, ["a", "a", "b", "b"])
        >>> near_a, near_b = hasher.transform([[0.2], [4.8]])
        >>> bool((near_a != near_b).any())
        True

    References:
        Shen et al., [Supervised Discrete Hashing](https://arxiv.org/abs/1503.01557), CVPR 2015.
    """

    def __init__(
        self,
        code_length: int = 32,
        *,
        num_anchors: int = 1000,
        gamma: float | None = None,
        classifier_penalty: float = 1.0,
        quantization_weight: float = 1e-5,
        kernel_penalty: float = 1e-2,
        max_iter: int = 5,
        sweeps: int = 10,
        random_state: int | RandomState | None = None,
    ) -> None:
        self.code_length = code_length
        self.num_anchors = num_anchors
        self.gamma = gamma
        self.classifier_penalty = classifier_penalty
        self.quantization_weight = quantization_weight
        self.kernel_penalty = kernel_penalty
        self.max_iter = max_iter
        self.sweeps = sweeps
        self.random_state = random_state

    def _fit(self, features: np.ndarray, labels: np.ndarray, random_state: RandomState) -> None:
        check_integer(self.max_iter, 1, "max_iter")
        check_sweeps(self.sweeps)
        check_positive(self.classifier_penalty, "classifier_penalty")
        check_positive(self.kernel_penalty, "kernel_penalty")
        check_at_least(self.quantization_weight, 0, "quantization_weight")
        self.kernel_ = AnchorKernel.fit(features, self.num_anchors, self.gamma, random_state)
        problem = _Problem(
            torch.from_numpy(_with_constant(self.kernel_(features))),
            torch.from_numpy(labels),
            *(self.classifier_penalty, self.quantization_weight, self.kernel_penalty),
        )
        start = random_state.standard_normal((len(features), self.code_length))
        codes = binarize_unchecked(torch.from_numpy(start))
        maps, objective = problem.regress(codes), []
        for _ in range(self.max_iter):
            previous, codes = codes, problem.improve(codes, maps, self.sweeps)
            maps = problem.regress(codes)
            objective.append(problem.value(codes, maps).item())
            if codes.equal(previous):
                break
        self.weights_, self.objective_ = maps.hash.numpy(), np.array(objective)
        self.n_iter_ = len(objective)

    def _codes(self, features: np.ndarray) -> np.ndarray:
        return _with_constant(self.kernel_(features)) @ self.weights_


def _with_constant(values: np.ndarray) -> np.ndarray:
    return np.column_stack([values, np.ones(len(values))])


class _Maps(NamedTuple):
    """The two regressions: from codes to labels, and from kernel values to codes."""

    classify: Tensor
    hash: Tensor


@dataclass
class _Problem:
    """The objective of `SDH` and the steps that lower it, as its docstring has them."""

    inputs: Tensor
    labels: Tensor
    classifier_penalty: float
    quantization_weight: float
    kernel_penalty: float

    def __post_init__(self) -> None:
        self.gram = self.inputs.T @ self.inputs
        one_hot = self.labels.ndim == 2
        self.num_classes = self.labels.shape[1] if one_hot else int(self.labels.max()) + 1

    def regress(self, codes: Tensor) -> _Maps:
        """Return both regressions for given codes."""
        by_class = class_sums(codes, self.labels, self.num_classes)
        return _Maps(
            ridge(codes.T @ codes, by_class.T, self.classifier_penalty),
            ridge(self.gram, self.inputs.T @ codes, self.kernel_penalty),
        )

    def improve(self, codes: Tensor, maps: _Maps, sweeps: int) -> Tensor:
        """Return codes that fit labels and hash function better."""
        wanted = label_sums(maps.classify.T.contiguous(), self.labels)
        target = wanted + self.quantization_weight * (self.inputs @ maps.hash)
        return dcc(codes, maps.classify @ maps.classify.T, target, sweeps)

    def value(self, codes: Tensor, maps: _Maps) -> Tensor:
        """Return the objective."""
        classify, hash_ = maps
        wanted = label_sums(classify.T.contiguous(), self.labels)
        # |Y - BW|^2 = |Y|^2 + tr(B W W' B') - 2 tr(B' Y W'), and |Y|^2 counts labels.
        penalty = self.classifier_penalty * classify.square().sum()
        labels = dcc_objective(codes, classify @ classify.T, wanted).sum()
        labels += label_counts(self.labels).sum() + penalty
        fit = (codes - self.inputs @ hash_).square().sum()
        fit += self.kernel_penalty * hash_.square().sum()
        return labels + self.quantization_weight * fit
