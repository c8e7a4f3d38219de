"""Modules in eval mode: for a while, or the batch normalization among them while training."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode, and each of its parts back into its own mode at the end."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def freeze_batch_norm(module: nn.Module) -> None:
    """Put the batch normalization within `module` into eval mode, by PML's rule: by name."""
    for part in module.modules():
        if "BatchNorm" in type(part).__name__:
            part.eval()
