"""Share rows and decisions among the processes of a training run, by torch.distributed.

Every function also works in a single process.
"""

from collections.abc import Callable, Iterable, Sequence, Sized
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed
from torch.utils.data import Dataset, Subset

T = TypeVar("T")


def is_distributed() -> bool:
    """Return whether `torch.distributed.init_process_group` was called."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Return the rank of this process, 0 where there is only one."""
    return distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if is_distributed() else 1


def parts(length: int) -> list[slice]:
    """Return the parts of `length` things that fall to each process.

    They are consecutive and of nearly equal size.

    Args:
        length: Number of things, the same in all processes.

    Examples:
        >>> from pml_hashing.distributed import parts
        >>> parts(10)  # one process
        [slice(0, 10, None)]
    """
    ends = [length * place // world_size() for place in range(world_size() + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def shard(dataset: Dataset[Any]) -> Subset[Any]:
    """Return the part of a data set that falls to this process, as `parts` divides it.

    Args:
        dataset: A data set with a length, the same in all processes.

    Raises:
        TypeError: If `dataset` has no length.
        ValueError: If it has fewer samples than there are processes.

    Examples:
        >>> import torch
        >>> from pml_hashing.distributed import gather_rows, shard
        >>> dataset = torch.utils.data.TensorDataset(torch.arange(3.0))
        >>> rows = torch.stack([item[0] for item in shard(dataset)])
        >>> gather_rows(rows)
        tensor([0., 1., 2.])
    """
    if not isinstance(dataset, Sized):
        raise TypeError(f"Expected a `dataset` with a length, got {type(dataset).__name__}.")
    if len(dataset) < world_size():
        raise ValueError(
            f"Expected a `dataset` of at least {world_size()} samples, one per process, "
            f"got {len(dataset)}."
        )
    places = parts(len(dataset))[rank()]
    return Subset(dataset, range(places.start, places.stop))


def gather_rows(values: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Return the rows of all processes, in the order of their ranks. No gradient flows.

    Args:
        values: Rows of this process, `(n, ...)`: of any number, but of one width and dtype.
        sizes: Number of rows of every process, where it is known. Gathered if `None`, which makes a
            GPU wait.

    Returns:
        All rows, `(sum(sizes), ...)`, on the device of `values`.

    Raises:
        ValueError: If the processes have rows of different widths or dtypes, and `sizes` is `None`.
    """
    if not is_distributed():
        return values.detach()
    if sizes is None:
        sizes = _sizes_of_ranks(values)
    rows = _gather(values.detach(), max(sizes))
    return torch.cat([of_rank[:size] for of_rank, size in zip(rows, sizes, strict=True)])


def _sizes_of_ranks(values: Tensor) -> list[int]:
    """Return the number of rows of every process, or raise if they do not fit together."""
    of_ranks = of_all_ranks((tuple(values.shape), str(values.dtype)))
    if len({(shape[1:], dtype) for shape, dtype in of_ranks}) > 1:
        got = "shapes " + ", ".join(f"{shape} of {dtype}" for shape, dtype in of_ranks)
        raise ValueError(f"Expected `values` of one width and dtype in all processes, got {got}.")
    return [shape[0] for shape, _ in of_ranks]


def _gather(values: Tensor, length: int) -> Tensor:
    """Return the rows of all processes, `(world_size, length, ...)`, padded at their ends."""
    shape = (length, *values.shape[1:])
    padded = values.new_zeros(shape)
    padded[: len(values)] = values
    if padded.numel() == 0:
        return padded.expand(world_size(), *shape)
    # As bytes, since backends differ in the dtypes that they know; padded, since some of them
    # gather equal sizes only.
    mine = padded.view(-1).view(torch.uint8).to(_device(values.device))
    rows = [torch.empty_like(mine) for _ in range(world_size())]
    distributed.all_gather(rows, mine)
    return torch.cat(rows).to(values.device).view(values.dtype).view(world_size(), *shape)


def broadcast(values: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process, in place.

    Args:
        values: As many tensors in all processes, of the same shapes and dtypes.
    """
    if not is_distributed():
        return
    for value in values:
        received = value.detach().reshape(-1).view(torch.uint8).to(_device(value.device)).clone()
        distributed.broadcast(received, 0)
        value.detach().copy_(received.to(value.device).view(value.dtype).view(value.shape))


def from_first_rank(function: Callable[[], T]) -> T:
    """Call a function in the first process alone, and return its result in all of them.

    Args:
        function: A function whose result can be pickled. The other processes wait for it, as long
            as the `timeout` of `init_process_group` allows.

    Raises:
        RuntimeError: In the other processes, if the function fails in the first.
    """
    if not is_distributed():
        return function()
    result: Any = None
    error: Exception | None = None
    if rank() == 0:
        try:
            result = function()
        except Exception as caught:  # the others would wait for a process that is gone
            error = caught
    shared = [result, error and repr(error)]
    distributed.broadcast_object_list(shared, 0)
    if error is not None:
        raise error
    if shared[1] is not None:
        raise RuntimeError(f"Expected the first process to go on, got its {shared[1]}.")
    return cast(T, shared[0])


def of_all_ranks(value: T) -> list[T]:
    """Return the values of all processes, which can be pickled, in the order of their ranks."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def _device(home: torch.device) -> torch.device:
    """Return the device on which values travel: NCCL carries no CPU tensors."""
    return torch.device("cuda") if distributed.get_backend() == "nccl" else home
