"""Methods without a network: shallow hashing of features, and the float features themselves."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from comparison.sources import Features
from comparison.task import Encoder, Learned, Task


def fit_baseline(estimator_class: Any, task: Task) -> Learned:
    """Fit a method without a network to the features of the training images."""
    features = standardized_features(task)
    training = task.split.training
    estimator = estimator_class(task.code_length, random_state=task.seed)
    estimator.fit(features(training).numpy(), task.data.labels[training].numpy())

    def encode(indices: Tensor) -> Tensor:
        codes = [estimator.transform(features(part).numpy()) for part in indices.split(4096)]
        return torch.from_numpy(np.concatenate(codes)).float()

    return Learned(encode, encode)


def float_features(task: Task) -> Learned:
    """Return the float features, which are searched by cosine: what codes are compressed from."""
    features = standardized_features(task)
    return Learned(features, features)


def standardized_features(task: Task) -> Encoder:
    """Return the features themselves, standardized as all networks see them.

    Raises:
        ValueError: If there are none, since networks are trained end to end.
    """
    if not isinstance(task.data, Features):
        raise ValueError("Expected frozen features for a `method` without a network, got images.")
    data, standardize = task.data, task.data.model(1, task.split.training).trunk
    return lambda indices: standardize(data.features[indices])
