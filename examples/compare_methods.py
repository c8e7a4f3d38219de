r"""Compare hashing methods: same backbone, same split, same budget, several seeds.

    python examples/compare_methods.py --dataset PHOTOS           # a sub-folder for each class
    python examples/compare_methods.py --dataset cifar10 --root DATA --protocol 1k/54k \
        --methods ITQ CSQ DSAH --code-lengths 16 32 --seeds 3     # torchvision's files in DATA
    python examples/compare_methods.py --dataset cifar10 --root DATA --end-to-end --device cuda

trains on features of a frozen backbone, which are extracted once and kept beside the results, or
`--end-to-end`. Every result is a line of the file `--output`: run the command again, and only what
is missing is computed. Everything is encoded by the networks, as in an index that is deployed.
"""

import multiprocessing
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # a bar for each of a thousand rounds

from comparison.cells import Cell, run_cell
from comparison.methods import FLOAT_FEATURES, METHODS
from comparison.protocols import PROTOCOLS
from comparison.results import append_record, drop_torn_line, read_records
from comparison.sources import Source
from comparison.task import Budget


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", default="cifar10", help="cifar10, fashion-mnist, miml, or a folder")
    add("--root", type=Path, default=Path(os.environ.get("PML_HASHING_DATA", "data")))
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="1k/59k for class ids of a named data set, else 10%%/90%%",
    )
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        metavar="METHOD",
        help=f"of {', '.join(METHODS)} (all)",
    )
    add("--code-lengths", type=positive, nargs="+", default=[12, 24, 32, 48])
    add("--seeds", type=positive, default=3, help="number of seeds (3)")
    add("--epochs", type=positive, default=Budget.epochs)
    add("--backbone", default="resnet18", help="any name of timm.list_models() (resnet18)")
    add("--checkpoint", type=Path, help="weights of the backbone (timm's from its hub)")
    add("--img-size", type=positive, help="height and width for the backbone (its own)")
    add("--features", type=Path, help="features, instead of those beside the results")
    add("--end-to-end", action="store_true", help="train the backbone too")
    add("--device", default="cpu")
    add("--workers", type=int, default=0, help="processes that load images")
    add("--output", type=Path, default=Path("outputs/comparison/results.jsonl"))
    return parser.parse_args()


def positive(text: str) -> int:
    if int(text) < 1:
        raise ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


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


def make_grid(args: Namespace) -> list[Cell]:
    """Return all cells: seed by seed, so that a part of the grid is a comparison too."""
    protocol = args.protocol or (
        "1k/59k" if args.dataset in {"cifar10", "fashion-mnist"} else "10%/90%"
    )
    shared = (args.dataset, protocol, args.backbone, args.img_size, args.end_to_end)
    budget, cells = Budget(epochs=args.epochs), []
    for seed, code_length, method in product(range(args.seeds), args.code_lengths, args.methods):
        length = None if method == FLOAT_FEATURES else code_length
        cells.append(Cell(*shared, method, length, seed, budget))
    return list(dict.fromkeys(cells))


def run_apart(cell: Cell, source: Source) -> dict:
    """Run a cell in a process of its own, whose peak of memory is that of the cell."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faiss", "torch", "pml_hashing"])  # imported once
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(run_cell, cell, source).result()


def main() -> None:
    args = parse_args()
    source, failed = make_source(args), 0
    drop_torn_line(args.output)
    finished = [{k: r[k] for k in Cell.__dataclass_fields__} for r in read_records(args.output)]
    for cell in make_grid(args):
        if asdict(cell) in finished:
            continue
        name = f"{cell.method:15} {cell.code_length or 'no':>3} bits, seed {cell.seed}:"
        try:
            record = run_apart(cell, source)
        except Exception as error:  # of the method, or of its process: the others go on
            failed += 1
            print(f"{name} {type(error).__name__}: {error}", file=sys.stderr)
            continue
        append_record(args.output, record)
        print(
            f"{name} mAP {record['mean_average_precision']:.4f} in {record['train_seconds']:.0f} s",
            flush=True,
        )
    if failed:
        sys.exit(f"compare_methods.py: error: {failed} cells failed; run again for those alone")


if __name__ == "__main__":
    main()
