"""Which settings rank best, on images that nothing was trained on?

    python benchmarks/settings.py --root DATA --checkpoint WEIGHTS --img-size 96 --epochs 3 \
        --vary trunk_rate=0.1 augmentation=timm head=mlp freeze_batch_norm=no
    python benchmarks/settings.py --root DATA --features outputs/comparison/features.npz \
        --methods DSDH --seeds 3 --vary similar_weight=1 bank_samples=1000 lr=0.003,epochs=24

trains methods on the training images of the results page's protocol, less a fifth, as
benchmarks/retrieval.py does: the whole network, or a hash layer on `--features` that it extracted.
Each run varies what is named: fields of `Budget` and arguments of the loss, more than one with a
comma between them. The fifth is scored, half of it searched by the other half: no query of the
results page is used. Prints mAP, with the standard deviation over the seeds, and CPU time.
"""

import ast
import statistics
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from comparison.cells import hamming_scores
from comparison.data import DATASETS
from comparison.methods import METHODS, NETWORKS
from comparison.networks import Recipe, arguments_of
from comparison.options import add_backbone
from comparison.protocols import validation_split
from comparison.sources import Data, Source
from comparison.task import FINE_TUNED, FROZEN, Budget, Task

Settings = dict[str, Any]
OF_BUDGET = {field.name for field in fields(Budget)}


def settings(text: str) -> Settings:
    """Return values by name, of a text such as `lr=0.001,head=linear`; of none if it is `none`."""
    parts = [part.partition("=") for part in text.split(",") if text != "none"]
    if not all(name and value for name, _, value in parts):
        raise ArgumentTypeError(f"expected NAME=VALUE[,NAME=VALUE ...] or none, got {text!r}")
    return {name: value_of(value) for name, _, value in parts}


def value_of(text: str) -> Any:
    """Return a number, yes or no as booleans, or else the text itself."""
    if text in {"yes", "no"}:
        return text == "yes"
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def parse_args() -> Namespace:
    parser = ArgumentParser(description="Which settings rank best, on images kept out.")
    add = parser.add_argument
    add("--root", type=Path, required=True, help="where the data are")
    add("--dataset", default="cifar10", choices=DATASETS)
    add_backbone(parser, "tf_efficientnet_lite0")
    add("--img-size", type=int)
    add("--features", type=Path, help="of the backbone, which is then not trained")
    add("--epochs", type=int)
    add("--bits", type=int, default=32)
    add("--methods", nargs="+", default=["DSAH"], choices=NETWORKS, metavar="METHOD")
    add("--seeds", type=int, default=1, help="number of seeds (1)")
    add("--vary", type=settings, nargs="+", default=[{}], metavar="NAME=VALUE")
    args = parser.parse_args()
    for problem in problems(args):
        parser.error(problem)
    return args


def problems(args: Namespace) -> Iterator[str]:
    """Return what is wrong, before an hour is spent on some runs."""
    for method in args.methods:
        known = OF_BUDGET | arguments_of(recipe_of(method).loss)
        for name in {name for varied in args.vary for name in varied} - known:
            yield f"{method} has no {name!r}: {', '.join(sorted(known))}"


def recipe_of(method: str) -> Recipe:
    recipe = METHODS[method]
    assert isinstance(recipe, Recipe)
    return recipe


def score(method: str, varied: Settings, data: Data, seed: int, args: Namespace) -> float:
    """Return mAP of the images kept out, after a training with some settings varied."""
    budget = FINE_TUNED if args.features is None else FROZEN
    of_budget = {name: value for name, value in varied.items() if name in OF_BUDGET}
    if args.epochs:
        of_budget = {"epochs": args.epochs} | of_budget
    recipe = recipe_of(method)
    of_loss = {name: value for name, value in varied.items() if name not in OF_BUDGET}
    recipe = replace(recipe, arguments={**recipe.arguments, **of_loss})
    split = validation_split(data.labels, seed)
    task = Task(data, split, args.bits, seed, replace(budget, **of_budget), "cpu")
    return hamming_scores(recipe(task), data.labels, split)["mean_average_precision"]


def main() -> None:
    args = parse_args()
    source = Source(
        args.dataset,
        args.root,
        args.backbone,
        args.img_size,
        args.checkpoint,
        args.features,
        "cpu",
        0,
    )
    data = source.load()
    what = "trained too" if args.features is None else "frozen"
    print(f"{args.dataset}, {args.bits} bits, {args.backbone} {what}, {args.seeds} seeds")
    for method in args.methods:
        for varied in args.vary:
            cpu = time.process_time()
            found = [score(method, varied, data, seed, args) for seed in range(args.seeds)]
            cpu = (time.process_time() - cpu) / args.seeds
            name = ", ".join(f"{key}={value}" for key, value in varied.items()) or "as it is"
            print(f"  {method:12} {name:32} mAP {described(found)}, {cpu:5.0f} CPU-s", flush=True)


def described(scores: list[float]) -> str:
    """Return the mean, and the standard deviation where there is one."""
    spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.3f}{spread}"


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"settings.py: error: {error}")
