"""KSH: kernel hash functions whose inner products of codes reproduce similarities, bit by bit."""

from typing import Any

import numpy as np
from numpy.random import RandomState
from scipy.linalg import eigh
from scipy.optimize import minimize

from pml_hashing._checks import check_integer
from pml_hashing.baselines._base import BaseShallowHasher, signs
from pml_hashing.baselines._kernel import AnchorKernel
from pml_hashing.baselines._residue import SimilarityResidue

SMALLEST_VARIANCE = 1e-10
"""Directions of kernel space with less of the largest variance than this are left out."""


class KSH(BaseShallowHasher):
    r"""Supervised hashing with kernels.

    $$
    \min_A \Bigl\lVert K S - \sum_{q=1}^{K} b_q b_q^\top \Bigr\rVert^2, \qquad
    b_q = \operatorname{sign}(\bar K_x a_q)
    $$

    where $S_{ij}$ is 1 if samples $i$ and $j$ share a label, else -1, and the rows of $\bar K_x$
    are kernel values $\exp(-\gamma \lVert x_i - a_j \rVert^2)$ of the samples and the anchors,
    less their means. One bit after the other is fitted to the residue
    $R = K S - \sum_{q < p} b_q b_q^\top$:

    1. $a$ is the first eigenvector of $\bar K_x^\top R \bar K_x a = \mu \bar K_x^\top \bar K_x a$,
       scaled to $\lVert \bar K_x a \rVert^2 = n$.
    2. From there, $\varphi(\bar K_x a)^\top R\, \varphi(\bar K_x a)$ is maximized, where
       $\varphi(t) = 2 / (1 + e^{-t}) - 1$. The result is kept if $b^\top R\, b$ has grown.

    The code of a sample is $\operatorname{sign}(A^\top \bar k(x))$. $R$ is never built: it acts
    through sums over distinct labels, so that all samples take part.

    Note: Differences from the authors' code
        Step 2 is L-BFGS of SciPy, where theirs is Nesterov's gradient method. Theirs builds $R$,
        and so draws 2,000 samples to learn from. Directions of kernel space with next to no
        variance are left out, where theirs would divide by it.

    Args:
        code_length: Number of bits $K$.
        num_anchors: Number of anchors, drawn among the samples: all of them if there are fewer.
        gamma: The number $\gamma$ of the kernel. If `None`, 1 over twice the mean squared distance
            of samples and anchors, as in the authors' code.
        max_iter: Most iterations of step 2.
        random_state: Of the anchors.

    Attributes:
        kernel_: The function $k$, not centered.
        weights_: The matrix $A$, `(num_anchors, code_length)`.
        intercept_: $-A^\top$ times the mean of $k(x)$, `(code_length,)`.
        n_iter_: Most iterations that step 2 took for a bit.

    Examples:
        >>> import numpy as np
        >>> from pml_hashing.baselines import KSH
        >>> features = np.array([[0.0], [0.1], [5.0], [5.1]])
        >>> hasher = KSH(code_length=1, random_state=0).fit(features, ["a", "a", "b", "b"])
        >>> near_a, near_b = hasher.transform([[0.2], [4.8]])
        >>> bool((near_a != near_b).all())
        True

    References:
        Liu et al., Supervised Hashing with Kernels, CVPR 2012.
    """

    def __init__(
        self,
        code_length: int = 32,
        *,
        num_anchors: int = 300,
        gamma: float | None = None,
        max_iter: int = 500,
        random_state: int | RandomState | None = None,
    ) -> None:
        self.code_length = code_length
        self.num_anchors = num_anchors
        self.gamma = gamma
        self.max_iter = max_iter
        self.random_state = random_state

    def _fit(self, features: np.ndarray, labels: np.ndarray, random_state: RandomState) -> None:
        check_integer(self.max_iter, 1, "max_iter")
        self.kernel_ = AnchorKernel.fit(features, self.num_anchors, self.gamma, random_state)
        values = self.kernel_(features)
        mean = values.mean(axis=0)
        basis = whitening(values - mean)
        inputs = (values - mean) @ basis
        directions, steps = [], []
        residue = SimilarityResidue(labels, self.code_length)
        gram = inputs.T @ residue.times(inputs)
        for _ in range(self.code_length):
            spectral = np.sqrt(len(inputs)) * top_eigenvector(gram)
            direction, num_steps = refine(inputs, residue, spectral, self.max_iter)
            bit = signs(inputs @ direction)
            residue.subtract(bit)
            gram -= np.outer(inputs.T @ bit, inputs.T @ bit)
            directions.append(direction)
            steps.append(num_steps)
        self.weights_ = basis @ np.column_stack(directions)
        self.intercept_ = -mean @ self.weights_
        self.n_iter_ = max(steps)

    def _codes(self, features: np.ndarray) -> np.ndarray:
        return self.kernel_(features) @ self.weights_ + self.intercept_


def whitening(values: np.ndarray) -> np.ndarray:
    """Return the matrix that makes the columns of `values` orthonormal, without empty directions.

    In the new columns, the generalised eigenproblem of KSH is an ordinary one.

    Raises:
        ValueError: If all values are 0.
    """
    variances, directions = eigh(values.T @ values)
    if not variances[-1] > 0:
        raise ValueError(
            "Expected `X` with samples that differ, got the same kernel values of all."
        )
    kept = variances > SMALLEST_VARIANCE * variances[-1]
    return directions[:, kept] / np.sqrt(variances[kept])


def top_eigenvector(matrix: np.ndarray) -> np.ndarray:
    """Return the eigenvector of unit length with the largest eigenvalue of a symmetric matrix."""
    last = len(matrix) - 1
    return eigh(matrix, subset_by_index=(last, last))[1][:, 0]


def smooth_objective(
    weights: np.ndarray, inputs: np.ndarray, residue: SimilarityResidue
) -> tuple[float, np.ndarray]:
    r"""Return $-s^\top R\, s$ and its gradient, where $s = \varphi$(inputs @ weights)."""
    smooth = np.tanh(inputs @ weights / 2)  # = 2 / (1 + exp(-t)) - 1
    image = residue.times(smooth)
    # d(s' R s) = 2 (R s)' ds, and ds/dt = (1 - s^2) / 2
    return -float(smooth @ image), -inputs.T @ (image * (1 - smooth**2))


def refine(
    inputs: np.ndarray, residue: SimilarityResidue, direction: np.ndarray, max_iter: int
) -> tuple[np.ndarray, int]:
    """Return a direction whose bit explains no less of the residue, and the iterations made."""

    def explained(weights: np.ndarray) -> float:
        bit = signs(inputs @ weights)
        return float(bit @ residue.times(bit))

    options: Any = {"args": (inputs, residue), "options": {"maxiter": max_iter}}
    found = minimize(smooth_objective, direction, jac=True, method="L-BFGS-B", **options)
    better = explained(found.x) > explained(direction)
    return (found.x if better else direction), found.nit
