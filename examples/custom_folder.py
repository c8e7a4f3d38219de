"""Train on your own images, then search them by file name.

    python examples/custom_folder.py photos                      # a sub-folder for each class
    python examples/custom_folder.py photos/labels.csv           # columns path and label: sea|sand
    python examples/custom_folder.py photos --query dog/17.jpg   # search again: nothing is trained

The first run splits the images into queries and a database, trains DSAH on the database, and writes
the model, the codes of all images and a gallery of queries to --output. What is there already is
not made again: a run that was stopped while encoding resumes where it was. Remove the folder to
start afresh. Images that do not decode are named and left out. For photographs, add --pretrained.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import Subset

from pml_hashing import AsymmetricTrainer, CodeBank, DSAHLoss, HammingKNN, HashingModel
from pml_hashing.datasets import ImageFiles, UnreadableImageError, retrieval_split
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.visualize import plot_neighbors


# --8<-- [start:images]
def load_images(data: Path) -> ImageFiles:
    """Return the images that can be read, and name the others."""
    images = ImageFiles.from_csv(data) if data.suffix == ".csv" else ImageFiles.from_folder(data)
    return images.readable(lambda error: print(f"left out: {error}"))


def load_split(images: ImageFiles, args: Namespace) -> dict[str, Tensor]:
    """Return queries, database and training images of the first run."""
    path = args.output / "split.safetensors"
    if not path.exists():
        args.output.mkdir(parents=True, exist_ok=True)
        sizes = {"num_queries": args.queries, "num_train": args.train_size}
        unfinished = path.with_suffix(".unfinished")  # else a killed run leaves half a file
        save_file(retrieval_split(images.labels, **sizes, seed=args.seed)._asdict(), unfinished)
        unfinished.replace(path)
    return load_file(path)
    # --8<-- [end:images]


# --8<-- [start:train]
def train(images: ImageFiles, places: Tensor, args: Namespace) -> None:
    model = HashingModel(
        args.backbone, args.code_length, pretrained=args.pretrained, img_size=args.image_size
    )
    model.to(args.device)
    labels, num_classes = images.labels[places], len(images.classes)
    code_bank = CodeBank(labels, args.code_length, num_classes=num_classes).to(args.device)
    loss_func = DSAHLoss(num_classes, args.code_length, code_bank=code_bank).to(args.device)
    models: dict[str, nn.Module] = {"trunk": model.trunk, "embedder": model.embedder}
    rates = {"trunk": args.lr / 10 if args.pretrained else args.lr, "embedder": args.lr}
    trainer = AsymmetricTrainer(
        models | {"code_bank": code_bank},
        {f"{name}_optimizer": AdamW(models[name].parameters(), rates[name]) for name in models},
        min(64, len(places)),
        {"metric_loss": loss_func},
        Subset(images.with_transform(model.transform(is_training=True)), places.tolist()),
        data_device=torch.device(args.device),
        dataloader_num_workers=args.workers,
        seed=args.seed,
    )
    trainer.train(num_epochs=args.epochs)
    model.save_pretrained(args.output / "model")
    # --8<-- [end:train]


# --8<-- [start:encode]
def encode(model: HashingModel, images: ImageFiles, args: Namespace) -> tuple[Tensor, Tensor]:
    """Return packed codes, and the places of the images that have one."""
    unreadable: list[UnreadableImageError] = []
    codes = model.encode(
        images.with_transform(model.transform()),
        path=args.output / "codes.safetensors",
        num_workers=args.workers,
        on_unreadable=unreadable.append,
    )
    has_code = torch.ones(len(images), dtype=torch.bool)
    for error in unreadable:
        print(f"left out: {error}")
        has_code[error.index] = False
    return codes, has_code.nonzero().flatten()
    # --8<-- [end:encode]


# --8<-- [start:search]
def search(knn: HammingKNN, codes: Tensor, queries: Tensor, images: ImageFiles) -> Figure:
    """Print the neighbours of some images by their names, and draw them."""
    distances, found = knn.search(codes, k=min(8, len(knn)))
    for query, names in zip(queries.tolist(), found, strict=True):
        print(f"{images.names[query]}: {', '.join(map(str, names))}")
    places = torch.tensor([[images.index(str(name)) for name in names] for names in found])
    return plot_neighbors(images, queries, places, distances=distances)
    # --8<-- [end:search]


def parse_args() -> Namespace:
    parser = ArgumentParser(description="Train, score and search codes of your own images.")
    add = parser.add_argument
    add("data", type=Path, help="a folder of class folders, or a CSV file")
    add("--query", help="search for this image of the data")
    add("--backbone", default="resnet18", help="any name of timm.list_models() (resnet18)")
    add("--pretrained", action="store_true", help="start from timm's weights")
    add("--image-size", type=int, help="the backbone's own by default")
    add("--code-length", type=int, default=48, help="number of bits (48)")
    add("--queries", type=int, default=100, help="images to score the codes with (100)")
    add("--train-size", type=int, help="images to train on (all of the database)")
    add("--epochs", type=int, default=20)
    add("--lr", type=float, default=1e-3, help="a tenth of it for a pretrained backbone")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=0, help="processes that load images")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path("outputs/custom_folder"))
    return parser.parse_args()


def run(args: Namespace) -> None:
    torch.manual_seed(args.seed)
    images = load_images(args.data)
    split = load_split(images, args)
    if not (args.output / "model").exists():
        train(images, split["train"], args)
    model = HashingModel.from_pretrained(args.output / "model", device=args.device)
    codes, places = encode(model, images, args)
    is_query = torch.isin(places, split["query"])
    sides = [(codes[part], images.labels[places[part]]) for part in (is_query, ~is_query)]
    print(f"mAP {mean_average_precision(*sides[0], *sides[1]):.3f}")
    knn = HammingKNN(code_length=model.code_length)
    knn.train(sides[1][0], ids=[images.names[place] for place in places[~is_query].tolist()])
    asked = is_query if args.query is None else places == images.index(args.query)
    if not asked.any():
        raise ValueError(f"Expected --query to be an image that was encoded, got {args.query}.")
    rows = asked.nonzero().flatten()[:8]
    figure = search(knn, codes[rows], places[rows], images)
    figure.savefig(args.output / "gallery.png")


def main() -> None:
    args = parse_args()
    try:
        run(args)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"custom_folder.py: error: {error}")


if __name__ == "__main__":
    main()
