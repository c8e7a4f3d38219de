"""The engine with the interface of PML's trainers: dicts by name, hooks, records."""

import os
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from pml_hashing._arrays import to_labels
from pml_hashing._checks import check
from pml_hashing._compat import BaseTrainer, common_functions
from pml_hashing._eval_mode import freeze_batch_norm
from pml_hashing.distributed import is_distributed
from pml_hashing.trainers._contracts import data_and_labels
from pml_hashing.trainers._features import trunk_of
from pml_hashing.trainers._hooks import EveryRank, call_after_round, call_after_step
from pml_hashing.trainers._parts import bank_of
from pml_hashing.trainers._processes import Codes, check_agreement
from pml_hashing.trainers._steps import Batch, Moment
from pml_hashing.trainers.engine import Engine

MODELS = ("trunk", "embedder", "database_trunk", "database_embedder", "code_bank")
# Arguments of the engine that PML does not know.
OPTIONS = ("passes_per_round", "seed", "amp", "channels_last", "compile", "accumulate_steps")
OPTIONS += ("checkpoint_folder", "checkpoint_every")


class AsymmetricTrainer(BaseTrainer):
    """A PML trainer for one or two networks and codes that are learned in discrete steps.

    An epoch of PML is a *round*: passes over the data set with gradient steps, in which every
    sample occurs once per pass, then one discrete step (`update_codes` of the loss), then PML's
    `end_of_epoch_hook`, which tests and saves. Any PML loss works; one that takes `sample_indices`
    also gets the places of the samples, and with two networks `ref_emb`, codes of the second.

    A training that was stopped and resumed ends with the same weights and codes, bit for bit, on a
    CPU: see `checkpoint_folder`, and "Faults and resuming" in the documentation.

    A loss with `class_codes="assigned"`, as `DSAHLoss` has by default, gets what the trunk makes of
    the data set before the first round. Without an embedder, the trunk has to be a `HashingModel`
    or the like: else its class codes stay as they are.

    In several processes (after `torch.distributed.init_process_group`, as under `torchrun`) a batch
    is `batch_size` samples per process, and training is that of one process with as large a batch;
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
        **kwargs: By name, the arguments `passes_per_round`, `seed`, `amp`, `channels_last`,
            `compile`, `accumulate_steps`, `checkpoint_folder` and `checkpoint_every` of `Engine`,
            and the other arguments of PML's `BaseTrainer`. `label_hierarchy_level` is `"all"`: the
            columns of a label are classes here.

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

    # PML sets these to None first, or where its own loop would be.
    data_and_label_getter: Any
    data_device: Any
    lr_schedulers: dict[str, Any]
    losses: dict[str, Any]

    epoch = property(attrgetter("engine.round"))
    iteration = property(attrgetter("engine.step"))
    sample_indices = property(attrgetter("engine.sample_indices"))
    code_update = property(attrgetter("engine.code_update"))
    precision = property(attrgetter("engine.precision"))
    checkpoints = property(attrgetter("engine.checkpoints"))

    def __init__(
        self,
        models: dict[str, nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
        batch_size: int,
        loss_funcs: dict[str, nn.Module],
        dataset: Any,
        **kwargs: Any,
    ) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        kwargs = {"label_hierarchy_level": "all", **kwargs}
        super().__init__(models, optimizers, batch_size, loss_funcs, dataset, **kwargs)
        self.engine = _TrainerEngine(self, **options)
        self.iterations_per_epoch = self.engine.steps_per_round

    def custom_setup(self) -> None:
        """Check what belongs together, before PML does.

        Raises:
            ValueError: If names of models, labels, miner or code bank do not.
        """
        keys, level = self.models.keys(), self.label_hierarchy_level
        known = f"`models` with the keys trunk and, if wanted, {', '.join(MODELS[1:])}"
        check({"trunk"} <= keys <= {*MODELS}, known, ", ".join(map(repr, keys)))
        whole = "`label_hierarchy_level` to be 'all', since multi-hot labels would lose columns"
        check(level == "all", whole, repr(level))
        given = ", ".join(map(repr, self.loss_funcs)) or "none"
        check("metric_loss" in self.loss_funcs, "`loss_funcs` with the key metric_loss", given)
        loss_func, bank = self.loss_funcs["metric_loss"], self.models.get("code_bank")
        of_loss = bank_of(loss_func)
        own = 'models["code_bank"] to be the `code_bank` of the loss, so that it is saved'
        check(bank is of_loss, own, f"{bank} and {of_loss}")
        if "subset_batch_miner" in self.mining_funcs:
            beside = "beside a code bank, which has to know the samples of a batch"
            check(bank is None, f"no `subset_batch_miner` {beside}", "one")
            check(not is_distributed(), "no `subset_batch_miner` in several processes", "one")

    def modify_schema(self) -> None:
        """Tell PML which models there may be, and which need an optimizer."""
        checker = type(self.schema["models"])
        trained = [f"{k}_optimizer" for k, model in self.models.items() if [*model.parameters()]]
        self.schema["models"] = checker([*MODELS], important=MODELS[:2], essential=MODELS[:1])
        self.schema["optimizers"] = checker(self.schema["optimizers"].keys, important=trained)

    def initialize_models(self) -> None:
        super().initialize_models()
        if "database_trunk" in self.models:
            self.models.setdefault("database_embedder", nn.Identity())

    def maybe_freeze_trunk_batchnorm(self) -> None:
        """Put the batch normalization of both trunks into eval mode, if that is asked for."""
        if self.freeze_trunk_batchnorm:
            for name in {"trunk", "database_trunk"} & self.models.keys():
                freeze_batch_norm(self.models[name])

    def train(self, start_epoch: int = 1, num_epochs: int = 1) -> None:
        """Train from round `start_epoch` to round `num_epochs`, both included.

        Args:
            start_epoch: Number of the first round: what `resume` returns, or
                `load_latest_saved_models` of PML's hook container.
            num_epochs: Number of the last round, as in PML. It is not a count.
        """
        check_agreement(start_epoch=start_epoch, num_epochs=num_epochs)
        on_step = EveryRank(lambda _: call_after_step(self.end_of_iteration_hook, self))
        on_round = EveryRank(self._end_round)
        self.engine.fit(num_epochs, start_round=start_epoch, on_step=on_step, on_round=on_round)

    def _end_round(self, _: Engine) -> bool:
        if self.code_update is not None:
            message = "ROUND %d: the discrete step took the objective from %f to %f"
            common_functions.LOGGER.info(message, self.epoch, *self.code_update)
        self.zero_losses()
        return call_after_round(self.end_of_epoch_hook, self)

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
        return self.engine.resume(folder)

    def update_codes(self) -> None:
        """Make the discrete step of the loss, where it has a code bank, as `train` does."""
        self.engine.update_codes()

    def calculate_loss(self, curr_batch: Batch) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.losses["metric_loss"] = self.engine.batch_loss(curr_batch)


class _TrainerEngine(Engine):
    """The engine of a trainer: what PML has a method, a dict or a record for is made by these.

    Args:
        trainer: The trainer, whose dicts are shared.
        **options: Arguments of `Engine` that PML does not know.
    """

    def __init__(self, trainer: AsymmetricTrainer, **options: Any) -> None:
        self.trainer = trainer
        self._sums: dict[str, Any] = {}
        super().__init__(
            trainer.models,
            trainer.loss_funcs,
            trainer.optimizers,
            trainer.dataset,
            int(trainer.batch_size),
            miner=trainer.mining_funcs,
            lr_schedulers=trainer.lr_schedulers,
            device=trainer.data_device,
            dtype=trainer.dtype,
            sampler=trainer.sampler,
            collate_fn=trainer.collate_fn,
            num_workers=trainer.dataloader_num_workers,
            steps_per_round=trainer.iterations_per_epoch,
            **options,
        )

    def set_to_train(self) -> None:
        self.trainer.set_to_train()

    def start_step(self) -> None:
        self.trainer.update_loss_weights()
        self._sums = dict.fromkeys(self.trainer.losses, 0)

    def unpack(self, batch: Any) -> tuple[Any, Tensor]:
        data, labels = data_and_labels(self.trainer.data_and_label_getter(batch))
        labels = common_functions.process_label(labels, "all", self.trainer.label_mapper)
        return data, to_labels(labels, "labels")

    def choose_samples(self, data: Any, labels: Tensor) -> tuple[Any, Tensor]:
        return self.trainer.maybe_do_batch_mining(data, labels)

    def compute_features(self, data: Any) -> Tensor | None:
        trunk: nn.Module | None = self.trainer.models["trunk"]
        if isinstance(self.trainer.models["embedder"], nn.Identity):  # as PML has it by default
            trunk = trunk_of(self.trainer.models["trunk"])
        return None if trunk is None else trunk(data)

    def compute_codes(self, data: Any) -> Codes:
        models, codes = self.trainer.models, self.trainer.compute_embeddings(data)
        if "database_trunk" not in models:
            return codes, None
        return codes, models["database_embedder"](models["database_trunk"](data))

    def compute_loss(self, batch: Batch) -> Tensor:
        self.trainer.zero_losses()
        self.trainer.calculate_loss(batch)
        self.trainer.loss_tracker.update(self.trainer.loss_weights)
        for name, loss in self.trainer.losses.items():
            self._sums[name] += self.share * loss.detach()
        return self.trainer.losses["total_loss"]

    def clip_gradients(self) -> None:
        self.trainer.losses.update(self._sums)
        if self.trainer.gradient_clippers:
            self.unscale_gradients()
            self.trainer.clip_gradients()

    def step_schedulers(self, moment: Moment) -> None:
        self.trainer.step_lr_schedulers(end_of_epoch=moment == "round")
