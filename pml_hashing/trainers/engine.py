"""The training itself: networks, batches, precision, processes, rounds and checkpoints."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import RandomSampler

from pml_hashing._checks import check, check_at_least, check_choice
from pml_hashing._progress import progress_bar
from pml_hashing.datasets import IndexedDataset
from pml_hashing.datasets._batches import EvenBatches, IndexedCollate
from pml_hashing.distributed import from_first_rank, of_all_ranks, rank, world_size
from pml_hashing.losses import CodeUpdate
from pml_hashing.trainers._features import LOGGER, features_of, undisturbed, waiting_losses
from pml_hashing.trainers._hooks import Hook, call_after_round, call_after_step
from pml_hashing.trainers._loading import RoundLoader, SeededSampler, check_sizes
from pml_hashing.trainers._parts import Parts, Scheduler, by_name
from pml_hashing.trainers._precision import Amp, Precision
from pml_hashing.trainers._processes import check_agreement, share_state
from pml_hashing.trainers._random import random_state, seed_cpu, seed_of, set_random_state
from pml_hashing.trainers._steps import STEPS_BETWEEN_READS, Batch, Moment, Stepper
from pml_hashing.trainers.checkpoints import CheckpointFolder


class Engine(Stepper):
    """Trains one or two networks, and codes that are learned in discrete steps.

    A *round* is some passes over the data set with gradient steps, in which every sample occurs
    once per pass, then one discrete step (`update_codes` of the loss, where it has one), then a
    checkpoint. Any loss of codes and labels works; one that takes `sample_indices` also gets the
    places of the samples, and with two networks `ref_emb`, the codes of the second.

    A training that was stopped and resumed ends with the same weights and codes, bit for bit, on a
    CPU: see `checkpoint_folder`, and "Faults and resuming" in the documentation.

    A loss with `class_codes="assigned"`, as `DSAHLoss` has by default, gets features of the data
    set before the first round: what the first network has before its hash layer, in eval mode.
    Where they are not known (see `compute_features`), its class codes stay, which is logged.

    In several processes (after `torch.distributed.init_process_group`, as under `torchrun`) a batch
    is `batch_size` samples per process, and training is that of one process with as large a batch.

    `AsymmetricTrainer` is the same with the interface of pytorch-metric-learning 2.9, which the
    engine does not need. A subclass may override the methods below that say what a step does.

    Args:
        networks: One network from data to codes, on its device, or two, of which the second encodes
            the database. By name for a subclass that calls them in `compute_codes`.
        loss_func: The loss. Its code bank, if any, is saved and resumed too.
        optimizers: One or several. Those whose parameters have no gradient, such as frozen ones,
            are not stepped. Parameters of the loss that none of them has are named in the log.
        dataset: Items `(data, label)`, at least `batch_size`; what follows, such as an index, is
            ignored. Labels are ids or multi-hot rows.
        batch_size: Largest size of a batch, of each process. Those of a pass are nearly equal.
        miner: Gives the `indices_tuple` of the loss for codes and labels, and for `ref_emb` and
            `ref_labels` where there are two networks.
        lr_schedulers: Schedulers of learning rates, one or several.
        schedule_by: Whether they are stepped after every `"step"` or `"round"`.
        device: Of the networks and the loss. That of the first network if `None`.
        dtype: Which images are converted to. They stay as they are if `None`.
        sampler: Gives the places of the samples of a pass. In random order if `None`.
        collate_fn: Makes a batch out of items of `dataset`. torch's own if `None`.
        num_workers: Processes that load data; the training's own if 0.
        passes_per_round: Passes over the data set between two discrete steps.
        steps_per_round: Steps between two discrete steps, in place of whole passes.
        seed: Of all random numbers: the order of the samples, their augmentation, dropout.
        amp: `"bf16"` or `"fp16"`: the networks compute in it where it is safe, the loss in float32.
            With `"fp16"` the loss is scaled, and a step whose gradients are not finite is skipped.
        freeze_batch_norm: Keep the batch normalization before the hash layer in eval mode, so that
            its statistics stay those of what a backbone was trained on. Its weights learn.
        channels_last: Store images and weights of convolutions channel by channel of a pixel.
        compile: Compile the networks by `torch.compile`: `True`, or its arguments.
        accumulate_steps: Parts into which a batch is cut to save memory: the gradients of their
            losses are averaged before one step. A loss of pairs sees those within a part.
        checkpoint_folder: Where to save all that the training is, after every round and within it.
        checkpoint_every: Steps between two checkpoints within a round. None there if `None`.
        progress: Show progress bars, in the first process.

    Attributes:
        round: The latest round, from 1 on; 0 before the first.
        step: The latest step of that round, from 0 on.
        steps_per_round: Steps of a round.
        loss: Loss of the latest step, on the device.
        sample_indices: Places in the data set of the latest batch.
        precision: Counts the steps that `"fp16"` skipped: `precision.skipped_steps`.
        code_update: Objective before and after the latest discrete step, `None` without one.
        checkpoints: The checkpoints in `checkpoint_folder`, `None` without one.

    Raises:
        TypeError: If the data set or sampler has no length, or a network or loss is no module.
        ValueError: If an argument is out of range, or arguments do not belong together: sizes of
            data set, code bank and batch, a loss that gathers batches of all processes by itself.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from pml_hashing import CodeBank, DSAHLoss
        >>> from pml_hashing.trainers import Engine
        >>> labels = torch.tensor([0, 1, 0, 1])
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh())
        >>> loss_func = DSAHLoss(2, 8, code_bank=CodeBank(labels, 8))
        >>> optimizer = torch.optim.SGD(network.parameters(), 0.1)
        >>> engine = Engine(
        ...     network, loss_func, optimizer, TensorDataset(torch.eye(4, 3), labels), 2
        ... )
        >>> engine.fit(3, on_round=lambda engine: engine.round < 2)
        >>> engine.round, engine.global_step
        (2, 3)
    """

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module] | dict[str, nn.Module],
        loss_func: nn.Module | dict[str, nn.Module],
        optimizers: Optimizer | Sequence[Optimizer] | dict[str, Optimizer],
        dataset: Any,
        batch_size: int,
        *,
        miner: Callable[..., Any] | dict[str, Callable[..., Any]] | None = None,
        lr_schedulers: Scheduler | Sequence[Scheduler] | dict[str, Scheduler] = (),
        schedule_by: Moment = "round",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        sampler: Any = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        passes_per_round: int = 1,
        steps_per_round: int | None = None,
        seed: int = 0,
        amp: Amp = None,
        freeze_batch_norm: bool = False,
        channels_last: bool = False,
        compile: bool | Mapping[str, Any] = False,  # noqa: A002 (torch's own name)
        accumulate_steps: int = 1,
        checkpoint_folder: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = 1000,
        progress: bool = True,
    ) -> None:
        parts = Parts(
            by_name(networks, "network", "database_network"),
            by_name(loss_func, "metric_loss"),
            by_name(optimizers, "optimizer_{}"),
            by_name(lr_schedulers, "scheduler_{}"),
            by_name(() if miner is None else miner, "tuple_miner"),
        )
        device = parts.device if device is None else torch.device(device)
        super().__init__(parts, Precision(amp, channels_last, device), dtype, seed)
        self.progress, self.freeze_batch_norm = progress, freeze_batch_norm
        for network in parts.networks.values():
            self.precision.prepare(network, compile)
        check_at_least(passes_per_round, 1, "passes_per_round")
        check_at_least(1 if steps_per_round is None else steps_per_round, 1, "steps_per_round")
        check_at_least(1 if checkpoint_every is None else checkpoint_every, 1, "checkpoint_every")
        check_choice(schedule_by, ("step", "round"), "schedule_by")
        self.dataset, self.batch_size = IndexedDataset(dataset), batch_size
        self.schedule_by: Moment = schedule_by
        self.accumulate_steps, self.checkpoint_every = accumulate_steps, checkpoint_every
        order = RandomSampler(self.dataset) if sampler is None else sampler
        self._order = SeededSampler(order, len(dataset), is_replayed=sampler is not None)
        check_sizes(self.dataset, self._order, parts.code_bank, batch_size, accumulate_steps)
        self._loader = RoundLoader(
            self.dataset,
            self._order,
            EvenBatches(self._order, batch_size * world_size(), parts=accumulate_steps),
            seed,
            num_workers=num_workers,
            collate_fn=IndexedCollate(collate_fn),
            pin_memory=device.type == "cuda",
        )
        steps_per_pass = len(self._loader.batches) // accumulate_steps
        self.steps_per_round = steps_per_round or steps_per_pass * passes_per_round
        self.checkpoints = CheckpointFolder.of(checkpoint_folder)
        self.code_update: CodeUpdate | None = None
        self._next_round = 1
        # Where `resume` goes on: a step of a round, `None` after its discrete step, and the states
        # of the random numbers of all processes.
        self._places: dict[int, tuple[int | None, list[dict[str, Any]] | None]] = {}

    def fit(
        self,
        num_rounds: int,
        *,
        start_round: int | None = None,
        on_step: Hook[Self] | None = None,
        on_round: Hook[Self] | None = None,
    ) -> None:
        """Train up to round `num_rounds`, included.

        Hooks are called in the first process, or in all of them within `EveryRank`.

        Args:
            num_rounds: Number of the last round, counted from the first one of the training.
            start_round: Number of the first round. Where `resume` put it, or after the last round
                that was trained, if `None`.
            on_step: Called with the engine after every step, before its checkpoint.
            on_round: Called with the engine after every round and its checkpoint; the training
                stops where it returns False. Called again for a finished round that is resumed,
                since it may not have come to its end.

        Raises:
            FloatingPointError: If the loss is not finite and no step may be skipped.
            KeyboardInterrupt: On Ctrl-C, with how to go on.
            OSError: If a checkpoint cannot be written. The engine is as it was before.
            RuntimeError: If a sample cannot be loaded, or a worker dies: with its name.
            ValueError: If processes do not agree, or the folder has another training's checkpoints.
        """
        first = self._next_round if start_round is None else start_round
        with self._started(first, num_rounds):
            for self.round in range(first, num_rounds + 1):
                start, random = self._places.pop(self.round, (0, None))
                self._places.clear()
                if start is not None:
                    self._train_round(start, random, on_step)
                goes_on = call_after_round(on_round, self)
                self._share_changes()
                self._next_round = self.round + 1
                if not goes_on:
                    break

    def resume(self, folder: str | os.PathLike[str] | None = None) -> int:
        """Put the latest checkpoint back, and return the round to go on with, as `fit` will.

        Args:
            folder: Where the checkpoints are. `checkpoint_folder` if `None`.

        Returns:
            The round of the checkpoint, 1 where there is none.

        Raises:
            ValueError: If all checkpoints are damaged or another training's, or no folder is given.
        """
        checkpoints = self.checkpoints
        if folder is not None and (checkpoints is None or checkpoints.folder != Path(folder)):
            checkpoints = CheckpointFolder(folder)
        if checkpoints is None:
            raise ValueError("Expected a `folder` or a `checkpoint_folder`, got neither.")
        state = checkpoints.load()
        return 1 if state is None else self._load(state)

    def update_codes(self) -> None:
        """Make the discrete step of the loss, where it has a code bank, alike in all processes."""
        self.code_update = self.parts.update_codes(progress=self.progress and rank() == 0)
        share_state(self.parts.modules())

    def _share_changes(self) -> None:
        """Take over what a hook in the first process changed: learning rates, what is frozen."""
        parts = self.parts
        rates, trained = from_first_rank(lambda: (parts.learning_rates(), parts.trained()))
        parts.set_learning_rates(rates)
        parts.set_trained(trained)

    @contextmanager
    def _started(self, start_round: int, num_rounds: int) -> Iterator[None]:
        """Make several processes one training, from the state of the first, and end it."""
        with nullcontext() if self.checkpoints is None else self.checkpoints.in_use():
            check_agreement(start_round=start_round, num_rounds=num_rounds, **self._setup())
            check_agreement(**{"learning rates": self.parts.learning_rates()})
            check_agreement(**{"number of trained parameters": sum(self.parts.trained())})
            share_state(self.parts.modules())
            self.parts.warn_of_untrained()
            try:
                with self._loader.workers():
                    self._assign_class_codes()
                    yield
            except FloatingPointError as error:
                raise FloatingPointError(f"{error} {self._how_to_go_on()}") from error
            except KeyboardInterrupt as error:
                where = f"Stopped in round {self.round}, step {self.step}."
                raise KeyboardInterrupt(f"{where} {self._how_to_go_on()}") from error

    def _assign_class_codes(self) -> None:
        """Give the losses that want them features of the data set, as the networks now have them.

        A loss whose codes were assigned before a checkpoint that is resumed wants none.
        """
        losses = waiting_losses(self.parts.loss_funcs.values())
        if not losses:
            return
        num_classes = max(loss_func.num_classes for loss_func in losses)
        with undisturbed(self.parts.networks.values(), self.device):
            seed = seed_of(self.seed, 0)
            found = features_of(self.features_of_batch, self._loader, num_classes, seed)
        if found is None:
            LOGGER.info(
                "Class codes were not assigned by features, since the network has none that are "
                "known: give a HashingModel, a trunk and an embedder, or override compute_features."
            )
            return
        for loss_func in losses:
            loss_func.use_features(*found)
        share_state(self.parts.modules())

    def _train_round(
        self, start: int, random: list[dict[str, Any]] | None, on_step: Hook[Self] | None
    ) -> None:
        """Make the steps of a round from `start` on, and the discrete step."""
        seed = seed_of(self.seed, self.round, rank())  # other dropout in every process
        torch.manual_seed(seed)
        seed_cpu(seed)
        self.set_to_train()
        if random is not None:
            set_random_state(random[rank()], self.device)
        stop, parts = self.steps_per_round, self.accumulate_steps
        loaded = self._loader.load(self.round, start * parts, stop * parts)
        steps, shown = range(start, stop), self.progress and rank() == 0
        bar = progress_bar(steps, f"round {self.round}", shown=shown, total=stop, initial=start)
        with self.averaged_gradients(), bar:
            for self.step in bar:
                self.start_step()
                self.make_step([self._batch(*batch) for batch in islice(loaded, parts)])
                call_after_step(on_step, self)
                self.step_schedulers("step")
                if self.step % STEPS_BETWEEN_READS == 0:
                    bar.set_postfix(loss=f"{self.loss.item():.4f}")
                made = self.step + 1
                if self.checkpoint_every and made % self.checkpoint_every == 0 and made < stop:
                    self._save(made)
        self.update_codes()
        self.step_schedulers("round")
        share_state(self.parts.loss_funcs.values())  # of which some schedulers set class codes
        check_agreement(**{"learning rates": self.parts.learning_rates()})
        self._save(None)

    def _batch(self, batch: Any, sample_indices: Tensor) -> Batch:
        return Batch(*self.choose_samples(*self.unpack(batch)), sample_indices)

    def _setup(self) -> dict[str, int]:
        """Return what the place within a round means nothing without."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "accumulate_steps": self.accumulate_steps,
            "samples": len(self.dataset),
            "processes": world_size(),
        }

    def _save(self, step: int | None) -> None:
        """Save the state of the training by the first process, where there is a folder for it.

        Args:
            step: Number of steps of the round that were made; `None` after its discrete step.

        Raises:
            FloatingPointError: If a weight is not finite. Checkpoints of finite states stay.
        """
        if self.checkpoints is None:
            return
        if not self.parts.are_finite():
            self.stop("finite weights, got others")
        position = None if step is None else step * self.accumulate_steps
        state = {
            "setup": self._setup(),
            "round": self.round,
            "step": step,
            "loss": self.loss,
            "sample_indices": self.sample_indices,
            "code_update": None if self.code_update is None else tuple(self.code_update),
            "trained": self.parts.trained(),  # a hook may have frozen others than the script does
            "precision": self.precision.state_dict(),
            "sampler": self._loader.sampler_state(position),
            "random": of_all_ranks(random_state(self.device)),
        } | self.parts.states()
        self.checkpoints.save(state, self.round, self.steps_per_round if step is None else step)

    def _load(self, state: dict[str, Any]) -> int:
        """Put a state back, as it was after the latest step that it has, and return its round.

        Raises:
            ValueError: If it is the state of another training.
        """
        step, mine = state["step"], self._setup()
        expected = "the trainer as it was, since the checkpoint stands within a round: "
        check(step is None or state["setup"] == mine, f"{expected}{state['setup']}", mine)
        self.parts.load_states(state)
        self.parts.set_trained(state["trained"])
        self.precision.load_state_dict(state["precision"])
        self._order.load_state(state["sampler"])
        self.code_update = state["code_update"] and CodeUpdate(*state["code_update"])
        self.round = self._next_round = state["round"]
        self.step = (self.steps_per_round if step is None else step) - 1
        self.loss, self.sample_indices = state["loss"].to(self.device), state["sample_indices"]
        self._places = {self.round: (step, state["random"])}
        return self.round

    def _how_to_go_on(self) -> str:
        """Return the end of the message of an error that stopped the training."""
        folder = self.checkpoints
        if folder is None:
            return "There is no `checkpoint_folder` to resume from."
        if folder.newest is None:
            return f"There is no checkpoint in {folder.folder} yet."
        return f"The latest checkpoint, of a finite state, is {folder.newest}: `resume` goes on."
