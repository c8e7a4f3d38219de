"""What is trained: networks, loss, optimizers, schedulers and miner, with their states by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pml_hashing._checks import check
from pml_hashing.code_bank import CodeBank
from pml_hashing.distributed import rank
from pml_hashing.losses import CodeUpdate, DiscreteLoss
from pml_hashing.trainers._contracts import check_modules, check_steps_alone, takes
from pml_hashing.trainers._features import LOGGER

T = TypeVar("T")
GATHERING = {DistributedDataParallel.__name__, "DistributedLossWrapper"}  # the latter is PML's


class Scheduler(Protocol):
    """A learning rate scheduler of torch."""

    def step(self) -> object: ...


@dataclass
class Parts:
    """All that a training changes but its random numbers, by kind and name, as PML calls them.

    The dicts are kept as they are, and what changes in them is seen.

    Attributes:
        models: Networks, the first one first; the code bank of the loss may be among them.
        loss_funcs: `{"metric_loss": loss}`.
        optimizers: Optimizers.
        lr_schedulers: Schedulers.
        mining_funcs: Miners; `"tuple_miner"` gives pairs or triplets.

    Raises:
        TypeError: If a network or loss is no module.
        ValueError: If a loss gathers the batch of all processes by itself, or hides a code bank in
            another loss, or an optimizer or scheduler cannot be stepped without an argument.
    """

    models: dict[str, nn.Module]
    loss_funcs: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    lr_schedulers: dict[str, Scheduler]
    mining_funcs: dict[str, Callable[..., Any]]

    def __post_init__(self) -> None:
        check_modules("`networks`", self.models.values())
        check_modules("`loss_func`", self.loss_funcs.values())
        for loss_func in self.loss_funcs.values():
            _check_loss_as_it_is(loss_func)
        for optimizer in self.optimizers.values():
            check_steps_alone("`optimizers`", optimizer)
        for name, scheduler in self.lr_schedulers.items():
            if not name.endswith("_by_plateau"):  # PML's testers give these their score
                check_steps_alone("`lr_schedulers`", scheduler)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks, the first one first."""
        return {k: model for k, model in self.models.items() if not isinstance(model, CodeBank)}

    @property
    def loss_func(self) -> nn.Module:
        """The loss."""
        return self.loss_funcs["metric_loss"]

    @property
    def code_bank(self) -> CodeBank | None:
        """The code bank of the loss, `None` where it has none."""
        return bank_of(self.loss_func)

    @property
    def wants_places(self) -> bool:
        """Whether the loss is given the places of the samples, as `sample_indices`."""
        own = not isinstance(self.loss_func, DiscreteLoss)  # which takes them with a code bank
        return self.code_bank is not None or (own and takes(self.loss_func, "sample_indices"))

    def update_codes(self, *, progress: bool) -> CodeUpdate | None:
        """Make the discrete step of the loss, if it has one.

        Args:
            progress: Show progress bars.

        Returns:
            The objective before and after. `None` without a step, or where a loss that is no
            `DiscreteLoss` does not return the two.
        """
        if isinstance(self.loss_func, DiscreteLoss):
            no_step = self.loss_func.code_bank is None
            return None if no_step else self.loss_func.update_codes(progress=progress)
        own: Callable[[], Any] | None = getattr(self.loss_func, "update_codes", None)
        update = None if own is None else own()
        return CodeUpdate(*update) if isinstance(update, tuple) and len(update) == 2 else None

    def modules(self) -> list[nn.Module]:
        """Return networks, code bank and losses."""
        return [*self._kinds()["models"].values(), *self.loss_funcs.values()]

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the networks."""
        return [p for network in self.networks.values() for p in network.parameters()]

    @property
    def device(self) -> torch.device:
        """The device of the first network, the CPU if it has no parameters."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def are_finite(self) -> bool:
        """Return whether all weights are finite. A GPU has to wait for it."""
        weights = [parameter.isfinite().all() for parameter in self._of_all_modules()]
        return all(finite.item() for finite in weights)

    def warn_of_untrained(self) -> None:
        """Log which parameters of the losses no optimizer has, although they are not frozen."""
        known = {id(parameter) for group in self._groups() for parameter in group["params"]}
        names = [
            name
            for loss_func in self.loss_funcs.values()
            for name, parameter in loss_func.named_parameters()
            if parameter.requires_grad and id(parameter) not in known
        ]
        if names and rank() == 0:
            LOGGER.warning(
                "No optimizer has these parameters of the loss, which stay as they are: "
                f"{', '.join(names)}. Give the loss one, or freeze them by requires_grad_(False)."
            )

    def learning_rates(self) -> list[float]:
        """Return the learning rate of every group of parameters."""
        return [float(group["lr"]) for group in self._groups()]

    def set_learning_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rate of every group of parameters."""
        for group, rate in zip(self._groups(), rates, strict=True):
            if float(group["lr"]) != rate:
                group["lr"] = rate

    def trained(self) -> list[bool]:
        """Return of every parameter of networks and losses whether it is trained, or frozen."""
        return [parameter.requires_grad for parameter in self._of_all_modules()]

    def set_trained(self, trained: Sequence[bool]) -> None:
        """Freeze parameters of networks and losses, or let them be trained."""
        for parameter, is_trained in zip(self._of_all_modules(), trained, strict=True):
            if parameter.requires_grad != is_trained:
                parameter.requires_grad_(is_trained)

    def states(self) -> dict[str, dict[str, Any]]:
        """Return all states, which still belong to their parts: save or copy them."""
        return {
            kind: {name: part.state_dict() for name, part in parts.items()}
            for kind, parts in self._kinds().items()
        }

    def load_states(self, states: Mapping[str, Any]) -> None:
        """Put states back that `states` returned.

        Raises:
            ValueError: If they are those of another training.
        """
        for kind, parts in self._kinds().items():
            mine, saved = ", ".join(parts), ", ".join(states[kind])
            same = parts.keys() == states[kind].keys()
            check(same, f"a checkpoint with the `{kind}` {mine}", f"one with {saved}")
            for name, part in parts.items():
                try:
                    part.load_state_dict(states[kind][name])
                except (KeyError, RuntimeError, ValueError) as error:
                    where = f'{kind}["{name}"]: {error}'
                    message = f"Expected a checkpoint of this trainer, got another {where}"
                    raise ValueError(message) from error

    def _of_all_modules(self) -> list[nn.Parameter]:
        return [p for module in self.modules() for p in module.parameters()]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def _kinds(self) -> dict[str, dict[str, Any]]:
        """Return all parts that have a state."""
        bank = {} if self.code_bank is None else {"code_bank": self.code_bank}
        return {
            kind: {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
            for kind, parts in (self.__dict__ | {"models": self.models | bank}).items()
        }


def bank_of(loss_func: nn.Module) -> CodeBank | None:
    """Return the code bank of a loss, `None` where it has none."""
    bank = getattr(loss_func, "code_bank", None)
    return bank if isinstance(bank, CodeBank) else None


def _check_loss_as_it_is(loss_func: nn.Module) -> None:
    for module in loss_func.modules():
        names = {kind.__name__ for kind in type(module).__mro__} & GATHERING
        expected = "a loss as it is, since the trainer gathers the batch of all processes"
        check(not names, expected, f"one in a {', '.join(names)}")
        is_hidden = module is not loss_func and isinstance(module, DiscreteLoss)
        expected = "a loss with a `code_bank` as it is, which alone is given the places of samples"
        got = f"{type(module).__name__} in a {type(loss_func).__name__}"
        check(not is_hidden or bank_of(module) is None, expected, got)


def by_name(values: T | Sequence[T] | dict[str, T], *names: str) -> dict[str, T]:
    """Return one value, or several, by name.

    Args:
        values: Values. A dict is returned itself.
        *names: Their names, in this order. If there is one, `"{}"` in it stands for the place.

    Raises:
        ValueError: If there are more values than names.
    """
    if isinstance(values, dict):
        return values
    several = cast(Sequence[T], values if isinstance(values, list | tuple) else [values])
    if "{}" in names[0]:
        names = tuple(names[0].format(place) for place in range(len(several)))
    most = f"at most {len(names)}, {' and '.join(names)}"
    check(len(several) <= len(names), most, len(several))
    return dict(zip(names, several, strict=False))
