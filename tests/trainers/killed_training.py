"""A small training with all that a checkpoint holds, in a process that may be killed anywhere.

`test_faults.py` runs `main` in processes of a fork server, which has loaded torch once.
"""

import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.data import Dataset

from pml_hashing import CodeBank, DSAHLoss
from pml_hashing.trainers import AsymmetricTrainer

ROUNDS = 4


class Augmented(Dataset):
    """Samples with noise of all three kinds of random numbers."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(40) % 4
        self.images = torch.randn(40, 6, generator=generator)
        self.images += 2 * torch.nn.functional.one_hot(self.labels, 6)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        noise = torch.randn(6) + random.random() + np.random.rand()  # noqa: NPY002
        return self.images[index] + 0.1 * noise, self.labels[index]


def make_trainer(folder, workers=0, checkpoint_every=2, **options):
    torch.manual_seed(0)
    dataset = Augmented()
    models = {
        "trunk": torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Dropout(0.3)
        ),
        "embedder": torch.nn.Sequential(
            torch.nn.Linear(16, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh()
        ),
    }
    optimizers = {
        f"{k}_optimizer": torch.optim.Adam(m.parameters(), 0.01) for k, m in models.items()
    }
    steps = torch.optim.lr_scheduler.OneCycleLR(optimizers["trunk_optimizer"], 0.01, 100)
    rounds = torch.optim.lr_scheduler.StepLR(optimizers["embedder_optimizer"], 1)
    bank = CodeBank(dataset.labels, 8)
    options = {"sampler": MPerClassSampler(dataset.labels, 2, 8, 40)} | options
    return AsymmetricTrainer(
        models | {"code_bank": bank},
        optimizers,
        8,
        {"metric_loss": DSAHLoss(4, 8, code_bank=bank)},
        dataset,
        lr_schedulers={
            "trunk_scheduler_by_iteration": steps,
            "embedder_scheduler_by_epoch": rounds,
        },
        passes_per_round=2,
        dataloader_num_workers=workers,
        data_device="cpu",
        checkpoint_folder=folder,
        checkpoint_every=checkpoint_every,
        **options,
    )


def result_of(trainer):
    """Return all that two trainings have to have in common, bit for bit."""
    kinds = (trainer.models, trainer.optimizers, trainer.lr_schedulers, trainer.loss_funcs)
    return [{name: part.state_dict() for name, part in kind.items()} for kind in kinds]


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(number, owner, name):
    """Have the process die in the given call of a function, before it does anything."""
    original, calls = getattr(owner, name), iter(range(1, 10**9))

    def function(*args, **kwargs):
        return die() if next(calls) == number else original(*args, **kwargs)

    setattr(owner, name, function)


PLACES = {
    "save": (torch, "save"),
    "sync": (os, "fsync"),
    "rename": (Path, "replace"),
    "remove": (Path, "unlink"),
    "step": (torch.optim.Adam, "step"),
    "discrete": (DSAHLoss, "update_codes"),
    "schedule": (AsymmetricTrainer, "step_lr_schedulers"),
}


def main(folder, started, place=None, number=0, workers=0):
    """Train from the latest checkpoint to the end, and save the result beside the checkpoints.

    Args:
        folder: Where checkpoints are.
        started: An event to set when training begins.
        place: A key of `PLACES`, where to die.
        number: In which call there.
        workers: Processes that load data.
    """
    torch.set_num_threads(1)
    finished = folder / "finished"

    def note(trainer):
        finished.write_text(str(trainer.epoch))

    if place is not None:
        die_at_call(number, *PLACES[place])
    trainer = make_trainer(folder, workers, end_of_epoch_hook=note)
    # --8<-- [start:resume]
    first = trainer.resume()  # puts the latest checkpoint back; 1 where there is none
    # --8<-- [end:resume]
    before = int(finished.read_text() or 0) if finished.exists() else 0
    within = trainer.iteration + 1 < trainer.iterations_per_epoch
    if first < before or (first == before > 0 and within):
        (folder / "lost").touch()
    started.set()
    # --8<-- [start:train]
    trainer.train(first, ROUNDS)
    # --8<-- [end:train]
    torch.save(result_of(trainer), folder / "result.pt")
