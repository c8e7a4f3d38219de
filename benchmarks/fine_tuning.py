"""Which recipe fine-tunes a backbone best, on images that nothing was trained on?

    python benchmarks/fine_tuning.py --root DATA --checkpoint WEIGHTS --img-size 96 --epochs 4 \
        --vary trunk_rate=0.1 augmentation=timm head=mlp freeze_batch_norm=no

trains DSAH on the training images of CIFAR-10's protocol `1k/59k`, less a fifth, as
benchmarks/retrieval.py --end-to-end does, but for what is varied: one field of `Budget` in each
run, two with a comma between them. The fifth is scored, half of it searched by the other half: no
query of the results page is used. Prints mAP and CPU time for each.
"""

import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from comparison.cells import hamming_scores
from comparison.methods import METHODS
from comparison.options import add_backbone
from comparison.protocols import validation_split
from comparison.sources import Source
from comparison.task import FINE_TUNED, Budget, Task

KINDS: dict[str, Callable[[str], Any]] = {
    field.name: type(getattr(FINE_TUNED, field.name))
    for field in fields(Budget)
    if field.name != "steps_per_epoch"
} | {"warm_up": float, "freeze_batch_norm": {"yes": True, "no": False}.__getitem__}


def changes(text: str) -> dict[str, Any]:
    """Return fields of `Budget` of a text such as `lr=0.001,head=linear`."""
    found = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    if not found or not found.keys() <= KINDS.keys():
        raise ArgumentTypeError(f"expected some of {', '.join(KINDS)}=VALUE, got {text!r}")
    try:
        return {name: KINDS[name](value) for name, value in found.items()}
    except (KeyError, ValueError) as error:
        raise ArgumentTypeError(f"expected a number, or yes or no, in {text!r}") from error


def parse_args() -> Namespace:
    parser = ArgumentParser(description="Which recipe fine-tunes a backbone best.")
    add = parser.add_argument
    add("--root", type=Path, required=True, help="where CIFAR-10 is")
    add_backbone(parser, "tf_efficientnet_lite0")
    add("--img-size", type=int, default=96)
    add("--epochs", type=int, default=4)
    add("--bits", type=int, default=32)
    add("--method", default="DSAH", choices=METHODS)
    add("--seed", type=int, default=0)
    add("--vary", type=changes, nargs="+", default=[{}], metavar="FIELD=VALUE")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    source = Source(
        "cifar10", args.root, args.backbone, args.img_size, args.checkpoint, None, "cpu", 0
    )
    data = source.load()
    split = validation_split(data.labels, args.seed)
    start = replace(FINE_TUNED, epochs=args.epochs)
    print(f"{args.method}, {args.bits} bits, {args.backbone} at {args.img_size} px, {start}")
    for changed in args.vary:
        task = Task(data, split, args.bits, args.seed, replace(start, **changed), "cpu")
        cpu = time.process_time()
        learned = METHODS[args.method](task)
        cpu = time.process_time() - cpu
        score = hamming_scores(learned, data.labels, split)["mean_average_precision"]
        name = ", ".join(f"{key}={value}" for key, value in changed.items()) or "the recipe"
        print(f"  {name:32} mAP {score:.3f}, {cpu:5.0f} CPU-s", flush=True)


if __name__ == "__main__":
    main()
