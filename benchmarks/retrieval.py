r"""Compare hashing methods: same backbone, same split, same budget, several seeds.

    python benchmarks/retrieval.py --dataset PHOTOS               # a sub-folder for each class
    python benchmarks/retrieval.py --dataset cifar10 --root DATA --protocol 1k/54k \
        --methods ITQ CSQ DSAH --code-lengths 16 32 --seeds 5     # torchvision's files in DATA
    python benchmarks/retrieval.py --dataset PHOTOS --methods DSAH --loss my_module:MyLoss
    python benchmarks/retrieval.py --dataset cifar10 --root DATA --end-to-end --device cuda

trains on features of a frozen backbone, which are extracted once and kept beside the results, or
`--end-to-end`. Every result is a line of the file `--output`: run the command again, and only what
is missing is computed. A change of the code is not noticed: delete the lines of a method that has
changed. Tables are printed at the end, and a figure is saved beside the results. Everything is
encoded by the networks, as in a deployed index. For Linux and macOS.

--loss names a class, or a function that returns a loss, in a module that is installed or lies in
the current folder. It is called with those of the arguments num_classes, code_length, seed and
code_bank that it accepts. A loss that has a code bank derives from DiscreteLoss.

docs/results.md has the command that its tables were made with.
"""

import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from comparison.cells import Cell
from comparison.data import DATASETS, DOWNLOADS, download
from comparison.grid import check, missing_cells, run_all
from comparison.methods import FLOAT_FEATURES, METHODS, NETWORKS
from comparison.options import add_backbone
from comparison.outside import load_loss
from comparison.protocols import PROTOCOLS
from comparison.report import by_setting, plot, to_markdown
from comparison.results import read_records, write_csv
from comparison.sources import Source
from comparison.task import FINE_TUNED, FROZEN

PROTOCOL_OF = {"cifar10": "1k/59k", "cifar100": "1k/15k", "fashion-mnist": "1k/59k"}
OF_BUDGET = ("epochs", "batch_size", "steps_per_epoch", "training_scale")
ROOT = Path(os.environ.get("PML_HASHING_DATA", "data"))


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add, positive = parser.add_argument, at_least(1)
    add("--dataset", default="cifar10", help=f"{', '.join(DATASETS)} (cifar10) or a folder")
    add("--root", type=Path, default=ROOT, help="of the data sets (PML_HASHING_DATA, or data)")
    add("--download", action="store_true", help=f"download {', '.join(DOWNLOADS)} to the root")
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="how to split (1k/59k, cifar100 1k/15k, a folder or miml 10%%/90%%)",
    )
    add("--methods", nargs="*", metavar="METHOD", help=f"of {', '.join(METHODS)} (all)")
    add("--loss", nargs="+", default=[], metavar="MODULE:LOSS", help="losses from elsewhere")
    add("--code-lengths", type=positive, nargs="+", default=[12, 24, 32, 48])
    add("--seeds", type=positive, default=3, help="number of seeds (3)")
    frozen, fine = FROZEN, FINE_TUNED
    add("--epochs", type=positive, help=f"({frozen.epochs}; end to end {fine.epochs})")
    add("--batch-size", type=positive, help=f"({frozen.batch_size}; end to end {fine.batch_size})")
    add("--steps-per-epoch", type=positive, help="in place of a pass over the training images")
    add("--training-scale", type=share, help="end to end, side of training images to --img-size")
    add_backbone(parser, "resnet18")
    add("--img-size", type=positive, help="height and width for the backbone (its own)")
    add("--features", type=Path, help="file of the features (beside the results)")
    add("--end-to-end", action="store_true", help="train the backbone too")
    add("--device", type=device, default="cpu", help="where networks run (cpu)")
    add("--workers", type=at_least(0), default=0, help="processes that load images (0)")
    add("--output", type=Path, default=Path("outputs/comparison/results.jsonl"))
    add("--csv", type=Path, help="also write the results of this grid as a table")
    args = parser.parse_args()
    if args.protocol is None:
        args.protocol = PROTOCOL_OF.get(args.dataset, "10%/90%")
    if args.methods is None:
        args.methods = NETWORKS if args.end_to_end else list(METHODS)
    for problem in problems(args):
        parser.error(problem)
    return args


