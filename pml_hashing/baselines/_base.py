"""What all shallow baselines share: checked input, class ids or multi-hot rows, codes as int8."""

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, TransformerTags, check_random_state, column_or_1d, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pml_hashing._checks import check_code_length, check_integer
from pml_hashing.codes import binarize_unchecked

FLOATS = (np.float32, np.float64)
"""Features of another type, half precision and integers among them, become the first of these."""

ROWS = 4096
"""Samples that are encoded at a time: kernel values of a whole database would not fit."""


def signs(values: np.ndarray) -> np.ndarray:
    """Return -1.0 or 1.0 for every value. Zero becomes 1."""
    return binarize_unchecked(torch.from_numpy(values)).numpy()


def encode_labels(y: ArrayLike) -> np.ndarray:
    """Return class ids as int64 from 0 to `num_classes - 1`, multi-hot rows as uint8.

    Raises:
        ValueError: If `y` is continuous, or has rows of other values than 0 and 1.
    """
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] > 1:
        other = labels[~np.isin(labels, (0, 1))]
        if other.size:
            raise ValueError(f"Expected multi-hot `y` of zeros and ones, got {other[0]}.")
        return labels.astype(np.uint8)
    check_classification_targets(labels)
    return np.unique(column_or_1d(labels, warn=True), return_inverse=True)[1]


class BaseShallowHasher(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """A scikit-learn transformer of features into binary codes.

    A subclass lists its parameters in `__init__`, learns in `_fit` and computes in `_codes`.
    """

    code_length: int
    random_state: int | RandomState | None

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn the hash functions.

        Args:
            X: Features, `(n, num_features)`.
            y: Class ids `(n,)`, of any kind, or multi-hot rows `(n, num_classes)`.

        Returns:
            The estimator itself.

        Raises:
            TypeError: If a parameter has a wrong type.
            ValueError: If a parameter is out of range, `X` is not a finite matrix, or `y` has
                another number of rows or is not a classification target.
        """
        check_integer(self.code_length, 1, "code_length")
        check_code_length(self.code_length)
        options: Any = {"X": X, "dtype": FLOATS, "ensure_min_samples": 2}
        features: Any
        labels = None
        if self.__sklearn_tags__().target_tags.required:
            features, classes = validate_data(self, **options | {"y": y, "multi_output": True})
            labels = encode_labels(classes)
        else:
            features = validate_data(self, **options)
        self._fit(features, labels, check_random_state(self.random_state))
        self._n_features_out = self.code_length  # for names of columns
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Encode features.

        Args:
            X: Features, `(n, num_features)`.

        Returns:
            Binary codes, -1 and 1, int8 `(n, code_length)`. `pml_hashing.codes.pack`, given
            `torch.from_numpy` of them, packs eight bits per byte.

        Raises:
            sklearn.exceptions.NotFittedError: If `fit` has not been called.
            ValueError: If `X` is not a finite matrix or has another number of columns than in
                `fit`.
        """
        check_is_fitted(self)
        options: Any = {"X": X, "dtype": FLOATS, "reset": False}
        features: Any = validate_data(self, **options)
        binary_codes = np.empty((len(features), self._n_features_out), dtype=np.int8)
        for rows in gen_batches(len(features), ROWS):
            binary_codes[rows] = signs(self._codes(features[rows]))
        return binary_codes

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.transformer_tags = TransformerTags(preserves_dtype=[])  # codes are int8
        return tags

    @abstractmethod
    def _fit(self, features: np.ndarray, labels: Any, random_state: RandomState) -> None:
        """Learn from `(n, num_features)` and encoded labels, which are `None` if not required."""

    @abstractmethod
    def _codes(self, features: np.ndarray) -> np.ndarray:
        """Return real codes of some rows: a bit is set where they are not negative."""
