"""Arithmetic of a training: autocast, the scaling that float16 needs, memory formats, compiling."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pml_hashing._checks import check_choice

Amp: TypeAlias = Literal["bf16", "fp16"] | None
"""The type that networks compute in where it is safe; float32 if `None`."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SMALLEST_SCALE = 1e-4
"""Below it every step was skipped for a long time: the loss is not finite at any scale."""


class Precision:
    """In what type and memory format networks compute and, for float16, the scale of the loss.

    Args:
        amp: `"bf16"`, `"fp16"` or `None`.
        channels_last: Store images and weights of convolutions channel by channel of a pixel.
        device: Where the networks are.

    Attributes:
        is_scaled: Whether the loss is scaled, and steps whose gradients are not finite are skipped.
        scaler: Has the scale of the loss.

    Raises:
        ValueError: If `amp` is unknown.
    """

    def __init__(self, amp: Amp, channels_last: bool, device: torch.device) -> None:
        check_choice(amp, (None, *DTYPES), "amp")
        self.amp, self.is_scaled = amp, amp == "fp16"
        self.channels_last, self.device = channels_last, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.is_scaled)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._one = torch.ones((), device=device)

    @property
    def skipped_steps(self) -> int:
        """Number of steps that were skipped so far. A GPU has to wait for it."""
        return int(self._skipped)

    def prepare(self, network: nn.Module, compile: bool | Mapping[str, Any]) -> None:  # noqa: A002
        """Change the memory format of a network and compile it, both in place.

        The names in its state dict stay as they are.
        """
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if compile is not False:
            network.compile(**({} if compile is True else compile))

    def to_device(self, data: Any, dtype: torch.dtype | None = None) -> Any:
        """Copy a batch to the device without waiting for it, if it is a tensor."""
        if not isinstance(data, Tensor):
            return data
        is_image = self.channels_last and data.ndim == 4
        layout = torch.channels_last if is_image else torch.preserve_format
        return data.to(self.device, dtype or data.dtype, non_blocking=True, memory_format=layout)

    def autocast(self) -> torch.autocast:
        """Return the context in which the networks run."""
        dtype = DTYPES[self.amp] if self.amp else torch.float32
        return torch.autocast(self.device.type, dtype, enabled=self.amp is not None)

    def step(self, optimizers: Iterable[Optimizer]) -> None:
        """Make a step of every optimizer; none of one whose gradients are not finite."""
        before = self.scaler.scale(self._one)
        for optimizer in optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.is_scaled:  # the scale falls where a step was skipped; compared on the device
            self._skipped += self.scaler.scale(self._one) < before

    def has_failed(self) -> bool:
        """Return whether no scale makes the gradients finite. A GPU has to wait for it."""
        return self.is_scaled and self.scaler.get_scale() < SMALLEST_SCALE

    def state_dict(self) -> dict[str, Any]:
        return {"scaler": self.scaler.state_dict(), "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["scaler"] and self.is_scaled:
            self.scaler.load_state_dict(dict(state["scaler"]))
        self._skipped.fill_(state["skipped_steps"])
