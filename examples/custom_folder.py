"""Train on your own images, then search them by file name.

    python examples/custom_folder.py photos                      # a sub-folder for each class
    python examples/custom_folder.py photos/labels.csv           # columns path and label: sea|sand
    python examples/custom_folder.py photos --query dog/17.jpg   # search again: nothing is trained

The first run splits the images into queries and a database, trains DSAH on the database, and makes
a collection of all images. Every run brings the collection in step with the folder, at the cost of
what changed, scores it and draws a gallery. All is by name: files may be added, renamed or removed
between two runs. Model and split stay those of the first run, whatever options come later: remove
the folder --output to start afresh. Images that do not decode are named and left out. For
photographs, add --pretrained.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim import AdamW
from torch.utils.data import Subset

from pml_hashing import AsymmetricTrainer, CodeBank, Collection, DSAHLoss, HashingModel
from pml_hashing.datasets import ImageFiles, retrieval_split
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.models import LIGHT_AUGMENTATION
from pml_hashing.visualize import plot_neighbors


# --8<-- [start:images]
def load_images(data: Path) -> ImageFiles:
    """Return the images that can be read, and name the others."""
    is_table = data.suffix.lower() == ".csv"
    images = ImageFiles.from_csv(data) if is_table else ImageFiles.from_folder(data)
    return images.readable(lambda error: print(f"left out: {error}"))


def load_split(images: ImageFiles, args: Namespace) -> tuple[list[str], list[str]]:
    """Return the names of the queries and of the training images of the first run."""
    path = args.output / "split.json"
    if not path.exists():
        args.output.mkdir(parents=True, exist_ok=True)
        sizes = {"num_queries": args.queries, "num_train": args.train_size}
        split = retrieval_split(images.labels, **sizes, seed=args.seed)._asdict()
        names = {part: [images.names[i] for i in split[part]] for part in ("query", "train")}
        unfinished = path.with_suffix(".unfinished")  # else a killed run leaves half a file
        unfinished.write_text(json.dumps(names))
        unfinished.replace(path)
    names = json.loads(path.read_text())
    return names["query"], names["train"]
    # --8<-- [end:images]


# --8<-- [start:train]
def train(images: ImageFiles, names: list[str], args: Namespace) -> HashingModel:
    places = torch.tensor([images.index(name) for name in names if name in images.names])
    weights = {"pretrained": args.pretrained, "checkpoint_path": args.checkpoint}
    model = HashingModel(args.backbone, args.code_length, img_size=args.image_size, **weights)
    model.to(args.device)
    labels, num_classes = images.labels[places], len(images.classes)
    code_bank = CodeBank(labels, args.code_length, num_classes=num_classes).to(args.device)
    loss_func = DSAHLoss(num_classes, args.code_length, code_bank=code_bank).to(args.device)
    models: dict[str, nn.Module] = {"trunk": model.trunk, "embedder": model.embedder}
    is_trained = args.pretrained or args.checkpoint is not None
    rates = {"trunk": args.lr / 10 if is_trained else args.lr, "embedder": args.lr}
    augmented = model.transform(is_training=True, **LIGHT_AUGMENTATION)
    trainer = AsymmetricTrainer(
        models | {"code_bank": code_bank},
        {f"{name}_optimizer": AdamW(models[name].parameters(), rates[name]) for name in models},
        min(64, len(places)),
        {"metric_loss": loss_func},
        Subset(images.with_transform(augmented), places.tolist()),
        data_device=torch.device(args.device),
        dataloader_num_workers=args.workers,
        freeze_trunk_batchnorm=is_trained,
        channels_last=True,
        seed=args.seed,
    )
    trainer.train(num_epochs=args.epochs)
    return model
    # --8<-- [end:train]


# --8<-- [start:encode]
def encode(images: ImageFiles, train_names: list[str], args: Namespace) -> Collection:
    """Return the collection of all images, in step with their folder."""
    folder = args.output / "codes"
    if not (folder / "collection.json").exists():
        Collection.create(folder, train(images, train_names, args))
    photos = Collection.open(folder, device=args.device)
    if photos.generation and photos.images.is_dir() and not photos.images.samefile(images.folder):
        raise ValueError(
            f"Expected the images in {photos.images}, of which {args.output} is, got others in "
            f"{images.folder}: name another place by --output."
        )
    labels = args.data if args.data.suffix.lower() == ".csv" else "folders"
    print(photos.sync(images.folder, labels=labels, num_workers=args.workers))
    return photos
    # --8<-- [end:encode]


# --8<-- [start:score]
def score(photos: Collection, images: ImageFiles, queries: list[str]) -> float:
    """Return mAP of the queries, searched among all other images."""
    held = [name for name in images.names if name in photos]
    sides = [name for name in held if name in queries], [n for n in held if n not in queries]
    codes = [photos.codes(names) for names in sides]
    labels = [images.labels[[images.index(name) for name in names]] for names in sides]
    return mean_average_precision(codes[0], labels[0], codes[1], labels[1])
    # --8<-- [end:score]


# --8<-- [start:search]
def search(photos: Collection, images: ImageFiles, queries: list[str]) -> Figure:
    """Print the neighbors of some images by their names, and draw them."""
    found = photos.similar(queries, k=min(8, len(photos) - 1), where={"label": images.classes})
    for query, matches in zip(queries, found, strict=True):
        print(f"{query}: {', '.join(match.name for match in matches)}")
    rows = [[images.index(match.name) for match in matches] for matches in found]
    distances = torch.tensor([[match.distance for match in matches] for matches in found])
    places = torch.tensor([images.index(query) for query in queries])
    return plot_neighbors(images, places, torch.tensor(rows), distances=distances)
    # --8<-- [end:search]


def parse_args() -> Namespace:
    parser = ArgumentParser(description="Train, score and search codes of your own images.")
    add = parser.add_argument
    add("data", type=Path, help="a folder of class folders, or a CSV file")
    add("--query", help="search for this image of the data, or another picture")
    add("--backbone", default="resnet18", help="any name of timm.list_models() (resnet18)")
    add("--pretrained", action="store_true", help="start from timm's weights")
    add("--checkpoint", help="start from the weights in this file")
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
    queries, train_names = load_split(images, args)
    photos = encode(images, train_names, args)
    print(f"mAP {score(photos, images, queries):.3f}")
    if args.query is not None and args.query not in photos:
        for match in photos.search(args.query):
            print(f"{match.distance:3d} bits: {match.path}")
        return
    shown = [name for name in queries if name in photos][:8] if args.query is None else [args.query]
    search(photos, images, shown).savefig(args.output / "gallery.png")


def main() -> None:
    args = parse_args()
    try:
        run(args)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"custom_folder.py: error: {error}")


if __name__ == "__main__":
    main()
