"""Random numbers of Python, numpy and torch: seeds made of numbers, states to go back to."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

CPU = torch.device("cpu")


def seed_of(*numbers: int) -> int:
    """Return a seed from 0 to 2**32 - 1 that is made of whole numbers, of their order too."""
    return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1)[0])


def seed_cpu(seed: int) -> None:
    """Seed Python's, numpy's and torch's random numbers on the CPU, in some microseconds."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what PML's samplers and many transforms draw from)
    torch.default_generator.manual_seed(seed)


class RandomState:
    """The random numbers on the CPU as they are when this is made, to compare and to go back to."""

    def __init__(self) -> None:
        self._python, self._torch = random.getstate(), torch.get_rng_state()
        self._numpy: Any = np.random.get_state()  # noqa: NPY002

    def is_now(self) -> bool:
        """Return whether none was drawn since, and nothing seeded."""
        _, keys, *rest = np.random.get_state()  # noqa: NPY002
        return (
            rest == list(self._numpy[2:])
            and np.array_equal(keys, self._numpy[1])
            and torch.equal(torch.get_rng_state(), self._torch)
            and random.getstate() == self._python
        )

    def restore(self) -> None:
        """Go on as if nothing had been drawn since."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._torch)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Let what runs inside seed and draw on the CPU, and go on after it as if it had not."""
    state = RandomState()
    try:
        yield
    finally:
        state.restore()


def random_state(device: torch.device = CPU) -> dict[str, Any]:
    """Return the state of all random numbers: tensors, numbers and tuples.

    Args:
        device: Of a training: on a GPU, its random numbers are in the state too.
    """
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    state = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: dict[str, Any], device: torch.device = CPU) -> None:
    """Go on from a state that `random_state` returned."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
