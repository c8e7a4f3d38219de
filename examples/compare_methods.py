r"""Compare hashing methods: same backbone, same split, same budget, several seeds.

    python examples/compare_methods.py --dataset PHOTOS           # a sub-folder for each class
    python examples/compare_methods.py --dataset cifar10 --root DATA --protocol 1k/54k \
        --methods ITQ CSQ DSAH --code-lengths 16 32 --seeds 5     # torchvision's files in DATA
    python examples/compare_methods.py --dataset cifar10 --root DATA --end-to-end --device cuda

trains on features of a frozen backbone, which are extracted once and kept beside the results, or
`--end-to-end`. Every result is a line of the file `--output`: run the command again, and only what
is missing is computed. Tables are printed at the end, and a figure stands beside the results.
Everything is encoded by the networks, as in an index that is deployed. Linux and macOS.
"""

import multiprocessing
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from comparison.cells import Cell, run_cell
from comparison.data import DATASETS
from comparison.methods import FLOAT_FEATURES, METHODS
from comparison.protocols import PROTOCOLS
from comparison.report import by_setting, plot, to_markdown
from comparison.results import Record, append_record, drop_torn_line, read_records
from comparison.sources import Source
from comparison.task import Budget


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", default="cifar10", help=f"{', '.join(DATASETS)} (cifar10) or a folder")
    add(
        "--root",
        type=Path,
        default=Path(os.environ.get("PML_HASHING_DATA", "data")),
        help="where the data sets are (the environment's PML_HASHING_DATA, or data)",
    )
    add("--protocol", choices=PROTOCOLS, help="how to split (1k/59k, a folder or miml 10%%/90%%)")
    add("--methods", nargs="+", default=list(METHODS), help=f"of {', '.join(METHODS)} (all)")
    add("--code-lengths", type=positive, nargs="+", default=[12, 24, 32, 48])
    add("--seeds", type=positive, default=3, help="number of seeds (3)")
    add("--epochs", type=positive, default=Budget.epochs, help=f"({Budget.epochs})")
    add("--backbone", default="resnet18", help="any name of timm.list_models() (resnet18)")
    add("--checkpoint", type=Path, help="weights of the backbone (timm's, from its hub)")
    add("--img-size", type=positive, help="height and width for the backbone (its own)")
    add("--features", type=Path, help="file of the features (beside the results)")
    add("--end-to-end", action="store_true", help="train the backbone too")
    add("--device", default="cpu", help="where networks run (cpu)")
    add("--workers", type=int, default=0, help="processes that load images (0)")
    add("--output", type=Path, default=Path("outputs/comparison/results.jsonl"))
    args = parser.parse_args()
    if args.protocol is None:
        args.protocol = "1k/59k" if args.dataset in {"cifar10", "fashion-mnist"} else "10%/90%"
    for problem in problems(args):
        parser.error(problem)
    return args


def positive(text: str) -> int:
    if int(text) < 1:
        raise ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


def problems(args: Namespace) -> list[str]:
    """Return what is wrong with the arguments, before an hour is spent on some of the cells."""
    found = [
        f"unknown method {m!r}: of {', '.join(METHODS)}" for m in args.methods if m not in METHODS
    ]
    if args.dataset not in DATASETS and not Path(args.dataset).is_dir():
        found.append(f"unknown data set {args.dataset!r}: {', '.join(DATASETS)}, or a folder")
    if args.end_to_end and args.features is not None:
        found.append("--features are of a frozen backbone, so there are none --end-to-end")
    if args.checkpoint is not None and not args.checkpoint.is_file():
        found.append(f"no file {args.checkpoint} for --checkpoint")
    return found


def make_source(args: Namespace) -> Source:
    features = None
    if not args.end_to_end:
        name = f"{Path(args.dataset).name}_{args.backbone}_{args.img_size or 'own'}.npz"
        features = args.features or args.output.parent / name
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
    """Return all cells, seed by seed, so that a part of the grid is a comparison too."""
    shared = (args.dataset, args.protocol, source.weights, args.img_size, args.end_to_end)
    budget = Budget(epochs=args.epochs)
    cells = [
        Cell(*shared, method, None if method == FLOAT_FEATURES else code_length, seed, budget)
        for seed in range(args.seeds)
        for code_length in args.code_lengths
        for method in args.methods
    ]
    return list(dict.fromkeys(cells))


def run_apart(cell: Cell, source: Source) -> Record:
    """Run a cell in a process of its own, whose peak of memory is that of the cell."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faiss", "torch", "pml_hashing"])  # imported only once
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(run_cell, cell, source).result()


def run_missing(cells: list[Cell], source: Source, output: Path) -> int:
    """Run all cells that the file does not have, and return how many failed."""
    drop_torn_line(output)
    finished, failed = [Cell.of(record) for record in read_records(output)], 0
    for cell in cells:
        if cell in finished:
            continue
        name = f"{cell.method:15}{cell.code_length or 'no':>3} bits, seed {cell.seed}: "
        try:
            record = run_apart(cell, source)
        except Exception as error:  # of the method, or of its process: the others go on
            failed += 1
            print(f"{name}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        append_record(output, record)
        score, seconds = record["mean_average_precision"], record["train_seconds"]
        print(f"{name}mAP {score:.4f}, trained in {seconds:.0f} s", flush=True)
    return failed


def main() -> None:
    args = parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")  # no bar for each of a thousand rounds
    source = make_source(args)
    cells = make_grid(args, source)
    try:
        failed = run_missing(cells, source, args.output)
    except (OSError, ValueError) as error:
        sys.exit(f"compare_methods.py: error: {error}")
    records = [record for record in read_records(args.output) if Cell.of(record) in cells]
    print(to_markdown(records))
    for setting, of_setting in by_setting(records).items():
        plot(of_setting).savefig(args.output.parent / f"{setting.file_name}.png")
    if failed:
        sys.exit(f"compare_methods.py: error: {failed} of {len(cells)} failed; the others are kept")


if __name__ == "__main__":
    main()
