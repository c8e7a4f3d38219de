"""Train networks with any loss: the recipes, and the one loop for all."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader, TensorDataset

from comparison.sources import Data
from comparison.task import FROZEN, Budget, Learned, Task
from pml_hashing import AsymmetricTrainer, CodeBank, HashingModel, TwoNetworkHashingModel
from pml_hashing.losses import CRHSchedule, DCWHSchedule, DiscreteLoss
from pml_hashing.models import TanhContinuation
from pml_hashing.models.hash_layer import Bound


class Training(NamedTuple):
    """What a schedule may act on."""

    model: HashingModel
    loss_func: Any
    dataset: Any
    epochs: int
    steps: int


def no_schedules(training: Training) -> dict[str, Any]:
    """Nothing but the weights changes while training."""
    return {}


def continuation(training: Training) -> dict[str, Any]:
    """HashNet's slope, which ends at the authors' √51, in as many changes as theirs."""
    changes, gamma = 50, 50 / training.steps
    step_size = max(1, training.steps // changes)
    bound = training.model.embedder.bound
    growing = TanhContinuation(bound, gamma=gamma, step_size=step_size)
    return {"metric_loss_scheduler_by_iteration": growing}


def dcwh_stages(training: Training) -> dict[str, Any]:
    """DCWH's two stages, half of all epochs each, and its centers after every epoch."""
    batches = DataLoader(training.dataset, 256)
    schedule = DCWHSchedule(training.loss_func, training.epochs // 2, training.model, batches)
    return {"metric_loss_scheduler_by_epoch": schedule}


def crh_centers(training: Training) -> dict[str, Any]:
    """CRH's centers, reassigned between epochs."""
    batches = DataLoader(training.dataset, 256)
    schedule = CRHSchedule(training.loss_func, training.model, batches)
    return {"metric_loss_scheduler_by_epoch": schedule}


@dataclass(frozen=True)
class Recipe:
    """A loss, and what networks need beyond its defaults. Called with a task, it trains them.

    Attributes:
        loss: A class, or a function that returns a `torch.nn.Module`. It is given those of
            `num_classes`, `code_length`, `seed` and `code_bank` that it accepts. A loss that takes
            the code bank derives from `DiscreteLoss`.
        arguments: Further arguments of the loss, where they differ from its defaults.
        bound: What bounds the codes: see `HashLayer`. `"none"` where the paper has no tanh.
        networks: 2 for a loss of two networks.
        sum_codes: With two networks, whether the sum of their codes encodes queries and database,
            or the first network the queries and the second the database.
        schedules: Makes what changes while training, by PML's names of schedulers.
    """

    loss: Callable[..., nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    bound: Bound = "tanh"
    networks: int = 1
    sum_codes: bool = True
    schedules: Callable[[Training], dict[str, Any]] = no_schedules

    def __call__(self, task: Task) -> Learned:
        return train_networks(self, task)


def train_networks(recipe: Recipe, task: Task) -> Learned:
    """Train one or two networks with a loss. The budget and the loop are the same for all."""
    torch.manual_seed(task.seed)
    budget, training = task.budget, task.split.training
    networks = [make_network(task, recipe) for _ in range(recipe.networks)]
    loss_func = make_loss(recipe, task)
    if budget.head_epochs:
        train_hash_layers(networks, loss_func, task)
    dataset = task.data.training_set(
        networks[0], training, budget.augmentation, budget.training_scale
    )
    schedules = recipe.schedules(
        Training(networks[0], loss_func, dataset, budget.epochs, steps_of(budget, len(training)))
    )
    train([(n.trunk, n.embedder) for n in networks], loss_func, dataset, task, schedules)
    return encoders(networks, recipe, task.data)


def train_hash_layers(networks: list[HashingModel], loss_func: nn.Module, task: Task) -> None:
    """Train the hash layers alone, on features of the training images as they are."""
    training, budget = task.split.training, task.budget
    trunk = networks[0].trunk.eval()  # all of them start with the same weights
    with torch.no_grad():
        batches = task.data.batches(networks[0], training)
        features = [trunk(batch.to(task.device)).cpu() for batch in batches]
    dataset = TensorDataset(torch.cat(features), task.data.labels[training])
    layers = [(nn.Identity(), network.embedder) for network in networks]
    sizes = {"epochs": budget.head_epochs, "batch_size": budget.batch_size}
    alone = task._replace(budget=replace(FROZEN, **sizes))
    train(layers, loss_func, dataset, alone, {})


def steps_of(budget: Budget, num_images: int) -> int:
    """Return the number of steps of a training."""
    passes = math.ceil(num_images / budget.batch_size)
    return budget.epochs * (budget.steps_per_epoch or passes)


def train(
    networks: Sequence[tuple[nn.Module, nn.Module]],
    loss_func: nn.Module,
    dataset: Any,
    task: Task,
    schedules: dict[str, Any],
) -> None:
    """Train networks, given as trunk and embedder each, as the budget says."""
    budget, models = task.budget, dict[str, nn.Module]()
    for prefix, (trunk, embedder) in zip(("", "database_"), networks, strict=False):
        models |= {f"{prefix}trunk": trunk, f"{prefix}embedder": embedder}
    optimizers = make_optimizers(models | {"metric_loss": loss_func}, budget)
    if isinstance(loss_func, DiscreteLoss) and loss_func.code_bank is not None:
        models["code_bank"] = loss_func.code_bank
    steps = steps_of(budget, len(dataset))
    AsymmetricTrainer(
        models,
        optimizers,
        budget.batch_size,
        {"metric_loss": loss_func},
        dataset,
        lr_schedulers=cosine_schedules(optimizers, budget, steps) | schedules,
        iterations_per_epoch=budget.steps_per_epoch,
        data_device=torch.device(task.device),
        dataloader_num_workers=task.data.workers,
        freeze_trunk_batchnorm=budget.freeze_batch_norm,
        channels_last=True,  # of images: faster, on a CPU too
        seed=task.seed,
    ).train(num_epochs=budget.epochs)


def make_network(task: Task, recipe: Recipe) -> HashingModel:
    """Return an untrained network."""
    budget = task.budget
    options = {"bound": recipe.bound, "head": budget.head, "drop_rate": budget.drop_rate}
    model = task.data.model(task.code_length, task.split.training, **options)
    return model.to(task.device)


def make_loss(recipe: Recipe, task: Task) -> nn.Module:
    """Return the loss, with the sizes it asks for, and a code bank if it has discrete variables.

    Raises:
        TypeError: If it cannot be made from these arguments, or is no `torch.nn.Module`.
    """
    labels, code_length = task.data.labels, task.code_length
    num_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    name = getattr(recipe.loss, "__qualname__", repr(recipe.loss))
    accepted = arguments_of(recipe.loss)
    offered = {"num_classes": num_classes, "code_length": code_length, "seed": task.seed}
    arguments: dict[str, Any] = {key: value for key, value in offered.items() if key in accepted}
    if "code_bank" in accepted:
        options = {"num_classes": num_classes, "num_networks": recipe.networks}
        bank = CodeBank(labels[task.split.training], code_length, **options)
        arguments["code_bank"] = bank.to(task.device)
    arguments |= recipe.arguments
    try:
        inspect.signature(recipe.loss).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "Expected a loss that is made of num_classes, code_length and, if it likes, seed and "
            f"code_bank, got {name}: {error}."
        ) from error
    loss_func = recipe.loss(**arguments)
    if not isinstance(loss_func, nn.Module):
        raise TypeError(
            f"Expected {name} to return a torch.nn.Module, got {type(loss_func).__name__}."
        )
    return loss_func.to(task.device)


def arguments_of(loss: Callable[..., Any]) -> set[str]:
    """Return the names of the arguments of a loss.

    A class with `**` has those of its parents too, and a function with `**` has the sizes.
    """
    if not inspect.isclass(loss):
        named, takes_more = _named(loss)
        return named | {"num_classes", "code_length"} if takes_more else named
    found: set[str] = set()
    for parent in inspect.getmro(loss):
        if "__init__" in vars(parent):
            named, takes_more = _named(parent.__init__)
            found |= named - {"self"}
            if not takes_more:
                break
    return found


def _named(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """Return the named arguments, and whether there is a `**` for others."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some that are built in have none
        return set(), False
    named = {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
    return named, any(p.kind == p.VAR_KEYWORD for p in parameters)


def make_optimizers(parts: dict[str, nn.Module], budget: Budget) -> dict[str, Optimizer]:
    """Return AdamW for all that has parameters."""
    return {
        f"{name}_optimizer": AdamW(
            part.parameters(),
            lr=budget.lr * (budget.trunk_rate if name.endswith("trunk") else 1),
            weight_decay=budget.weight_decay,
        )
        for name, part in parts.items()
        if any(True for _ in part.parameters())
    }


def cosine_schedules(
    optimizers: dict[str, Optimizer], budget: Budget, steps: int
) -> dict[str, Any]:
    """Return a schedule for each optimizer, by PML's names: see `Budget.warm_up`."""
    if budget.warm_up == 0:
        return {
            name.replace("_optimizer", "_scheduler_by_epoch"): CosineAnnealingLR(of, budget.epochs)
            for name, of in optimizers.items()
        }
    warm_up = min(round(steps * budget.warm_up / budget.epochs), steps - 1)
    return {
        name.replace("_optimizer", "_scheduler_by_iteration"): SequentialLR(
            of, [LinearLR(of, 0.01, 1, warm_up), CosineAnnealingLR(of, steps - warm_up)], [warm_up]
        )
        for name, of in optimizers.items()
    }


def encoders(networks: list[HashingModel], recipe: Recipe, data: Data) -> Learned:
    """Return the networks as encoders: everything is encoded, as in a deployed index."""

    def encode(model: HashingModel | TwoNetworkHashingModel, indices: Tensor) -> Tensor:
        return model.encode(data.batches(networks[0], indices), progress=False)

    if len(networks) == 2 and recipe.sum_codes:
        both = partial(encode, TwoNetworkHashingModel(*networks))  # which encodes by the sum
        return Learned(both, both)
    return Learned(partial(encode, networks[0]), partial(encode, networks[-1]))
