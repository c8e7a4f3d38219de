"""Trains with PML's real hooks: `python resumable_training.py FOLDER [STEP]` dies in that step.

Run again, it resumes. `test_resume.py` runs it in a process of its own, since it kills itself.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from pytorch_metric_learning.utils import logging_presets
from torch.utils.data import TensorDataset

from pml_hashing import CodeBank, DSAHLoss
from pml_hashing.testers import HammingTester
from pml_hashing.trainers import AsymmetricTrainer

ROUNDS = 3


def main(folder: Path, fatal_step: int | None) -> None:
    torch.manual_seed(0)
    labels = torch.arange(40) % 4
    images = torch.randn(40, 6) + 2 * torch.nn.functional.one_hot(labels, 6)
    dataset = TensorDataset(images, labels)
    bank = CodeBank(labels, 8, num_networks=2)

    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Dropout(0.3))

    def head() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh())

    models = {"trunk": network(), "embedder": head()}
    models |= {"database_trunk": network(), "database_embedder": head()}
    optimizers = {
        f"{k}_optimizer": torch.optim.Adam(m.parameters(), 0.01) for k, m in models.items()
    }
    schedulers = {
        "trunk_scheduler_by_epoch": torch.optim.lr_scheduler.StepLR(
            optimizers["trunk_optimizer"], 1
        )
    }
    record_keeper, _, _ = logging_presets.get_record_keeper(folder / "logs", folder / "tensorboard")
    hooks = logging_presets.get_hook_container(
        record_keeper,
        primary_metric="hamming_mean_average_precision",
        validation_split_name="query",
    )
    tester = HammingTester(
        end_of_testing_hook=hooks.end_of_testing_hook, dataloader_num_workers=0, data_device="cpu"
    )

    def die_or_log(trainer: AsymmetricTrainer) -> None:
        if trainer.get_global_iteration() == fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)
        hooks.end_of_iteration_hook(trainer)

    trainer = AsymmetricTrainer(
        models | {"code_bank": bank},
        optimizers,
        16,
        {"metric_loss": DSAHLoss(4, 8, class_share=0.5, code_bank=bank)},
        dataset,
        lr_schedulers=schedulers,
        dataloader_num_workers=0,
        data_device="cpu",
        end_of_iteration_hook=die_or_log,
        end_of_epoch_hook=hooks.end_of_epoch_hook(
            tester,
            {"query": dataset, "database": dataset},
            str(folder / "models"),
            splits_to_eval=[("query", ["database"])],
        ),
    )
    # --8<-- [start:resume]
    start = hooks.load_latest_saved_models(trainer, str(folder / "models"), torch.device("cpu"))
    trainer.train(start, ROUNDS)
    # --8<-- [end:resume]
    states = {name: model.state_dict() for name, model in trainer.models.items()}
    torch.save(states, folder / f"result_from_round_{start}.pth")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
