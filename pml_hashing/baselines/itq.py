"""ITQ: principal directions, rotated so that binarization loses least. Needs no labels."""

from typing import Any

import faiss
import numpy as np
from numpy.random import RandomState
from sklearn.preprocessing import normalize
from sklearn.utils import Tags

from pml_hashing.baselines._base import BaseShallowHasher, check_count

LARGEST = np.finfo(np.float32).max


class ITQ(BaseShallowHasher):
    r"""Iterative quantization: the rotation of principal components that is closest to bits.

    $$
    \min_{B, R} \lVert B - V R \rVert^2, \qquad
    B \in \{-1, 1\}^{n \times K}, \quad R^\top R = I
    $$

    where the rows of $V$ are the first $K$ principal components of the samples. In turn,
    $B = \operatorname{sign}(V R)$, and $R$ is the solution of the orthogonal Procrustes problem.
    The code of a sample is $\operatorname{sign}(v R)$. All of it is faiss' own `ITQTransform`.

    As in the authors' code, with one difference, which is faiss': a sample is divided by its norm
    after the mean has been subtracted.

    Args:
        code_length: Number of bits $K$, at most the number of features.
        max_iter: Number of alternations.
        random_state: Of the rotation to start from.

    Attributes:
        mean_: Mean of the features, `(num_features,)`.
        components_: Rotated principal directions, orthonormal rows, `(code_length, num_features)`.
        n_iter_: Number of alternations made.

    Examples:
        >>> import numpy as np
        >>> from pml_hashing.baselines import ITQ
        >>> features = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
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
        check_count(self.max_iter, "max_iter")
        n, width = features.shape
        if self.code_length > min(n - 1, width):
            raise ValueError(
                "Expected `code_length` of at most the number of principal components, "
                f"got {self.code_length} bits with n_samples={n}, n_features={width}."
            )
        largest, limit = np.abs(features).max(), np.sqrt(LARGEST / features.size)
        if largest > limit:
            raise ValueError(
                f"Expected `X` within {limit:.1e}, as faiss sums squares in float32, got {largest}."
            )
        transform: Any = faiss.ITQTransform(width, self.code_length, True)
        transform.itq.max_iter = self.max_iter
        transform.itq.seed = random_state.randint(2**31 - 1)
        transform.max_train_per_dim = n  # else it draws some of the samples
        transform.train(np.ascontiguousarray(features, dtype=np.float32))
        self.mean_ = faiss.vector_to_array(transform.mean)
        components = faiss.vector_to_array(transform.pca_then_itq.A)
        self.components_ = components.reshape(self.code_length, width)
        self.n_iter_ = self.max_iter

    def _codes(self, features: np.ndarray) -> np.ndarray:
        return normalize(features - self.mean_) @ self.components_.T

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags
