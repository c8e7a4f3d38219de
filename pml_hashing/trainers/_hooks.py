"""Functions that a training calls at the end of a step or of a round, in one process or in all."""

from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

from pml_hashing.distributed import from_first_rank, rank

T = TypeVar("T")
Hook: TypeAlias = Callable[[T], object]
"""A function of an engine or trainer."""


class EveryRank(Generic[T]):
    """A hook that every process of a training calls, since it shares rows among them.

    `Engine` and `AsymmetricTrainer` call other hooks in the first process alone: most write files.

    Args:
        hook: A function of the engine or trainer. The answer of the first process counts.
    """

    def __init__(self, hook: Hook[T]) -> None:
        self.hook = hook

    def __call__(self, caller: T) -> object:
        return self.hook(caller)


def call_after_step(hook: Hook[T] | None, caller: T) -> None:
    """Call a hook at the end of a step.

    Args:
        hook: Called in the first process; in all of them if it is an `EveryRank`.
        caller: The engine or trainer, which the hook is given.
    """
    if hook is not None and (rank() == 0 or isinstance(hook, EveryRank)):
        hook(caller)


def call_after_round(hook: Hook[T] | None, caller: T) -> bool:
    """Call a hook at the end of a round, and return whether training goes on.

    Args:
        hook: As for `call_after_step`. The training stops where it returns False.
        caller: The engine or trainer, which the hook is given.

    Raises:
        RuntimeError: In the other processes, if the hook fails in the first.
    """
    if not isinstance(hook, EveryRank):
        return from_first_rank(lambda: hook is None or hook(caller) is not False)
    answer = hook(caller)
    return from_first_rank(lambda: answer is not False)
