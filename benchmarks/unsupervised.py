"""Codes learned without labels on a frozen backbone: deep losses beside ITQ.

    PML_HASHING_DATA=DATA python benchmarks/cifar10_features.py FEATURES.npz
    PML_HASHING_DATA=DATA python benchmarks/cifar10_views.py VIEWS.npz
    python benchmarks/unsupervised.py FEATURES.npz VIEWS.npz --tune
    python benchmarks/unsupervised.py FEATURES.npz VIEWS.npz

Of CIFAR-10's training images in their order, 0 to 4,999 are trained on, without labels. On 5,000 to
6,999 the settings were chosen, by mAP at 32 bits with one seed (`--tune`): the only use of labels.
7,000 to 11,999 are scored. Of those chosen by and of those scored, the first fifth are the queries
and the rest the database, which no method has seen. mAP@all, ties `expected`.

Every method sees the same features, standardized by the training images. Losses of views train on
pairs of views of an image, drawn anew in every step from its augmented views and itself.
"""

import platform
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pml_hashing import BiHalfLoss, CIBHashLoss, HashingModel
from pml_hashing.baselines import ITQ
from pml_hashing.codes import pack
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.models.hash_layer import Head
from pml_hashing.regularizers import (
    BitBalanceRegularizer,
    BitDecorrelationRegularizer,
    QuantizationRegularizer,
)

TRAINING, VALIDATION, TEST = slice(0, 5000), slice(5000, 7000), slice(7000, 12000)
EPOCHS = 10


class Data:
    """Features of all images, of the training images with their views, and labels to score by."""

    def __init__(self, features_file: Path, views_file: Path) -> None:
        arrays = np.load(features_file)
        features = torch.from_numpy(arrays["features"][: TEST.stop]).float()
        mean, deviation = features[TRAINING].mean(dim=0), features[TRAINING].std(dim=0)
        self.raw = features
        self.features = (features - mean) / deviation.clamp(min=1e-6)
        self.labels = torch.from_numpy(arrays["labels"][: TEST.stop])
        views = torch.from_numpy(np.load(views_file)["views"]).float()
        views = (views - mean) / deviation.clamp(min=1e-6)
        self.views = torch.cat([self.training[:, None], views], dim=1)

    @property
    def training(self) -> Tensor:
        return self.features[TRAINING]

    def score(self, encode: Callable[[Tensor], Tensor], part: slice) -> float:
        """Return mAP@all of the codes that `encode` makes of features."""
        codes, labels = encode(self.features[part]), self.labels[part]
        n = len(labels) // 5
        return mean_average_precision(codes[:n], labels[:n], codes[n:], labels[n:])

    def cosine(self, features: Tensor, part: slice) -> float:
        """Return mAP@all of float features by cosine similarity."""
        features, labels = F.normalize(features[part]), self.labels[part]
        n, precisions = len(labels) // 5, []
        for query, label in zip(features[:n], labels[:n], strict=True):
            ranking = (features[n:] @ query).argsort(descending=True)
            ranks = (labels[n:][ranking] == label).nonzero().flatten() + 1
            precisions.append((torch.arange(1, len(ranks) + 1) / ranks).mean())
        return torch.stack(precisions).mean().item()


def nt_xent(codes: Tensor, ref_codes: Tensor, temperature: float) -> Tensor:
    """Return what PML's SelfSupervisedLoss(NTXentLoss(temperature)) does, faster."""
    both = F.normalize(torch.cat([codes, ref_codes]))
    logits = (both @ both.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(both)).roll(len(codes)))


class ContrastiveLoss(nn.Module):
    """PML's NT-Xent of the real codes of two views, and all of our regularizers of both."""

    def __init__(self, temperature: float = 0.3, weight: float = 0.1) -> None:
        super().__init__()
        self.temperature, self.weight = temperature, weight
        kinds = (QuantizationRegularizer, BitBalanceRegularizer, BitDecorrelationRegularizer)
        self.regularizers = nn.ModuleList(kind() for kind in kinds)

    def forward(self, codes: Tensor, ref_emb: Tensor) -> Tensor:
        both = torch.cat([codes, ref_emb])
        added = torch.stack([regularizer(both) for regularizer in self.regularizers]).sum()
        return nt_xent(codes, ref_emb, self.temperature) + self.weight * added


