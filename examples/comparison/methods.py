"""All methods of a comparison, with what a loss needs beside its defaults."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from comparison.protocols import Split
from comparison.sources import Data, Features
from pml_hashing import AsymmetricTrainer, CodeBank, HashingModel, losses
from pml_hashing.losses import BaseDiscreteLoss, DCWHSchedule
from pml_hashing.models import TanhContinuation, encoding


@dataclass(frozen=True)
class Budget:
    """What is the same for all networks: AdamW, and a rate that falls to 0 as a cosine does."""

    epochs: int = 12
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-3
    head: str = "mlp"
    drop_rate: float = 0.2


class Task(NamedTuple):
    """What one method has to learn from, and with how much."""

    data: Data
    split: Split
    code_length: int
    seed: int
    budget: Budget
    device: str


Encoder = Callable[[Tensor], Tensor]
"""Codes of the images at some places: packed or real ones."""


class Learned(NamedTuple):
    """How a trained method encodes queries and database."""

    query: Encoder
    database: Encoder


Method = Callable[[Task], Learned]


class Training(NamedTuple):
    """What a schedule may act on."""

    model: HashingModel
    loss_func: Any
    dataset: Any
    epochs: int
    steps: int


def _no_schedules(training: Training) -> dict[str, Any]:
    return {}


def _continuation(training: Training) -> dict[str, Any]:
    """HashNet's slope, which reaches the authors' √51 at the end, in as many changes as theirs."""
    changes, gamma = 50, 50 / training.steps
    step_size = max(1, training.steps // changes)
    bound = training.model.embedder.bound
    continuation = TanhContinuation(bound, gamma=gamma, step_size=step_size)
    return {"embedder_scheduler_by_iteration": continuation}


def _dcwh_stages(training: Training) -> dict[str, Any]:
    """DCWH's two stages, half of all epochs each, and its centers after every epoch."""
    batches = DataLoader(training.dataset, 256)
    schedule = DCWHSchedule(training.loss_func, training.epochs // 2, training.model, batches)
    return {"metric_loss_scheduler_by_epoch": schedule}


@dataclass(frozen=True)
class Recipe:
    """What a loss needs beside its defaults.

    Attributes:
        bound: What bounds the codes: see `HashLayer`. `"none"` where the paper has no tanh.
        networks: 2 for a loss of two networks.
        sum_codes: Of two networks, whether the sum of their codes encodes queries and database, or
            the first the queries and the second the database.
        bank: Further arguments of the code bank.
        schedules: Makes what changes while training, by PML's names of schedulers.
    """

    bound: str = "tanh"
    networks: int = 1
    sum_codes: bool = True
    bank: Mapping[str, Any] = field(default_factory=dict)
    schedules: Callable[[Training], dict[str, Any]] = _no_schedules


RECIPES = {
    "DADH": Recipe(networks=2),
    "DAPH": Recipe(networks=2, sum_codes=False, bank={"query_binary_codes": True}),
    "DCWH": Recipe(bound="none", schedules=_dcwh_stages),
    "DPSH": Recipe(bound="none"),
    "DTSH": Recipe(bound="none"),
    "GreedyHash": Recipe(bound="none"),
    "HashNet": Recipe(bound="scaled_tanh", schedules=_continuation),
    "OrthoHash": Recipe(bound="none"),
}
"""Losses that need more than the defaults. All others need no line here."""


class SumOfCodes(nn.Module):
    """The sum of the codes of two networks."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, inputs: Tensor) -> Tensor:
        return self.first(inputs) + self.second(inputs)


def make_loss(loss_class: Any, task: Task, recipe: Recipe) -> nn.Module:
    """Return the loss, with the sizes it asks for, and a code bank if it has discrete variables."""
    labels = task.data.labels
    num_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    offered: dict[str, Any] = {
        "num_classes": num_classes,
        "code_length": task.code_length,
        "seed": task.seed,
    }
    if issubclass(loss_class, BaseDiscreteLoss):
        offered["code_bank"] = CodeBank(
            labels[task.split.training],
            task.code_length,
            num_classes=num_classes,
            num_networks=recipe.networks,
            **recipe.bank,
        ).to(task.device)
    accepted = inspect.signature(loss_class).parameters
    return loss_class(**{k: v for k, v in offered.items() if k in accepted}).to(task.device)


def train_networks(loss_class: Any, recipe: Recipe, task: Task) -> Learned:
    """Train one or two networks with a loss, all with the same budget."""
    budget, training = task.budget, task.split.training
    networks = [
        task.data.model(
            task.code_length,
            training,
            bound=recipe.bound,
            head=budget.head,
            drop_rate=budget.drop_rate,
        ).to(task.device)
        for _ in range(recipe.networks)
    ]
    dataset = task.data.training_set(networks[0], training)
    loss_func = make_loss(loss_class, task, recipe)
    models = {}
    for prefix, network in zip(("", "database_"), networks, strict=False):
        models |= {f"{prefix}trunk": network.trunk, f"{prefix}embedder": network.embedder}
    optimizers = make_optimizers(models | {"metric_loss": loss_func}, budget)
    steps = budget.epochs * -(-len(training) // budget.batch_size)
    schedules = {
        name.replace("_optimizer", "_scheduler_by_epoch"): CosineAnnealingLR(
            optimizer, budget.epochs
        )
        for name, optimizer in optimizers.items()
    } | recipe.schedules(Training(networks[0], loss_func, dataset, budget.epochs, steps))
    if isinstance(loss_func, BaseDiscreteLoss):
        models["code_bank"] = loss_func.code_bank
    AsymmetricTrainer(
        models,
        optimizers,
        budget.batch_size,
        {"metric_loss": loss_func},
        dataset,
        lr_schedulers=schedules,
        data_device=torch.device(task.device),
        dataloader_num_workers=task.data.workers,
        seed=task.seed,
    ).train(num_epochs=budget.epochs)
    return encoders(networks, recipe, task.data)


def make_optimizers(parts: dict[str, nn.Module], budget: Budget) -> dict[str, Optimizer]:
    """Return AdamW for all that has parameters. A trained backbone is to change little."""
    return {
        f"{name}_optimizer": AdamW(
            part.parameters(),
            lr=budget.lr * (0.1 if name.endswith("trunk") else 1),
            weight_decay=budget.weight_decay,
        )
        for name, part in parts.items()
        if any(True for _ in part.parameters())
    }


def encoders(networks: list[HashingModel], recipe: Recipe, data: Data) -> Learned:
    """Return the networks as encoders: everything is encoded, as in an index that is deployed."""

    def encode(model: nn.Module, indices: Tensor) -> Tensor:
        batches = data.batches(networks[0], indices)
        return encoding.encode(
            model, batches, batch_size=256, device=None, amp=False, progress=False
        )

    first, last = networks[0], networks[-1]
    if len(networks) == 2 and recipe.sum_codes:
        first = last = SumOfCodes(first, last)
    return Learned(partial(encode, first), partial(encode, last))


class ITQ:
    """ITQ (faiss' own), as an estimator: `fit(X, y)`, then `transform(X)` to codes of -1 and 1."""

    def __init__(self, code_length: int, *, random_state: int) -> None:
        self.code_length = code_length

    def fit(self, features: np.ndarray, labels: np.ndarray) -> "ITQ":
        self.transformation = faiss.ITQTransform(features.shape[1], self.code_length, True)
        self.transformation.train(features)
        return self

    def transform(self, features: np.ndarray) -> np.ndarray:
        return np.where(self.transformation.apply(features) >= 0, 1, -1).astype(np.int8)


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
BASELINES = {"ITQ": ITQ}


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
}
