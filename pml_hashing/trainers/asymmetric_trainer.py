"""Alternating training: rounds of gradient steps, each followed by a discrete step."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler
from tqdm import tqdm

from pml_hashing._compat import BaseTrainer, common_functions
from pml_hashing.datasets import IndexedDataset
from pml_hashing.datasets._batches import EvenBatches
from pml_hashing.distributed import from_first_rank, rank, world_size
from pml_hashing.losses import CodeUpdate, DiscreteLoss
from pml_hashing.trainers._arguments import check_trainer, restrict_schema
from pml_hashing.trainers._batch_loss import codes_of, loss_of
from pml_hashing.trainers._distributed import (
    Compute,
    EveryRank,
    call_hook,
    check_parallel,
    share_state,
    start_processes,
)
from pml_hashing.trainers._loading import RoundLoader, SeededSampler
from pml_hashing.trainers._precision import Amp, Precision
from pml_hashing.trainers._random import seed_all, seed_of
from pml_hashing.trainers._state import check_loss, resume, save, start_batches, take_place
from pml_hashing.trainers.checkpoints import CheckpointFolder

STEPS_BETWEEN_READS = 20
"""The loss is read back from a GPU once in so many steps: each time, the GPU waits."""


class AsymmetricTrainer(BaseTrainer):
    """A PML trainer for one or two networks and codes that are learned in discrete steps.

    An epoch of PML is a *round*: passes over the data set with gradient steps, in which every
    sample occurs once a pass, then one discrete step (`update_codes` of the loss), then PML's
    `end_of_epoch_hook`, which tests and saves. Any PML loss works; a loss with discrete variables
    also gets the places of the samples and the codes of the second network.

    A training that was stopped and resumed ends with the same weights and codes, bit for bit, on a
    CPU: see `checkpoint_folder`, and "Faults and resuming" in the documentation.

    In several processes (after `torch.distributed.init_process_group`, as under `torchrun`) a batch
    is `batch_size` samples a process, and training is that of one process with as large a batch;
    hooks are called in the first process, or in all of them within `EveryRank`.

    Args:
        models: `"trunk"`, and if wanted `"embedder"`; `"database_trunk"` and
            `"database_embedder"`, a second network that encodes the database; `"code_bank"`, the
            `CodeBank` of the loss, which is saved and resumed with the others.
        optimizers: As for PML's trainers: `"trunk_optimizer"`, ...
        batch_size: Largest size of a batch, of each process. Batches of a pass are of nearly equal
            size.
        loss_funcs: `{"metric_loss": loss}`.
        dataset: Items `(data, label)`, at least `batch_size` of them. Labels are class ids or
            multi-hot rows.
        passes_per_round: Passes over the data set between two discrete steps.
        seed: Of all random numbers: the order of the samples, their augmentation, dropout.
        amp: `"bf16"` or `"fp16"`: the networks compute in it where it is safe, the loss in float32.
            With `"fp16"` the loss is scaled, and a step whose gradients are not finite is skipped.
        channels_last: Store images and weights of convolutions channel by channel of a pixel.
        compile: Compile the networks by `torch.compile`: `True`, or its arguments.
        accumulate_steps: Parts into which a batch is cut to save memory: the gradients of their
            losses are averaged before one step. A loss of pairs sees those within a part.
        checkpoint_folder: Where to save all that the training is, after every round and within it.
        checkpoint_every: Steps between two checkpoints within a round. None there if `None`.
        **kwargs: Other arguments of PML's `BaseTrainer`, by name. `label_hierarchy_level` is
            `"all"`: the columns of a label are classes here.

    Attributes:
        code_update: Objective before and after the latest discrete step, `None` without one.
        sample_indices: Places in the data set of the samples of the latest batch.
        precision: Counts the steps that `"fp16"` skipped: `precision.skipped_steps`.

    Raises:
        TypeError: If the data set has no length.
        ValueError: If an argument is out of range, or arguments do not belong together: names of
            models, code bank and loss, sizes of data set, code bank and batch.
        FloatingPointError: By `train`, if the loss is not finite and no step may be skipped.
        OSError: By `train`, if a checkpoint cannot be written. The trainer is as it was before.
        RuntimeError: By `train`, if a sample cannot be loaded, or a worker dies: with its name.
    """

    data_and_label_getter: Any  # PML sets these to None first
    data_device: Any
    end_of_epoch_hook: Any
    end_of_iteration_hook: Any
    losses: dict[str, Any]

    def __init__(
        self,
        models: dict[str, nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
        batch_size: int,
        loss_funcs: dict[str, nn.Module],
        dataset: Any,
        *,
        passes_per_round: int = 1,
        seed: int = 0,
        amp: Amp = None,
        channels_last: bool = False,
        compile: bool | Mapping[str, Any] = False,  # noqa: A002 (torch's own name)
        accumulate_steps: int = 1,
        checkpoint_folder: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = 1000,
        **kwargs: Any,
    ) -> None:
        self.passes_per_round, self.accumulate_steps = passes_per_round, accumulate_steps
        self.amp: Amp = amp
        self.channels_last, self.compile, self.seed = channels_last, compile, seed
        self.checkpoints = CheckpointFolder(checkpoint_folder) if checkpoint_folder else None
        self.checkpoint_every = checkpoint_every
        self.place: dict[str, Any] | None = None  # where to go on, by `resume`
        self.code_update: CodeUpdate | None = None
        kwargs = {"label_hierarchy_level": "all", **kwargs}
        super().__init__(models, optimizers, batch_size, loss_funcs, dataset, **kwargs)

    def custom_setup(self) -> None:
        """Check what belongs together, before PML does."""
        self.indexed_dataset = IndexedDataset(self.dataset)
        sampler = RandomSampler(self.indexed_dataset) if self.sampler is None else self.sampler
        self.order = SeededSampler(sampler, is_replayed=self.sampler is not None)
        check_trainer(self)
        check_parallel(self)

    def modify_schema(self) -> None:
        restrict_schema(self)

    def initialize_models(self) -> None:
        super().initialize_models()
        if "database_trunk" in self.models:
            self.models.setdefault("database_embedder", nn.Identity())

    def initialize_data_device(self) -> None:
        super().initialize_data_device()
        self.data_device = torch.device(self.data_device)
        self.precision = Precision(self.amp, self.channels_last, self.data_device)
        for name, model in self.models.items():
            if name != "code_bank":
                self.precision.prepare(model, self.compile)

    def initialize_dataloader(self) -> None:
        size, parts = int(self.batch_size) * world_size(), self.accumulate_steps
        batches = EvenBatches(self.order, size, parts=parts)
        if not self.iterations_per_epoch:
            self.iterations_per_epoch = len(batches) // parts * self.passes_per_round
        self.dataloader = RoundLoader(
            self.indexed_dataset,
            self.order,
            batches,
            seed=self.seed,
            num_workers=self.dataloader_num_workers,
            collate_fn=self.collate_fn,
            device=self.data_device,
        )

    def train(self, start_epoch: int = 1, num_epochs: int = 1) -> None:
        """Train from round `start_epoch` to round `num_epochs`, both included.

        Args:
            start_epoch: Number of the first round: what `resume` returns, or
                `load_latest_saved_models` of PML's hook container.
            num_epochs: Number of the last round, as in PML. It is not a count.
        """
        if self.checkpoints:
            from_first_rank(self.checkpoints.check_unused)
        self.initialize_dataloader()
        self.networks: Compute = partial(codes_of, self)
        self.parameters = [p for model in self.models.values() for p in model.parameters()]
        start_processes(self, start_epoch, num_epochs)
        with self.dataloader.workers():
            for self.epoch in range(start_epoch, num_epochs + 1):
                place = take_place(self)
                if place is None or place["step"] is not None:
                    self.train_round(place)
                if not call_hook(self.end_of_epoch_hook, self):
                    break
        del self.networks  # what holds a process group must not outlive it

    def train_round(self, place: dict[str, Any] | None = None) -> None:
        """Make the steps of a round, all or from `place` on, and the discrete step."""
        start, stop = self.start_round(place), self.iterations_per_epoch
        steps = tqdm(
            range(start, stop), f"round {self.epoch}", stop, initial=start, disable=rank() > 0
        )
        for self.iteration in steps:
            self.forward_and_backward()
            if rank() == 0 or isinstance(self.end_of_iteration_hook, EveryRank):
                self.end_of_iteration_hook(self)
            self.step_lr_schedulers(end_of_epoch=False)
            if self.iteration % STEPS_BETWEEN_READS == 0:
                steps.set_postfix(loss=f"{self.losses['total_loss']:.4f}")
            made = self.iteration + 1
            if self.checkpoint_every and made % self.checkpoint_every == 0 and made < stop:
                save(self, made)
        self.update_codes()
        self.step_lr_schedulers(end_of_epoch=True)
        self.zero_losses()
        save(self, None)

    def resume(self, folder: str | os.PathLike[str] | None = None) -> int:
        """Put the latest checkpoint back, and return the round to go on with: `train` from there.

        Of a finished round, `train` calls the hook again, which may not have come to its end.

        Args:
            folder: Where the checkpoints are. `checkpoint_folder` if `None`.

        Returns:
            The round of the checkpoint, 1 where there is none.

        Raises:
            ValueError: If all checkpoints are damaged or another training's, or no folder is given.
        """
        return resume(self, folder)

    def start_round(self, place: dict[str, Any] | None = None) -> int:
        """Seed all random numbers for this round, or go on at `place`, and start the batches.

        Returns:
            Number of steps of the round that were made.
        """
        seed_all(seed_of(self.seed, self.epoch, rank()))  # other dropout in every process
        self.set_to_train()
        start = start_batches(self, place)
        self.dataloader_iter = iter(self.dataloader)
        return start

    def update_codes(self) -> None:
        """Make the discrete step of the loss, where it has a code bank."""
        loss_func = self.loss_funcs["metric_loss"]
        if isinstance(loss_func, DiscreteLoss) and loss_func.code_bank is not None:
            self.code_update = loss_func.update_codes(progress=rank() == 0)
            before, after = self.code_update
            message = "ROUND %d: the discrete step took the objective from %f to %f"
            common_functions.LOGGER.info(message, self.epoch, before, after)
        share_state(*self.models.values(), *self.loss_funcs.values())

    def forward_and_backward(self) -> None:
        """Make one step: the losses of the parts of a batch, averaged by their sizes."""
        self.zero_grad()
        self.update_loss_weights()
        batches = [self.get_batch() for _ in range(self.accumulate_steps)]
        size = sum(len(indices) for *_, indices in batches)
        sums: dict[str, Any] = dict.fromkeys(self.losses, 0)
        for batch in batches:
            self.sample_indices = batch[-1]
            self.zero_losses()
            self.calculate_loss(batch)
            self.loss_tracker.update(self.loss_weights)
            self.share = len(self.sample_indices) / size
            self.backward()
            for name in sums:
                sums[name] += self.share * self.losses[name].detach()
        self.losses.update(sums)
        self.sample_indices = torch.cat([indices for *_, indices in batches])
        self.clip_gradients()
        self.step_optimizers()

    def zero_grad(self) -> None:
        for parameter in self.parameters:  # a walk through all modules takes a percent of a step
            parameter.grad = None
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def get_batch(self) -> tuple[Any, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        batch, sample_indices = next(self.dataloader_iter)
        data, labels = self.data_and_label_getter(batch)
        labels = common_functions.process_label(labels, "all", self.label_mapper)
        data, labels = self.maybe_do_batch_mining(data, torch.as_tensor(labels))
        return data, labels, sample_indices

    def calculate_loss(self, curr_batch: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.losses["metric_loss"] = loss_of(self, *curr_batch)

    def backward(self) -> None:
        """Go backward, unless the loss is not finite: a GPU is asked once in some steps only."""
        loss: Any = self.losses["total_loss"]
        if not loss.is_cuda or self.iteration % STEPS_BETWEEN_READS == 0:
            check_loss(self, loss)
        self.precision.backward(self.share * loss)

    def trained_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimizers of what is not frozen."""
        optimizers = self.optimizers.items()
        return [v for k, v in optimizers if k.removesuffix("_optimizer") not in self.freeze_these]

    def clip_gradients(self) -> None:
        if self.gradient_clippers:
            self.precision.unscale(self.trained_optimizers())
            super().clip_gradients()

    def step_optimizers(self) -> None:
        self.precision.step(self.trained_optimizers())
