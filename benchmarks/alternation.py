"""What does learning codes in turn with the network add, on images that nothing was trained on?

    TQDM_DISABLE=1 python benchmarks/alternation.py --features FEATURES.npz --epochs 12 --bits 16

FEATURES is a file of benchmarks/retrieval.py. Of the images that the protocols of the results page
train on, a fifth is kept out: half of it are queries, and half is searched. So no query of that
page is used, and nothing is searched that was trained on. Prints mAP for each way, mean and spread
over seeds.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from comparison.cells import hamming_scores
from comparison.fixed_codes import FixedCodesLoss
from comparison.networks import Recipe, Training
from comparison.protocols import validation_split
from comparison.sources import Features
from comparison.task import Budget, Task

from pml_hashing.losses import DSAHLoss


class Renewal:
    """Assigns class codes anew by the network's own outputs, after a third and two thirds."""

    def __init__(self, training: Training) -> None:
        self.training, self.epoch = training, 0

    @torch.inference_mode()
    def step(self) -> None:
        """Count an epoch."""
        self.epoch += 1
        if self.epoch in {self.training.epochs // 3, 2 * self.training.epochs // 3}:
            features, labels = self.training.dataset.tensors
            codes = self.training.model.eval()(features)
            self.training.loss_func.use_features(codes.clone(), labels)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}


def renewal(training: Training) -> dict[str, Any]:
    return {"metric_loss_scheduler_by_epoch": Renewal(training)}


def of_batches(num_classes: int, code_length: int, seed: int) -> DSAHLoss:
    """Return DSAH without a code bank: codes of a batch are solved for in every step."""
    return DSAHLoss(num_classes, code_length, seed=seed)


def fixed(num_classes: int, code_length: int, seed: int) -> FixedCodesLoss:
    return FixedCodesLoss(num_classes, code_length, seed=seed, class_codes="assigned")


bank = partial(Recipe, DSAHLoss)
WAYS: dict[str, Callable[[], Recipe]] = {
    "in turn (default)": bank,
    "in turn, half of a code its own": partial(bank, arguments={"class_share": 0.5}),
    "in turn, outputs count twice": partial(bank, arguments={"quantization_weight": 1.0}),
    "in turn, outputs count 4 times": partial(bank, arguments={"quantization_weight": 2.0}),
    "in turn, outputs count 8 times": partial(bank, arguments={"quantization_weight": 4.0}),
    "in turn, separation counts 4 times": partial(bank, arguments={"inter_weight": 4.0}),
    "in turn, kappa=10 rho=0": partial(
        bank, arguments={"class_share": 0.0, "inner_product_weight": 10.0}
    ),
    "in every batch": partial(Recipe, of_batches),
    "in every batch, codes renewed": partial(Recipe, of_batches, schedules=renewal),
    "never: fixed codes": partial(Recipe, fixed),
    "in turn, two networks": partial(bank, networks=2),
}


def run(data: Features, way: str, args: Namespace, seed: int) -> float:
    """Return mAP of a way."""
    split = validation_split(data.labels, seed)
    task = Task(data, split, args.bits, seed, Budget(epochs=args.epochs), "cpu")
    return hamming_scores(WAYS[way]()(task), data.labels, split)["mean_average_precision"]


def parse_args() -> Namespace:
    parser = ArgumentParser(description="What learning codes in turn with the network adds.")
    add = parser.add_argument
    add("--features", type=Path, required=True, help="a file of benchmarks/retrieval.py")
    add("--bits", type=int, default=16)
    add("--epochs", type=int, default=12)
    add("--seeds", type=int, default=3)
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with args.features.open("rb") as opened, np.load(opened) as file:
        description = str(file.get("description", args.features.stem))
    data = Features.load(args.features, description)
    print(f"{description}, {args.bits} bits, {args.epochs} epochs, {args.seeds} seeds")
    for way in args.ways:
        scores = [run(data, way, args, seed) for seed in range(args.seeds)]
        spread = f" ± {stdev(scores):.3f}" if len(scores) > 1 else ""
        print(f"  {way:36} {fmean(scores):.3f}{spread}", flush=True)


if __name__ == "__main__":
    main()
