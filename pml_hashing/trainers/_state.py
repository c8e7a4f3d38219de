"""All that a training is at one moment, taken out of a trainer and put back."""

import os
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from pml_hashing.distributed import from_first_rank, of_all_ranks, rank, world_size
from pml_hashing.losses import CodeUpdate
from pml_hashing.trainers._random import random_state, set_random_state
from pml_hashing.trainers.checkpoints import CheckpointFolder

KINDS = ("models", "optimizers", "lr_schedulers", "loss_funcs", "mining_funcs")
"""The dicts of a PML trainer whose values have a state: those that PML's hooks save."""


def setup_of(trainer: Any) -> dict[str, int]:
    """Return what the place within a round means nothing without."""
    return {
        "seed": trainer.seed,
        "batch_size": int(trainer.batch_size),
        "accumulate_steps": trainer.accumulate_steps,
        "samples": len(trainer.indexed_dataset),
        "processes": world_size(),
    }


def state_of(trainer: Any, step: int | None) -> dict[str, Any]:
    """Return the state of a training, which still belongs to it: save it or copy it.

    Args:
        trainer: An `AsymmetricTrainer` in a round.
        step: Number of steps of the round that were made; `None` after its discrete step.
    """
    parts = step if step is None else step * trainer.accumulate_steps
    return {
        "setup": setup_of(trainer),
        "round": trainer.epoch,
        "step": step,
        "code_update": None if trainer.code_update is None else tuple(trainer.code_update),
        "precision": trainer.precision.state_dict(),
        "sampler": trainer.dataloader.batches.sampler_state(parts),
        "random": of_all_ranks(random_state(trainer.data_device)),
    } | {
        kind: {
            name: part.state_dict()
            for name, part in getattr(trainer, kind).items()
            if hasattr(part, "state_dict")
        }
        for kind in KINDS
    }


def load_state(trainer: Any, state: dict[str, Any]) -> None:
    """Put a state back, but for the place in the round and the random numbers there.

    Raises:
        ValueError: If it is the state of another training.
    """
    if state["step"] is not None and state["setup"] != setup_of(trainer):
        raise ValueError(
            "Expected the trainer as it was, since the checkpoint stands within a round: "
            f"{state['setup']}, got {setup_of(trainer)}."
        )
    for kind in KINDS:
        parts = {k: v for k, v in getattr(trainer, kind).items() if hasattr(v, "state_dict")}
        if parts.keys() != state[kind].keys():
            raise ValueError(
                f"Expected a checkpoint with the `{kind}` {', '.join(parts)}, "
                f"got one with {', '.join(state[kind])}."
            )
        for name, part in parts.items():
            try:
                part.load_state_dict(state[kind][name])
            except (KeyError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f'Expected a checkpoint of this trainer, got another {kind}["{name}"]: {error}'
                ) from error
    trainer.precision.load_state_dict(state["precision"])
    trainer.order.load_state(state["sampler"])
    trainer.code_update = state["code_update"] and CodeUpdate(*state["code_update"])


def start_batches(trainer: Any, place: dict[str, Any] | None) -> int:
    """Set the batches of a round, and the random numbers if it was begun before.

    Args:
        trainer: An `AsymmetricTrainer`.
        place: `"step"` and `"random"` of the state that is resumed, `None` to begin the round.

    Returns:
        Number of steps of the round that were made.
    """
    step, parts = place["step"] if place else 0, trainer.accumulate_steps
    stop = trainer.iterations_per_epoch * parts
    trainer.dataloader.batches.set_round(trainer.epoch, step * parts, stop)
    if place:
        set_random_state(place["random"][rank()], trainer.data_device)
    return step


def is_finite(trainer: Any) -> bool:
    """Return whether all weights are finite. A GPU has to wait for it."""
    weights = [
        parameter.isfinite().all()
        for kind in (trainer.models, trainer.loss_funcs)
        for part in kind.values()
        for parameter in part.parameters()
    ]
    return all(finite.item() for finite in weights)


def save(trainer: Any, step: int | None) -> None:
    """Save the state of a training by the first process, where there is a folder for it.

    Args:
        trainer: An `AsymmetricTrainer`.
        step: As for `state_of`.

    Raises:
        FloatingPointError: If a weight is not finite. Checkpoints of finite states stay.
    """
    if trainer.checkpoints is None:
        return
    if not is_finite(trainer):
        stop(trainer, "finite weights, got others")
    state, folder = state_of(trainer, step), trainer.checkpoints
    number = trainer.iterations_per_epoch if step is None else step
    folder.newest = from_first_rank(lambda: folder.save(state, trainer.epoch, number))


def resume(trainer: Any, folder: str | os.PathLike[str] | None) -> int:
    """Put the latest checkpoint back. `AsymmetricTrainer.resume` documents it."""
    checkpoints = trainer.checkpoints
    if folder is not None and (checkpoints is None or checkpoints.folder != Path(folder)):
        checkpoints = CheckpointFolder(folder)
    if checkpoints is None:
        raise ValueError("Expected a `folder` or a `checkpoint_folder`, got neither.")
    state = checkpoints.load()
    if state is None:
        return 1
    load_state(trainer, state)
    trainer.place = {key: state[key] for key in ("round", "step", "random")}
    return state["round"]


def take_place(trainer: Any) -> dict[str, Any] | None:
    """Return the place in the trainer's round that was resumed, once."""
    place, trainer.place = trainer.place, None
    return place if place is not None and place["round"] == trainer.epoch else None


def check_loss(trainer: Any, loss: Tensor) -> None:
    """Stop a training whose loss is not finite, unless float16 makes it skip such steps.

    Raises:
        FloatingPointError: If the loss is NaN or infinite, or the gradients are at any scale.
    """
    if trainer.precision.has_failed():
        stop(trainer, "finite gradients at some scale of the loss, got none")
    if not trainer.precision.is_scaled and not loss.isfinite():
        stop(trainer, f"a finite loss, got {loss.item()}")


def stop(trainer: Any, problem: str) -> NoReturn:
    """Raise an error that names the samples and the latest checkpoint."""
    newest = trainer.checkpoints and trainer.checkpoints.newest
    raise FloatingPointError(
        f"Expected {problem} in round {trainer.epoch}, step {trainer.iteration}, for the samples "
        f"{trainer.sample_indices.tolist()}."
        + (f" The latest checkpoint, of a finite state, is {newest}." if newest else "")
    )
