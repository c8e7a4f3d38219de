"""ITQ: principal components, rotated so that binarization loses least. Needs no labels."""

import numpy as np
from numpy.random import RandomState
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.utils import Tags

from pml_hashing._checks import check_integer
from pml_hashing.baselines._base import BaseShallowHasher, signs


class ITQ(BaseShallowHasher):
    r"""Iterative quantization.

    $$
    \min_{B, R} \lVert B - V R \rVert^2, \qquad
    B \in \{-1, 1\}^{n \times K}, \quad R^\top R = I
    $$

    where the rows of $V$ are the first $K$ principal components of the samples. In turn,
    $B = \operatorname{sign}(V R)$, and $R$ is the orthogonal Procrustes rotation of $V$ to $B$:
    the objective never rises. The code of a sample is $\operatorname{sign}(v R)$.

    As in the authors' code.

    Note: Differences from faiss
        `faiss.ITQTransform` (1.15) misses a transposition in the rotation, so that its quantization
        error does not fall from one iteration to the next, and ends not far below that of a random
        rotation. It also divides each sample by its norm. This class does neither.

    Args:
        code_length: Number of bits $K$, at most the number of features, and less than that of
            samples.
        max_iter: Number of alternations. Fewer are made if $B$ no longer changes.
        random_state: Of the rotation to start from.

    Attributes:
        mean_: Mean of the features, `(num_features,)`.
        components_: Rotated principal directions, orthonormal rows, `(code_length, num_features)`.
        objective_: The objective after every alternation, `(n_iter_,)`.
        n_iter_: Number of alternations made.

    Examples:
        >>> import numpy as np
        >>> from pml_hashing.baselines import ITQ
        >>> features = np.array([[2.0, 1.0], [1.0, -2.0], [-1.0, 2.0], [-2.0, -1.0]])
        >>> binary_codes = ITQ(code_length=2, random_state=0).fit_transform(features)
        >>> binary_codes @ binary_codes.T  # four corners, four codes
        array([[ 2,  0,  0, -2],
               [ 0,  2, -2,  0],
               [ 0, -2,  2,  0],
               [-2,  0,  0,  2]], dtype=int8)

    References:
        Gong and Lazebnik, Iterative Quantization: A Procrustean Approach to Learning Binary Codes,
        CVPR 2011.
    """

    def __init__(
        self,
        code_length: int = 32,
        *,
        max_iter: int = 50,
        random_state: int | RandomState | None = None,
    ) -> None:
        self.code_length = code_length
        self.max_iter = max_iter
        self.random_state = random_state

    def _fit(self, features: np.ndarray, labels: None, random_state: RandomState) -> None:
        check_integer(self.max_iter, 1, "max_iter")
        n, width = features.shape
        if self.code_length > min(n - 1, width):
            raise ValueError(
                "Expected `code_length` of at most the number of principal components, "
                f"got {self.code_length} bits with n_samples={n}, n_features={width}."
            )
        pca = PCA(self.code_length, random_state=random_state)
        values = pca.fit_transform(features.astype(np.float64))
        rotation = np.linalg.qr(random_state.standard_normal((self.code_length,) * 2))[0]
        binary_codes, objective = signs(values @ rotation), []
        for _ in range(self.max_iter):
            previous = binary_codes
            rotation, _ = orthogonal_procrustes(values, previous)
            rotated = values @ rotation
            binary_codes = signs(rotated)
            objective.append(np.square(binary_codes - rotated).sum())
            if np.array_equal(binary_codes, previous):
                break
        self.mean_, self.components_ = pca.mean_, rotation.T @ pca.components_
        self.objective_, self.n_iter_ = np.array(objective), len(objective)

    def _codes(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean_) @ self.components_.T

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags
