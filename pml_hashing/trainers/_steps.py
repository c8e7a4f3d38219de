"""Steps of a training: from batches to a loss, to gradients and to weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pml_hashing._checks import check_codes
from pml_hashing._eval_mode import freeze_batch_norm
from pml_hashing.codes import at_least_float32
from pml_hashing.trainers._contracts import (
    call_with_sides,
    check_gradient,
    check_number,
    data_and_labels,
)
from pml_hashing.trainers._features import trunk_of
from pml_hashing.trainers._parts import Parts
from pml_hashing.trainers._precision import Precision
from pml_hashing.trainers._processes import Codes, gather_batch, parallel, shared_random_numbers
from pml_hashing.trainers._random import seed_of

Moment: TypeAlias = Literal["step", "round"]

STEPS_BETWEEN_READS = 20
"""The loss is read back from a GPU once in so many steps: each time, the GPU waits."""


class Batch(NamedTuple):
    """This process's part of a batch, and the places of all its samples in the data set."""

    data: Any
    labels: Tensor
    sample_indices: Tensor


class Stepper:
    """Makes steps, and knows which one it is at. `Engine` documents its attributes.

    Args:
        parts: What is trained.
        precision: Of the networks. The loss is computed in float32 at least.
        dtype: Which data are converted to. As they are if `None`.
        seed: Of the random numbers that the processes of a training share.
    """

    def __init__(
        self, parts: Parts, precision: Precision, dtype: torch.dtype | None, seed: int
    ) -> None:
        self.parts, self.precision, self.dtype = parts, precision, dtype
        self.seed, self.device = seed, precision.device
        self.schedule_by: Moment = "round"
        self.freeze_batch_norm = False
        self.round = self.step = self.steps_per_round = 0
        self.loss, self.share = torch.zeros((), device=self.device), 1.0
        self.sample_indices = torch.zeros(0, dtype=torch.int64, device="cpu")
        self._parameters: list[nn.Parameter] = parts.parameters()
        self._wants_places = parts.wants_places  # slow to find out, and asked in every step
        self._part = 0  # of the batch of a step, where that is cut in several
        self._parallel: DistributedDataParallel | None = None

    @property
    def global_step(self) -> int:
        """Number of steps before the latest one, in all rounds."""
        return self.step + self.steps_per_round * (self.round - 1)

    # What a step does. A subclass may override these.

    def set_to_train(self) -> None:
        """Put networks and loss into training mode, at the start of every round.

        The batch normalization of backbones goes back into eval mode with `freeze_batch_norm`.
        """
        for module in self.parts.modules():
            module.train()
        if self.freeze_batch_norm:
            for network in self.parts.networks.values():
                freeze_batch_norm(trunk_of(network) or network)

    def start_step(self) -> None:
        """Do what has to be done before the batches of a step are loaded: nothing here."""

    def unpack(self, batch: Any) -> tuple[Any, Tensor]:
        """Return the data and the labels of a batch, as `collate_fn` made it."""
        return data_and_labels(batch)

    def choose_samples(self, data: Any, labels: Tensor) -> tuple[Any, Tensor]:
        """Return the data and the labels of a batch to train on: all of them here."""
        return data, labels

    def compute_features(self, data: Any) -> Tensor | None:
        """Return what the first network has before its hash layer, `None` where that is not known.

        From it class codes are assigned before the first round, for a loss that asks for it.

        Args:
            data: As for `compute_codes`.
        """
        trunk = trunk_of(next(iter(self.parts.networks.values())))
        return None if trunk is None else trunk(data)

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

    def step_schedulers(self, moment: Moment) -> None:
        """Step the schedulers.

        Args:
            moment: `"step"` after a step and its hook, `"round"` after the discrete step.
        """
        if moment == self.schedule_by:
            for scheduler in self.parts.lr_schedulers.values():
                scheduler.step()

    def batch_loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, of the whole of it in every process."""
        codes, second = (self._parallel or self._codes_of)(batch.data)
        labels = batch.labels.to(self.device, non_blocking=True)
        codes, labels, second = gather_batch(codes, labels, second, len(batch.sample_indices))
        # Views, since PML takes the same object on both sides for a batch paired with itself.
        sides: dict[str, Any] = (
            {} if second is None else {"ref_emb": second, "ref_labels": labels.view_as(labels)}
        )
        seed = seed_of(self.seed, self.global_step, self._part)
        with shared_random_numbers(seed, self.device):
            if (miner := self.parts.mining_funcs.get("tuple_miner")) is not None:
                sides["indices_tuple"] = call_with_sides(miner, "miner", codes, labels, **sides)
            if self._wants_places:
                sides["sample_indices"] = batch.sample_indices.to(self.device, non_blocking=True)
            loss_func = self.parts.loss_func
            return check_number(call_with_sides(loss_func, "loss", codes, labels, **sides))

    def _codes_of(self, data: Any) -> Codes:
        data = self.precision.to_device(data, self.dtype)
        with self.precision.autocast():
            codes, second = self.compute_codes(data)
        check_codes(codes, "codes of the network")
        if second is None:
            return at_least_float32(codes), None
        check_codes(second, "codes of the second network")
        return at_least_float32(codes), at_least_float32(second)

    def features_of_batch(self, batch: Any) -> tuple[Tensor, Tensor] | None:
        """Return features and labels of a batch, as `collate_fn` made it; `None` without features.

        A network's output that is no tensor of floats with a row per sample is none.
        """
        data, labels = self.unpack(batch)
        data = self.precision.to_device(data, self.dtype)
        with self.precision.autocast():
            features = self.compute_features(data)
        if not isinstance(features, Tensor) or not features.is_floating_point():
            return None
        if features.ndim < 2 or len(features) != len(labels):
            return None
        return features, labels

    def unscale_gradients(self) -> None:
        """Divide the gradients by the scale of the loss, once per step, as clipping needs it."""
        for optimizer in self._trained_optimizers():
            self.precision.scaler.unscale_(optimizer)

    @contextmanager
    def averaged_gradients(self) -> Iterator[None]:
        """Average the gradients over all processes within this context.

        Those of what is frozen as it begins are not.
        """
        networks = self.parts.networks.values()
        self._parameters = self.parts.parameters()
        self._parallel = parallel(networks, self._codes_of)
        try:
            yield
        finally:  # what holds a process group must not outlive it
            self._parallel = None

    def make_step(self, batches: Sequence[Batch]) -> None:
        """Make one step: the losses of the parts of a batch, averaged by their sizes."""
        for parameter in self._parameters:  # a walk through all modules takes a percent of a step
            parameter.grad = None
        for optimizer in self.parts.optimizers.values():
            optimizer.zero_grad()
        size = sum(len(batch.sample_indices) for batch in batches)
        losses = []
        for self._part, batch in enumerate(batches):
            self.share, self.sample_indices = len(batch.sample_indices) / size, batch.sample_indices
            is_last = batch is batches[-1]  # whose gradients go to the other processes, with all
            with nullcontext() if is_last or not self._parallel else self._parallel.no_sync():
                loss = self.compute_loss(batch)
                check_gradient(loss)
                self._check_loss(loss)
                self.precision.scaler.scale(self.share * loss).backward()
            losses.append(self.share * loss.detach())
        self.loss = sum(losses[1:], losses[0])
        self.sample_indices = torch.cat([batch.sample_indices for batch in batches])
        self.clip_gradients()
        self.precision.step(self._trained_optimizers())

    def _trained_optimizers(self) -> list[Optimizer]:
        """Return the optimizers that make a step: those with a parameter that has a gradient.

        Of others, of which all is frozen or the loss does not depend, float16 would ask the scale.
        """
        return [
            optimizer
            for optimizer in self.parts.optimizers.values()
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        ]

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
