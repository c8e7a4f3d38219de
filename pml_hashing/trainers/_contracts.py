"""What a training is made of, checked where they meet: batches, networks, losses, miners."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from pml_hashing._arrays import to_labels
from pml_hashing._checks import check

OF_SIDES = {
    "ref_emb": "a second network",
    "ref_labels": "a second network",
    "indices_tuple": "a miner",
    "sample_indices": "a code bank",
}
"""Where the arguments of a loss come from, beside codes and labels."""
HOW_TO_UNPACK = "override `unpack`, or give a `data_and_label_getter` or `collate_fn`"


def data_and_labels(batch: Any) -> tuple[Any, Tensor]:
    """Return the data and the labels of a batch. What follows them is ignored, such as an index.

    Raises:
        TypeError: If a batch is no tuple or list of at least two, or its labels make no tensor.
    """
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        size = f" of {len(batch)}" if isinstance(batch, tuple | list | Mapping) else ""
        raise TypeError(
            "Expected a `dataset` with items (data, label), and batches of them that are tuples or "
            f"lists, got a {type(batch).__name__}{size}: {HOW_TO_UNPACK}."
        )
    return batch[0], to_labels(batch[1], "labels")


def check_number(loss: Any) -> Tensor:
    """Return what a loss returned, or raise unless it is a number.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it is more than a number.
    """
    if not isinstance(loss, Tensor):
        got = type(loss).__name__
        raise TypeError(f"Expected the loss to return a torch.Tensor with a number, got {got}.")
    got = f"a tensor of shape {tuple(loss.shape)}"
    check(loss.numel() == 1, "the loss to return a number", got)
    return loss


def check_gradient(loss: Any) -> None:
    """Raise unless a loss is a number with a gradient.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it is more than a number, or depends on nothing that is trained.
    """
    trained = "a loss that depends on what is trained, through codes that are not detached"
    check(check_number(loss).requires_grad, trained, "one without a gradient")


def call_with_sides(part: Any, kind: str, *args: Tensor, **sides: Any) -> Any:
    """Call a loss or a miner, and name what it does not take.

    Args:
        part: The loss or miner.
        kind: Which of them it is, for the message.
        *args: Codes and labels.
        **sides: What else this training has for it.

    Raises:
        TypeError: If it does not take all of it.
    """
    try:
        return part(*args, **sides)
    except TypeError as error:
        missing = [name for name in sides if not takes(part, name, by_keywords=True)]
        if not missing:
            raise
        lacking = ", ".join(f"`{name}` (there is {OF_SIDES[name]})" for name in missing)
        raise TypeError(
            f"Expected a {kind} that takes {lacking}, got {type(part).__name__}."
        ) from error


def takes(part: Any, name: str, *, by_keywords: bool = False) -> bool:
    """Return whether a module or function has an argument of this name.

    Args:
        part: The module or function.
        name: Of the argument.
        by_keywords: Whether `**kwargs` count.
    """
    parameters = _parameters_of(part.forward if isinstance(part, nn.Module) else part)
    keywords = by_keywords and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return keywords or name in parameters


def check_modules(of: str, modules: Iterable[Any]) -> None:
    """Raise unless all are modules of torch.

    Raises:
        TypeError: If one is not.
    """
    for module in modules:
        if not isinstance(module, nn.Module):
            got = type(module).__name__
            raise TypeError(f"Expected {of} to be a torch.nn.Module, got {got}.")


def check_steps_alone(of: str, part: Any) -> None:
    """Raise if what is stepped asks for an argument.

    Raises:
        ValueError: If it does, as LBFGS and ReduceLROnPlateau do.
    """
    others = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    step = type(part).step  # of the class: a scheduler wraps that of its optimizer
    asked = [
        f"`{name}`"
        for name, parameter in list(_parameters_of(step).items())[1:]
        if parameter.default is parameter.empty and parameter.kind not in others
    ]
    got = f"{type(part).__name__}, which asks for {', '.join(asked)}"
    check(not asked, f"{of} whose `step` asks for nothing", got)


def _parameters_of(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(call).parameters
    except (TypeError, ValueError):  # of a function of C
        return {}
