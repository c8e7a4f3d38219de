"""Similarities to some anchors: the kernel features that SDH and KSH are linear in."""

from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.utils import gen_batches

from pml_hashing._checks import check_integer, check_positive
from pml_hashing.baselines._base import ROWS


@dataclass(frozen=True)
class AnchorKernel:
    r"""The features $\exp(-\gamma \lVert x - a_j \rVert^2)$, one for each anchor $a_j$."""

    anchors: np.ndarray
    gamma: float

    @classmethod
    def fit(
        cls, features: np.ndarray, num_anchors: int, gamma: float | None, random_state: RandomState
    ) -> "AnchorKernel":
        r"""Draw anchors among the samples: all of them where there are fewer.

        Args:
            features: `(n, num_features)`.
            num_anchors: Number of anchors.
            gamma: Of the kernel. $1 / (2 \bar d)$ if `None`, where $\bar d$ is the mean squared
                distance of samples and anchors.
            random_state: Draws the anchors.

        Raises:
            TypeError: If `num_anchors` is not an integer.
            ValueError: If `num_anchors` is below 1 or `gamma` not positive and finite.
        """
        check_integer(num_anchors, 1, "num_anchors")
        chosen = random_state.permutation(len(features))[:num_anchors]
        anchors = features[chosen].astype(np.float64)
        if gamma is None:
            distance = _mean_squared_distance(features, anchors)
            gamma = 1 / (2 * distance) if distance > 0 else 1.0  # all samples are one
        check_positive(gamma, "gamma")
        return cls(anchors, gamma)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return kernel values in float64, `(n, num_anchors)`."""
        values = np.empty((len(features), len(self.anchors)))
        for rows in gen_batches(len(features), ROWS):
            values[rows] = rbf_kernel(features[rows].astype(float), self.anchors, self.gamma)
        return values


def _mean_squared_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean over all pairs of rows, without the matrix of their distances."""
    center = y.mean(axis=0)  # about which the products of x and y are 0 on average
    return float(sum(np.square(rows - center).sum(axis=1).mean() for rows in (x, y)))