def at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise ArgumentTypeError(f"expected at least {least}, got {text}")
        return int(text)

    return number


def share(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise ArgumentTypeError(f"expected a share above 0 and up to 1, got {text}")
    return float(text)


def device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except Exception as error:  # PyTorch's are of several kinds
        raise ArgumentTypeError(f"expected a device of PyTorch, got {text!r} ({error})") from error
    return text


def problems(args: Namespace) -> Iterator[str]:
    """Return what is wrong with the arguments, before an hour is spent on some cells."""
    if args.dataset not in DATASETS and not Path(args.dataset).is_dir():
        yield f"unknown data set {args.dataset!r}: {', '.join(DATASETS)}, or a folder"
    if args.download and args.dataset not in DOWNLOADS:
        yield f"--download is for {', '.join(DOWNLOADS)}, not for {args.dataset!r}"
    if args.end_to_end and args.features is not None:
        yield "--features are of a frozen backbone, so there are none --end-to-end"
    if args.checkpoint is not None and not args.checkpoint.is_file():
        yield f"no file {args.checkpoint} for --checkpoint"
    if args.csv is not None and (args.csv.is_dir() or args.csv == args.output):
        yield f"expected a file of its own for --csv, got {args.csv}"
    yield from problems_of_methods(args)


def problems_of_methods(args: Namespace) -> Iterator[str]:
    if not args.methods and not args.loss:
        yield "neither --methods nor a --loss"
    for method in args.methods:
        if method not in METHODS:
            yield f"unknown method {method!r}: of {', '.join(METHODS)}; --loss takes module:Loss"
        elif args.end_to_end and method not in NETWORKS:
            yield f"{method!r} has no network that could be trained --end-to-end"
    for loss in args.loss:
        try:
            load_loss(loss)
        except ValueError as error:
            yield f"argument --loss: {error}"


def make_source(args: Namespace) -> Source:
    features = None
    if not args.end_to_end:
        name = f"{Path(args.dataset).resolve().name}_{args.backbone}_{args.img_size or 'own'}.npz"
        features = args.features or args.output.parent / re.sub(r"[^\w.-]", "-", name)
    return Source(
        args.dataset,
        args.root,
        args.backbone,
        args.img_size,
        args.checkpoint,
        features,
        args.device,
        args.workers,
    )


def make_grid(args: Namespace, source: Source) -> list[Cell]:
    """Return all cells, seed by seed, so that part of the grid is a comparison too."""
    shared = (args.dataset, args.protocol, source.weights, args.img_size, args.end_to_end)
    budget = FINE_TUNED if args.end_to_end else FROZEN
    given = {name: getattr(args, name) for name in OF_BUDGET}
    budget = replace(budget, **{name: value for name, value in given.items() if value is not None})
    cells = [
        Cell(*shared, method, None if method == FLOAT_FEATURES else code_length, seed, budget)
        for seed in range(args.seeds)
        for code_length in args.code_lengths
        for method in [*args.methods, *args.loss]
    ]
    return list(dict.fromkeys(cells))


def main() -> None:
    args = parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")  # no bar for each of a thousand rounds
    source = make_source(args)
    cells = make_grid(args, source)
    try:
        if args.download:
            download(args.dataset, args.root)
        missing = missing_cells(cells, args.output)
        if missing:
            check(missing, source)
        failed = run_all(missing, source, args.output)
        records = [record for record in read_records(args.output) if Cell.of(record) in cells]
        if args.csv is not None:
            write_csv(args.csv, records)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"retrieval.py: error: {error}")
    print(to_markdown(records))
    for setting, of_setting in by_setting(records).items():
        plot(of_setting).savefig(args.output.parent / f"{setting.file_name}.png")
    if failed:
        sys.exit(f"retrieval.py: error: {failed} of {len(cells)} failed; the others are kept")


if __name__ == "__main__":
    main()
