"""Checks of a trainer's arguments that have to do with each other."""

import math
from typing import Any

from pml_hashing._checks import check_at_least
from pml_hashing.distributed import world_size
from pml_hashing.losses import DiscreteLoss

MODELS = ("trunk", "embedder", "database_trunk", "database_embedder", "code_bank")


def check_trainer(trainer: Any) -> None:
    """Raise unless the arguments of an `AsymmetricTrainer` belong together.

    Raises:
        ValueError: If they do not.
    """
    unknown = set(trainer.models) - set(MODELS)
    if unknown or "trunk" not in trainer.models:
        raise ValueError(
            f"Expected `models` with the keys trunk and, if wanted, {', '.join(MODELS[1:])}, "
            f"got {', '.join(map(repr, trainer.models))}."
        )
    if trainer.label_hierarchy_level != "all":
        raise ValueError(
            "Expected `label_hierarchy_level` to be 'all', since multi-hot labels would be "
            f"reduced to one column, got {trainer.label_hierarchy_level!r}."
        )
    if "code_bank" in trainer.models and "subset_batch_miner" in trainer.mining_funcs:
        raise ValueError(
            "Expected no `subset_batch_miner` beside a code bank, which has to know the "
            "samples of a batch, got one."
        )
    _check_sizes(trainer)
    _check_code_bank(trainer)


def _check_sizes(trainer: Any) -> None:
    for name in ("passes_per_round", "batch_size", "accumulate_steps"):
        check_at_least(getattr(trainer, name), 1, name)
    check_at_least(trainer.checkpoint_every or 1, 1, "checkpoint_every")
    size, batch_size = len(trainer.indexed_dataset), int(trainer.batch_size)
    if size < batch_size:
        raise ValueError(
            f"Expected a `dataset` of at least `batch_size` = {batch_size} samples, got {size}."
        )
    for samples in (size, len(trainer.order)):  # a sampler may draw fewer, or more
        batches = math.ceil(samples / (batch_size * world_size()))
        smallest = samples // (batches * trainer.accumulate_steps)
        if smallest < world_size():
            raise ValueError(
                f"Expected batches of at least {world_size()} samples, one a process, got one of "
                f"{smallest}: choose a larger `batch_size`, fewer `accumulate_steps` or processes."
            )


def _check_code_bank(trainer: Any) -> None:
    bank, loss_func = trainer.models.get("code_bank"), trainer.loss_funcs.get("metric_loss")
    of_loss = loss_func.code_bank if isinstance(loss_func, DiscreteLoss) else None
    if bank is not of_loss:
        raise ValueError(
            'Expected models["code_bank"] to be the `code_bank` of the loss, so that it is '
            f"saved with the models, got {bank} and {of_loss}."
        )
    if of_loss is not None and len(of_loss) != len(trainer.indexed_dataset):
        raise ValueError(
            f"Expected a `dataset` of {len(of_loss)} samples, as the code bank has, "
            f"got {len(trainer.indexed_dataset)}."
        )


def restrict_schema(trainer: Any) -> None:
    """Tell PML which models there may be, and which need an optimizer."""
    models, optimizers = trainer.schema["models"], trainer.schema["optimizers"]
    models.keys, models.important = list(MODELS), ["trunk", "embedder"]
    trained = [name for name, model in trainer.models.items() if list(model.parameters())]
    optimizers.important = [f"{name}_optimizer" for name in trained]
