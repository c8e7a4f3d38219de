"""Steps of a training: from batches to gradients, and from gradients to weights."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pml_hashing.trainers._batch_loss import Batch, BatchLoss
from pml_hashing.trainers._parts import Parts
from pml_hashing.trainers._precision import Amp, Precision
from pml_hashing.trainers._processes import Codes

Moment: TypeAlias = Literal["step", "round"]

STEPS_BETWEEN_READS = 20
"""The loss is read back from a GPU once in so many steps: each time, the GPU waits."""


class Stepper:
    """Makes steps, and knows which one it is at. `Engine` documents its arguments.

    Args:
        parts: What is trained.
        device: Where it is.
        dtype: As for `Engine`. So are the others.
        seed: Of the random numbers that the processes of a training share.
        amp: Type that the networks compute in.
        channels_last: Memory format of images.
        compile: Whether to compile the networks.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        seed: int,
        amp: Amp,
        channels_last: bool,
        compile: bool | Mapping[str, Any],  # noqa: A002 (torch's own name)
    ) -> None:
        self.parts, self.seed = parts, seed
        self.schedule_by: Moment = "round"
        self.precision = Precision(amp, channels_last, device)
        for network in parts.networks.values():
            self.precision.prepare(network, compile)
        self._loss_of = BatchLoss(parts, self.compute_codes, self.precision, dtype)
        self._parameters: list[nn.Parameter] = parts.parameters()
        self.round = self.step = self.steps_per_round = 0
        self.share = 1.0
        self.loss = torch.zeros((), device=device)
        self.sample_indices = torch.zeros(0, dtype=torch.int64)

    @property
    def device(self) -> torch.device:
        """Where the networks and the loss are."""
        return self.precision.device

    @property
    def global_step(self) -> int:
        """Number of steps before the latest one, in all rounds."""
        return self.step + self.steps_per_round * (self.round - 1)

    # What a step does. A subclass may override these.

    def set_to_train(self) -> None:
        """Put networks and loss into training mode, at the start of every round."""
        for module in self.parts.modules():
            module.train()

    def start_step(self) -> None:
        """Do what has to be done before the batches of a step are loaded: nothing here."""

    def unpack(self, batch: Any) -> tuple[Any, Tensor]:
        """Return the data and the labels of a batch, as `collate_fn` made it."""
        data, labels = batch
        return data, torch.as_tensor(labels)

    def compute_codes(self, data: Any) -> Codes:
        """Return the codes by the first network, and by the second where there is one.

        Args:
            data: Of this process's part of a batch, on the device. Autocast is on with `amp`.
        """
        first, *others = self.parts.networks.values()
        return first(data), others[0](data) if others else None

    def compute_loss(self, batch: Batch) -> Tensor:
        """Return what the gradients are taken of: the `batch_loss`."""
        return self.batch_loss(batch)

    def clip_gradients(self) -> None:
        """Change the gradients before a step, after `unscale_gradients`. Does nothing here."""

    def trained_optimizers(self) -> list[Optimizer]:
        """Return the optimizers that make a step: those with a parameter that is not frozen."""
        return [
            optimizer
            for optimizer in self.parts.optimizers.values()
            if any(p.requires_grad for group in optimizer.param_groups for p in group["params"])
        ]

    def end_step(self) -> None:
        """Step the schedulers after a step and its hook."""
        if self.schedule_by == "step":
            self.parts.step_schedulers()

    def end_round(self) -> None:
        """Step the schedulers after the discrete step, before the checkpoint."""
        if self.schedule_by == "round":
            self.parts.step_schedulers()

    def batch_loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, of the whole of it in every process."""
        return self._loss_of(batch, self.seed + self.global_step)

    def unscale_gradients(self) -> None:
        """Divide the gradients by the scale of the loss, once a step, as clipping needs it."""
        self.precision.unscale(self.trained_optimizers())

    def averaged_gradients(self) -> AbstractContextManager[None]:
        """Return the context of a training, in which gradients are averaged over the processes."""
        self._parameters = self.parts.parameters()
        return self._loss_of.averaged_gradients()

    def make_step(self, batches: Sequence[Batch]) -> None:
        """Make one step: the losses of the parts of a batch, averaged by their sizes."""
        self._zero_grad()
        size = sum(len(batch.sample_indices) for batch in batches)
        losses = []
        for number, batch in enumerate(batches, 1):
            self.share = len(batch.sample_indices) / size
            self.sample_indices = batch.sample_indices
            with self._loss_of.averaging(number == len(batches)):
                loss = self.compute_loss(batch)
                self._check_loss(loss)
                self.precision.backward(self.share * loss)
            losses.append(self.share * loss.detach())
        self.loss = sum(losses[1:], losses[0])
        self.sample_indices = torch.cat([batch.sample_indices for batch in batches])
        self.clip_gradients()
        self.precision.step(self.trained_optimizers())

    def _zero_grad(self) -> None:
        for parameter in self._parameters:  # a walk through all modules takes a percent of a step
            parameter.grad = None
        for optimizer in self.parts.optimizers.values():
            optimizer.zero_grad()

    def _check_loss(self, loss: Tensor) -> None:
        """Stop if the loss is not finite, unless float16 skips such steps. A GPU is seldom asked.

        Raises:
            FloatingPointError: If the loss is NaN or infinite, or the gradients are at any scale.
        """
        if loss.device.type != "cpu" and self.step % STEPS_BETWEEN_READS:
            return
        if self.precision.has_failed():
            self.stop("finite gradients at some scale of the loss, got none")
        if not self.precision.is_scaled and not loss.isfinite():
            self.stop(f"a finite loss, got {loss.item()}")

    def stop(self, problem: str) -> NoReturn:
        """Raise an error that names the samples.

        Raises:
            FloatingPointError: Always.
        """
        raise FloatingPointError(
            f"Expected {problem} in round {self.round}, step {self.step}, for the samples "
            f"{self.sample_indices.tolist()}."
        )
