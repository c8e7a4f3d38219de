"""One training in several processes: each takes its part of every batch, all take the same steps.

The networks see a part of the batch each, and PyTorch's own `DistributedDataParallel` averages
their gradients. Their codes, some numbers a sample, are gathered: the loss then is that of the
whole batch in every process, and so are the code bank, the miner's pairs and the discrete step.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pml_hashing._checks import check
from pml_hashing.distributed import (
    broadcast,
    gather_rows,
    is_distributed,
    of_all_ranks,
    parts,
    rank,
    world_size,
)

Codes: TypeAlias = tuple[Tensor, Tensor | None]
"""Codes of a batch by the first network, and by the second where there is one."""


class _Networks(nn.Module):
    """All networks as one module, whose gradients are averaged together."""

    def __init__(self, networks: Iterable[nn.Module], compute: Callable[[Any], Codes]) -> None:
        super().__init__()
        self.networks, self.compute = nn.ModuleList(networks), compute

    def forward(self, data: Any) -> Codes:
        return self.compute(data)


def parallel(
    networks: Iterable[nn.Module], compute: Callable[[Any], Codes]
) -> DistributedDataParallel | None:
    """Return a module that averages the gradients of networks over the processes.

    The networks stay what they are: it is they that are tested and saved.

    Args:
        networks: The networks. Those to be frozen are frozen.
        compute: Calls them, from the data of a batch to its codes. So does the module.

    Returns:
        The module, `None` where there is one process or nothing to average.
    """
    module = _Networks(networks, compute)
    is_trained = any(parameter.requires_grad for parameter in module.parameters())
    return DistributedDataParallel(module) if is_distributed() and is_trained else None


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


@contextmanager
def shared_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Give all processes the same random numbers of torch, since each is at another place.

    Args:
        seed: Another one in every step, and for every part of its batch.
        device: Device of the loss.
    """
    if not is_distributed():
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def share_state(modules: Iterable[nn.Module]) -> None:
    """Overwrite the parameters and buffers of modules by those of the first process.

    All processes make the same steps, but each has batch statistics of its own, and on GPUs sums
    differ in their last digits.
    """
    for module in modules:
        broadcast([*module.parameters(), *module.buffers()])


def check_agreement(**values: object) -> None:
    """Raise unless some values are the same in all processes.

    Raises:
        ValueError: If they are not.
    """
    of_ranks = of_all_ranks(values)
    for name in values:
        of_name = [of_rank[name] for of_rank in of_ranks]
        same = all(value == of_name[0] for value in of_name)
        check(same, f"the same {name} in all processes", ", ".join(map(str, of_name)))
