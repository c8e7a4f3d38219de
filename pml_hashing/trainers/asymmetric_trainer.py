"""Alternating training: rounds of gradient steps, each followed by a discrete step."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler
from tqdm import tqdm

from pml_hashing._checks import check_at_least
from pml_hashing._compat import BaseTrainer, common_functions
from pml_hashing.datasets import EvenBatches, IndexedCollate, IndexedDataset
from pml_hashing.distributed import rank, world_size
from pml_hashing.losses import BaseDiscreteLoss, CodeUpdate
from pml_hashing.trainers._distributed import (
    Compute,
    EveryRank,
    RankBatches,
    RankLoader,
    call_hook,
    check_agreement,
    check_parallel,
    data_parallel,
    gather_batch,
    share_state,
    shared_random_numbers,
)

MODELS = ("trunk", "embedder", "database_trunk", "database_embedder", "code_bank")
STEPS_BETWEEN_READS = 20
"""The loss is read back from a GPU once in so many steps: each time, the GPU waits."""


class AsymmetricTrainer(BaseTrainer):
    """A PML trainer for one or two networks and codes that are learned in discrete steps.

    An epoch of PML is a *round*: passes over the data set with gradient steps, in which every
    sample occurs once a pass, then one discrete step (`update_codes` of the loss), then PML's
    `end_of_epoch_hook`, which tests and saves. Any PML loss works; a loss with discrete variables
    also gets the places of the samples and the codes of the second network.

    Every round seeds Python's, numpy's and torch's random numbers from `seed` and its number, so
    that a training which was stopped and resumed at a round goes on as if it had not been.

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
        seed: See above.
        **kwargs: Other arguments of PML's `BaseTrainer`, by name. `label_hierarchy_level` is
            `"all"`: the columns of a label are classes here.

    Attributes:
        code_update: Objective before and after the latest discrete step, `None` without one.

    Raises:
        TypeError: If the data set has no length.
        ValueError: If the data set is smaller than a batch or not of the size of the code bank, if
            a model's name is unknown, if the code bank of the loss is not the one in `models`, if
            the labels would be reduced to one of their columns, or if several processes cannot
            share a training.
        FloatingPointError: By `train`, if the loss is NaN or infinite.
    """

    data_and_label_getter: Any  # PML sets these to None first
    data_device: Any
    end_of_epoch_hook: Any
    end_of_iteration_hook: Any

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
        **kwargs: Any,
    ) -> None:
        check_at_least(passes_per_round, 1, "passes_per_round")
        check_at_least(batch_size, 1, "batch_size")
        self.passes_per_round, self.seed = passes_per_round, seed
        self.code_update: CodeUpdate | None = None
        kwargs = {"label_hierarchy_level": "all", **kwargs}
        super().__init__(models, optimizers, batch_size, loss_funcs, dataset, **kwargs)

    def custom_setup(self) -> None:
        """Check what belongs together, before PML does."""
        unknown = set(self.models) - set(MODELS)
        if unknown or "trunk" not in self.models:
            raise ValueError(
                f"Expected `models` with the keys trunk and, if wanted, {', '.join(MODELS[1:])}, "
                f"got {', '.join(map(repr, self.models))}."
            )
        self.indexed_dataset = IndexedDataset(self.dataset)
        if len(self.indexed_dataset) < self.batch_size:
            raise ValueError(
                f"Expected a `dataset` of at least `batch_size` = {self.batch_size} samples, "
                f"got {len(self.indexed_dataset)}."
            )
        if self.label_hierarchy_level != "all":
            raise ValueError(
                "Expected `label_hierarchy_level` to be 'all', since multi-hot labels would be "
                f"reduced to one column, got {self.label_hierarchy_level!r}."
            )
        if "code_bank" in self.models and "subset_batch_miner" in self.mining_funcs:
            raise ValueError(
                "Expected no `subset_batch_miner` beside a code bank, which has to know the "
                "samples of a batch, got one."
            )
        self._check_code_bank()
        check_parallel(self.loss_funcs, self.mining_funcs)

    def _check_code_bank(self) -> None:
        bank, loss_func = self.models.get("code_bank"), self.loss_funcs.get("metric_loss")
        of_loss = loss_func.code_bank if isinstance(loss_func, BaseDiscreteLoss) else None
        if bank is not of_loss:
            raise ValueError(
                'Expected models["code_bank"] to be the `code_bank` of the loss, so that it is '
                f"saved with the models, got {bank} and {of_loss}."
            )
        if of_loss is not None and len(of_loss) != len(self.indexed_dataset):
            raise ValueError(
                f"Expected a `dataset` of {len(of_loss)} samples, as the code bank has, "
                f"got {len(self.indexed_dataset)}."
            )

    def modify_schema(self) -> None:
        models, optimizers = self.schema["models"], self.schema["optimizers"]
        models.keys, models.important = list(MODELS), ["trunk", "embedder"]
        trained = [name for name, model in self.models.items() if list(model.parameters())]
        optimizers.important = [f"{name}_optimizer" for name in trained]

    def initialize_models(self) -> None:
        super().initialize_models()
        if "database_trunk" in self.models:
            self.models.setdefault("database_embedder", nn.Identity())
        self.networks: Compute = self.compute_codes

    def initialize_dataloader(self) -> None:
        self.generator = torch.Generator()
        sampler = self.sampler
        if sampler is None:
            sampler = RandomSampler(self.indexed_dataset, generator=self.generator)
        batches = EvenBatches(sampler, int(self.batch_size) * world_size())
        loader = DataLoader(
            self.indexed_dataset,
            batch_sampler=RankBatches(batches),
            num_workers=self.dataloader_num_workers,
            collate_fn=IndexedCollate(self.collate_fn),
            pin_memory=torch.device(self.data_device).type == "cuda",
        )
        self.dataloader = RankLoader(loader)
        if not self.iterations_per_epoch:
            self.iterations_per_epoch = len(self.dataloader) * self.passes_per_round

    def train(self, start_epoch: int = 1, num_epochs: int = 1) -> None:
        """Train from round `start_epoch` to round `num_epochs`, both included.

        Args:
            start_epoch: Number of the first round: what `load_latest_saved_models` of PML's hook
                container returns.
            num_epochs: Number of the last round, as in PML. It is not a count.
        """
        self.initialize_dataloader()
        self.start_processes(start_epoch, num_epochs)
        for self.epoch in range(start_epoch, num_epochs + 1):
            self.start_round()
            steps = tqdm(
                range(self.iterations_per_epoch), desc=f"round {self.epoch}", disable=rank() > 0
            )
            for self.iteration in steps:
                self.forward_and_backward()
                if rank() == 0 or isinstance(self.end_of_iteration_hook, EveryRank):
                    self.end_of_iteration_hook(self)
                self.step_lr_schedulers(end_of_epoch=False)
                if self.iteration % STEPS_BETWEEN_READS == 0:
                    total_loss: Any = self.losses["total_loss"]
                    steps.set_postfix(loss=f"{total_loss.item():.4f}")
            self.update_codes()
            self.step_lr_schedulers(end_of_epoch=True)
            self.zero_losses()
            if not call_hook(self.end_of_epoch_hook, self):
                break

    def start_processes(self, start_epoch: int, num_epochs: int) -> None:
        """Make several processes one training, from the state of the first."""
        check_agreement(
            start_epoch=start_epoch,
            num_epochs=num_epochs,
            seed=self.seed,
            batch_size=int(self.batch_size),
            iterations_per_epoch=int(self.iterations_per_epoch),
            samples=len(self.indexed_dataset),
        )
        self.set_to_train()  # which freezes what is to be frozen
        networks = {k: model for k, model in self.models.items() if k != "code_bank"}
        self.networks = data_parallel(networks, self.compute_codes)
        share_state(self.models.get("code_bank"), *self.loss_funcs.values())

    def start_round(self) -> None:
        """Seed all random numbers for this round, and shuffle the data set anew."""
        seed = (self.seed * 1_000_003 + self.epoch) % 2**32
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (what PML's samplers draw from)
        torch.manual_seed(seed + 9_973 * rank())  # other dropout in every process
        self.generator.manual_seed(seed)
        self.dataloader_iter = iter(self.dataloader)
        self.set_to_train()

    def update_codes(self) -> None:
        """Make the discrete step of the loss, where it has a code bank."""
        loss_func = self.loss_funcs["metric_loss"]
        if isinstance(loss_func, BaseDiscreteLoss) and loss_func.code_bank is not None:
            self.code_update = loss_func.update_codes(progress=rank() == 0)
            before, after = self.code_update
            message = "ROUND %d: the discrete step took the objective from %f to %f"
            common_functions.LOGGER.info(message, self.epoch, before, after)
        share_state(self.models.get("code_bank"), *self.loss_funcs.values())

    def get_batch(self) -> tuple[Any, Tensor]:
        self.dataloader_iter, (batch, self.sample_indices) = common_functions.try_next_on_generator(
            self.dataloader_iter, self.dataloader
        )
        data, labels = self.data_and_label_getter(batch)
        labels = common_functions.process_label(labels, "all", self.label_mapper)
        return self.maybe_do_batch_mining(data, torch.as_tensor(labels))

    def calculate_loss(self, curr_batch: tuple[Any, Tensor]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        data, labels = curr_batch
        codes, second = self.networks(data)
        batch = (codes, labels.to(self.data_device), second)
        codes, labels, second = gather_batch(*batch, len(self.sample_indices))
        # Views, since PML takes the same object on both sides for a batch paired with itself.
        reference = (
            {} if second is None else {"ref_emb": second, "ref_labels": labels.view_as(labels)}
        )
        if "code_bank" in self.models:
            reference["sample_indices"] = self.sample_indices
        with shared_random_numbers(self.seed + self.get_global_iteration(), codes.device):
            self.losses["metric_loss"] = self.mine_and_measure(codes, labels, reference)

    def mine_and_measure(self, codes: Tensor, labels: Tensor, reference: dict[str, Any]) -> Any:
        """Return the loss of the codes of a batch."""
        if "tuple_miner" in self.mining_funcs:
            sides = {k: v for k, v in reference.items() if k != "sample_indices"}
            pairs = self.mining_funcs["tuple_miner"](codes, labels, **sides)
            reference["indices_tuple"] = pairs
        return self.loss_funcs["metric_loss"](codes, labels, **reference)

    def compute_codes(self, data: Any) -> tuple[Tensor, Tensor | None]:
        """Return the codes by the first network, and by the second where there is one."""
        return self.compute_embeddings(data), self.compute_database_codes(data)

    def compute_database_codes(self, data: Tensor) -> Tensor | None:
        """Return the codes by the second network, `None` where there is none."""
        if "database_trunk" not in self.models:
            return None
        data = common_functions.to_device(data, device=self.data_device, dtype=self.dtype)
        return self.models["database_embedder"](self.models["database_trunk"](data))

    def backward(self) -> None:
        """Stop on a loss that is not finite, then go backward.

        Raises:
            FloatingPointError: If the loss is NaN or infinite. On a GPU this is found out within
                some steps, since each look at the value makes the GPU wait.
        """
        loss: Any = self.losses["total_loss"]
        look = not loss.is_cuda or self.iteration % STEPS_BETWEEN_READS == 0
        if look and not loss.isfinite():
            raise FloatingPointError(
                f"Expected a finite loss, got {loss.item()} in round {self.epoch}, step "
                f"{self.iteration}, for the samples {self.sample_indices.tolist()}."
            )
        super().backward()
