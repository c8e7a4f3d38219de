"""One training in several processes: each takes its part of every batch, all take the same steps.

The networks see a part of the batch each, and PyTorch's own `DistributedDataParallel` averages
their gradients. Their codes, some numbers a sample, are gathered: the loss then is that of the
whole batch in every process, and so are the code bank, the miner's pairs and the discrete step.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pml_hashing._compat import DistributedLossWrapper
from pml_hashing.distributed import (
    broadcast,
    from_first_rank,
    gather_rows,
    is_distributed,
    parts,
    rank,
    world_size,
)

Compute = Callable[[Any], tuple[Tensor, Tensor | None]]
"""From the data of a batch to its codes by one or two networks."""


class EveryRank:
    """A hook that every process of a training calls, since it shares rows among them.

    `AsymmetricTrainer` calls other hooks in the first process alone: PML's write files.

    Args:
        hook: A function of the trainer. The answer of the first process counts.
    """

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self.hook = hook

    def __call__(self, trainer: Any) -> Any:
        return self.hook(trainer)


class _Networks(nn.Module):
    """All networks as one module, whose gradients are averaged together."""

    def __init__(self, models: dict[str, nn.Module], compute: Compute) -> None:
        super().__init__()
        self.models, self.compute = nn.ModuleDict(models), compute

    def forward(self, data: Any) -> tuple[Tensor, Tensor | None]:
        return self.compute(data)


def data_parallel(models: dict[str, nn.Module], compute: Compute) -> Compute:
    """Return `compute` such that its gradients are averaged over the processes.

    The models stay what they are: it is they that are tested and saved.

    Args:
        models: The networks that `compute` calls. Those to be frozen are frozen.
        compute: See `Compute`.
    """
    trained = any(p.requires_grad for model in models.values() for p in model.parameters())
    if not is_distributed() or not trained or isinstance(compute, DistributedDataParallel):
        return compute
    return DistributedDataParallel(_Networks(models, compute))


def gather_batch(
    codes: Tensor, labels: Tensor, second: Tensor | None, batch_size: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the rows of the whole batch. The gradient of this process's rows flows.

    Args:
        codes: Codes of this process's part of a batch.
        labels: Their labels.
        second: Their codes by the second network, if any.
        batch_size: Size of the whole batch.
    """
    if not is_distributed():
        return codes, labels, second
    sizes = [part.stop - part.start for part in parts(batch_size)]
    both = None if second is None else _gather_with_gradient(second, sizes)
    return _gather_with_gradient(codes, sizes), gather_rows(labels, sizes), both


def _gather_with_gradient(rows: Tensor, sizes: list[int]) -> Tensor:
    of_ranks = list(gather_rows(rows, sizes).split(sizes))
    of_ranks[rank()] = rows
    whole = torch.cat(of_ranks)
    if whole.requires_grad:  # of a sum over processes, of which a mean is taken
        whole.register_hook(lambda gradient: gradient * world_size())
    return whole


def shared_random_numbers(seed: int, device: torch.device) -> AbstractContextManager[None]:
    """Give all processes the same random numbers of torch, since each is at another place.

    Args:
        seed: Another one in every step.
        device: Device of the loss.
    """
    return _seeded(seed, device) if is_distributed() else nullcontext()


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def share_state(*modules: nn.Module) -> None:
    """Overwrite the parameters and buffers of modules by those of the first process.

    All processes make the same steps, but each has batch statistics of its own, and on GPUs sums
    differ in their last digits.
    """
    for module in modules:
        broadcast([*module.parameters(), *module.buffers()])


def check_parallel(trainer: Any) -> None:
    """Raise if several processes cannot share the training of an `AsymmetricTrainer`.

    Raises:
        ValueError: If a loss gathers the batch by itself, or a miner changes its size.
    """
    for loss in trainer.loss_funcs.values():
        if isinstance(loss, DistributedLossWrapper | DistributedDataParallel):
            raise ValueError(
                "Expected a loss as it is, since the trainer gathers the batch of all processes, "
                f"got one in a {type(loss).__name__}."
            )
    if is_distributed() and "subset_batch_miner" in trainer.mining_funcs:
        raise ValueError("Expected no `subset_batch_miner` in several processes, got one.")


def check_agreement(**values: int) -> None:
    """Raise unless some numbers are the same in all processes.

    Raises:
        ValueError: If they are not.
    """
    of_ranks = gather_rows(torch.tensor([list(values.values())]))
    for name, column in zip(values, of_ranks.T.tolist(), strict=True):
        if len(set(column)) > 1:
            raise ValueError(
                f"Expected the same {name} in all processes, got {', '.join(map(str, column))}."
            )


def call_hook(hook: Callable[[Any], Any], trainer: Any) -> bool:
    """Call a hook at the end of a round, and return whether training goes on."""
    if isinstance(hook, EveryRank):
        answer = hook(trainer)
        return from_first_rank(lambda: answer is not False)
    goes_on = from_first_rank(lambda: hook(trainer) is not False)
    _share_learning_rates(trainer.optimizers)
    return goes_on


def _share_learning_rates(optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Take over the rates of the first process, where PML's hook may have stepped a scheduler."""
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    rates = from_first_rank(lambda: [group["lr"] for group in groups])
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


def start_processes(trainer: Any, start_epoch: int, num_epochs: int) -> None:
    """Make several processes one training, from the state of the first.

    Args:
        trainer: An `AsymmetricTrainer`.
        start_epoch: First round.
        num_epochs: Last round.
    """
    check_agreement(
        start_epoch=start_epoch,
        num_epochs=num_epochs,
        seed=trainer.seed,
        batch_size=int(trainer.batch_size),
        accumulate_steps=trainer.accumulate_steps,
        iterations_per_epoch=int(trainer.iterations_per_epoch),
        samples=len(trainer.indexed_dataset),
    )
    trainer.set_to_train()  # which freezes what is to be frozen
    share_state(*trainer.models.values(), *trainer.loss_funcs.values())
    networks = {k: model for k, model in trainer.models.items() if k != "code_bank"}
    trainer.networks = data_parallel(networks, trainer.networks)