@dataclass(frozen=True)
class Deep:
    """A loss, and how a hash layer is trained with it."""

    loss: Callable[..., nn.Module]
    of_views: bool = True
    head: Head = "mlp"
    lr: float = 1e-4
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 64

    def fit(self, data: Data, code_length: int, seed: int) -> Callable[[Tensor], Tensor]:
        torch.manual_seed(seed)
        bound = "tanh" if self.of_views else "none"
        width = data.training.shape[1]
        model = HashingModel(
            nn.Identity(), code_length, num_features=width, head=self.head, bound=bound
        )
        loss_func = self.loss(**self.options) if self.of_views else self.loss(data.training)
        step = self.step_of_views if self.of_views else self.step_of_rows
        optimizer = torch.optim.AdamW(model.parameters(), self.lr, weight_decay=1e-3, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(data.training)).split(self.batch_size):
                optimizer.zero_grad()
                step(loss_func, model, data, rows).backward()
                optimizer.step()
            schedule.step()
        return lambda features: model.encode(features, batch_size=4096, progress=False)

    def step_of_rows(
        self, loss_func: nn.Module, model: nn.Module, data: Data, rows: Tensor
    ) -> Tensor:
        return loss_func(model(data.training[rows]), rows)

    def step_of_views(
        self, loss_func: nn.Module, model: nn.Module, data: Data, rows: Tensor
    ) -> Tensor:
        count = data.views.shape[1]
        first = torch.randint(count, (len(rows),))
        second = (first + torch.randint(1, count, (len(rows),))) % count  # another one
        views = torch.cat([data.views[rows, first], data.views[rows, second]])
        codes, ref_codes = model(views).chunk(2)
        return loss_func(codes, ref_emb=ref_codes)


def fit_itq(data: Data, code_length: int, seed: int) -> Callable[[Tensor], Tensor]:
    hasher = ITQ(code_length, random_state=seed).fit(data.training.numpy())
    return lambda features: pack(torch.from_numpy(hasher.transform(features.numpy())))


CHOSEN: dict[str, Deep] = {
    "CIBHash": Deep(CIBHashLoss),
    "NT-Xent, regularizers": Deep(ContrastiveLoss, options={"temperature": 1.0}),
    "Bi-half": Deep(BiHalfLoss, of_views=False),
}
"""The best of `tuned` on the images to choose by."""

SETTINGS_OF_VIEWS = (
    ("linear", 3e-5, 0.3),
    ("mlp", 1e-4, 0.3),
    ("mlp", 1e-3, 0.3),
    ("mlp", 1e-4, 0.5),
    ("mlp", 1e-4, 1.0),
)
"""Head, learning rate, temperature."""


def tuned() -> dict[str, Deep]:
    """Return all settings that are tried, by name."""
    tried = {}
    for head, lrs in (("linear", (1e-5, 1e-4, 1e-3)), ("mlp", (3e-5, 1e-4, 3e-4))):
        for lr in lrs:
            tried[f"Bi-half, {head}, lr {lr}"] = Deep(BiHalfLoss, False, head, lr)
    for name, loss in (("CIBHash", CIBHashLoss), ("NT-Xent, regularizers", ContrastiveLoss)):
        for head, lr, temperature in SETTINGS_OF_VIEWS:
            setting = Deep(loss, True, head, lr, {"temperature": temperature})
            tried[f"{name}, {head}, lr {lr}, temperature {temperature}"] = setting
    return tried


def tune(data: Data, only: str) -> None:
    print("mAP of images 5,000 to 6,999 at 32 bits, one seed")
    for name, method in tuned().items():
        if only in name:
            score = data.score(method.fit(data, 32, 0), VALIDATION)
            print(f"{name:52} {score:.3f}", flush=True)


def compare(data: Data, code_lengths: list[int], seeds: int, only: str) -> None:
    print("mAP of images 7,000 to 11,999, mean and deviation of the seeds")
    if not only:
        for name, features in (("standardized", data.features), ("as they are", data.raw)):
            print(f"float features {name}, cosine: {data.cosine(features, TEST):.3f}")
    methods = {"ITQ": fit_itq} | {name: method.fit for name, method in CHOSEN.items()}
    for name, fit in methods.items():
        for code_length in code_lengths if only in name else ():
            start = time.perf_counter()
            scores = [data.score(fit(data, code_length, seed), TEST) for seed in range(seeds)]
            seconds = (time.perf_counter() - start) / seeds
            line = f"{name:24} {code_length:4d} bits {np.mean(scores):.3f} ± {np.std(scores):.3f}"
            print(f"{line}   {seconds:4.0f} s each", flush=True)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("features", type=Path)
    parser.add_argument("views", type=Path)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--only", default="", help="methods whose name has this in it")
    parser.add_argument("--code-lengths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    data = Data(args.features, args.views)
    print(f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}")
    if args.tune:
        tune(data, args.only)
    else:
        compare(data, args.code_lengths, args.seeds, args.only)


if __name__ == "__main__":
    main()
