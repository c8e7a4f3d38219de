"""Retrieval on CIFAR-10 with codes of a frozen backbone's features: DSAH beside what it must beat.

    python benchmarks/cifar10_features.py FEATURES.npz
    python benchmarks/cifar10_codes.py FEATURES.npz

Protocol "1k/59k, train 5k": 100 queries and 500 training images per class, drawn by seed; the
database is everything else, including the training images. mAP@all, ties `expected`. Every method
sees the same features, standardized with mean and deviation of the training images.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from comparison.protocols import PROTOCOLS
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pml_hashing import AsymmetricTrainer, CodeBank, DSAHLoss, HashingModel
from pml_hashing.baselines import ITQ
from pml_hashing.codes import pack
from pml_hashing.evaluation import mean_average_precision


class Split:
    """Queries, database and training images of one seed."""

    def __init__(self, features: Tensor, labels: Tensor, seed: int) -> None:
        query, database, train = PROTOCOLS["1k/59k"].split(labels, 0, seed)
        mean, deviation = features[train].mean(dim=0), features[train].std(dim=0)
        features = (features - mean) / deviation.clamp(min=1e-6)
        self.query, self.query_labels = features[query], labels[query]
        self.database, self.database_labels = features[database], labels[database]
        self.train, self.train_labels = features[train], labels[train]

    def score(self, encode: Callable[[Tensor], Tensor]) -> float:
        """Return mAP@all of the codes that `encode` makes of features."""
        return mean_average_precision(
            encode(self.query), self.query_labels, encode(self.database), self.database_labels
        )


def cosine(split: Split) -> float:
    """Return mAP@all of the float features by cosine similarity."""
    queries, items = (nn.functional.normalize(x) for x in (split.query, split.database))
    precisions = []
    for query, label in zip(queries, split.query_labels, strict=True):
        ranking = (items @ query).argsort(descending=True)
        ranks = (split.database_labels[ranking] == label).nonzero().flatten() + 1
        precisions.append((torch.arange(1, len(ranks) + 1) / ranks).mean())
    return torch.stack(precisions).mean().item()


def itq(split: Split, code_length: int) -> float:
    """Return mAP@all of ITQ, trained on the training images."""
    hasher = ITQ(code_length, random_state=0).fit(split.train.numpy())
    return split.score(lambda x: pack(torch.from_numpy(hasher.transform(x.numpy()))))


def dsah(split: Split, code_length: int, epochs: int, seed: int, head: str) -> tuple[float, ...]:
    """Return mAP@all of the untrained and the trained codes, and the seconds of training."""
    torch.manual_seed(seed)
    num_features = split.train.shape[1]
    model = HashingModel(
        nn.Identity(), code_length, num_features=num_features, head=head, drop_rate=0.2
    )

    def encode(features: Tensor) -> Tensor:
        return model.encode(features, batch_size=4096, progress=False)

    untrained = split.score(encode)
    bank = CodeBank(split.train_labels, code_length)
    optimizer = torch.optim.AdamW(model.embedder.parameters(), lr=1e-3, weight_decay=1e-3)
    trainer = AsymmetricTrainer(
        models={"trunk": model.trunk, "embedder": model.embedder, "code_bank": bank},
        optimizers={"embedder_optimizer": optimizer},
        batch_size=128,
        loss_funcs={"metric_loss": DSAHLoss(bank.num_classes, code_length, code_bank=bank)},
        dataset=TensorDataset(split.train, split.train_labels),
        lr_schedulers={
            "embedder_scheduler_by_epoch": torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, epochs
            )
        },
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
        seed=seed,
    )
    start = time.perf_counter()
    trainer.train(num_epochs=epochs)
    seconds = time.perf_counter() - start
    return untrained, split.score(encode), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("features", type=Path)
    parser.add_argument("--code-lengths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--head", default="mlp", choices=["linear", "mlp"])
    arguments = parser.parse_args()
    arrays = np.load(arguments.features)
    features, labels = (torch.from_numpy(arrays[name]) for name in ("features", "labels"))
    splits = [Split(features.float(), labels, seed) for seed in range(arguments.seeds)]

    def show(name: str, scores: list[float]) -> None:
        print(f"{name:28s} {np.mean(scores):.4f} ± {np.std(scores):.4f}", flush=True)

    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    show("float features, cosine", [cosine(split) for split in splits])
    for code_length in arguments.code_lengths:
        results = [
            dsah(split, code_length, arguments.epochs, seed, arguments.head)
            for seed, split in enumerate(splits)
        ]
        untrained, trained, seconds = zip(*results, strict=True)
        show(f"{code_length} bits, untrained layer", list(untrained))
        show(f"{code_length} bits, ITQ", [itq(split, code_length) for split in splits])
        show(f"{code_length} bits, DSAH", list(trained))
        print(f"{'':28s} trained in {np.mean(seconds):.0f} s")


if __name__ == "__main__":
    main()
