"""All methods by name: losses that train networks, methods without a network, float features."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comparison.networks import RECIPES, Recipe, train_networks
from comparison.sources import Features
from comparison.task import Encoder, Learned, Method, Task
from pml_hashing import baselines, losses


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


def standardized_features(task: Task) -> Encoder:
    """Return the features themselves, standardized as all networks see them."""
    if not isinstance(task.data, Features):
        raise ValueError("Expected frozen features for a `method` without a network, got images.")
    data, standardize = task.data, task.data.model(1, task.split.training).trunk
    return lambda indices: standardize(data.features[indices])


def float_features(task: Task) -> Learned:
    """Return the float features, which are searched by cosine: what codes are compressed from."""
    features = standardized_features(task)
    return Learned(features, features)


FLOAT_FEATURES = "float features"
BASELINES = {name: getattr(baselines, name) for name in baselines.__all__}


def _losses() -> dict[str, Any]:
    """Return all losses but the terms of DSAH, which tell no classes apart alone."""
    classes = {name: getattr(losses, name) for name in losses.__all__ if name.endswith("Loss")}
    return {
        name.removesuffix("Loss"): loss_class
        for name, loss_class in classes.items()
        if not name.startswith("Base") and not loss_class.__module__.endswith("dsah_terms")
    }


METHODS: dict[str, Method] = {
    FLOAT_FEATURES: float_features,
    **{name: partial(fit_baseline, estimator) for name, estimator in BASELINES.items()},
    **{
        name: partial(train_networks, loss_class, RECIPES.get(name, Recipe()))
        for name, loss_class in _losses().items()
    },
    "DSAH kappa=10 rho=0": partial(
        train_networks, losses.DSAHLoss, Recipe(loss={"kappa": 10.0, "rho": 0.0})
    ),
}
