"""Train binary codes of images, score them and search them: from images to an index on disk.

    python examples/quickstart.py                      # handwritten digits: nothing to download
    python examples/quickstart.py --data cifar10:data  # CIFAR-10 in data/ (--download fetches it)
    python examples/quickstart.py --data photos        # a folder with a sub-folder for each class
    python examples/quickstart.py --data photos.csv    # columns path and label: sea|sand
    python examples/quickstart.py --data images.npz    # arrays `images` (uint8) and `labels`

Some images, drawn at random, are the queries. The others are the database; all of it is trained on,
or --train-size images of it, and no query is. Random weights are enough to start with for the
digits of scikit-learn; for photographs add --backbone resnet50 --pretrained.
"""

import math
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.utils import logging_presets
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Subset
from torchvision.datasets import CIFAR10

from pml_hashing import AsymmetricTrainer, CodeBank, DSAHLoss, HammingKNN, HashingModel, evaluation
from pml_hashing.datasets import ImageArrays, ImageFiles, LabelledImages, retrieval_split
from pml_hashing.visualize import choose_queries, plot_neighbors, plot_precision_recall

BACKBONE = "test_resnet"  # timm's smallest ResNet: 0.4 million parameters
RATE = 3e-3  # the largest while training
Codes = tuple[Tensor, Tensor, Tensor, Tensor]  # of queries, their labels; of the database, theirs


def load_images(data: str, download: bool) -> LabelledImages:
    if data == "digits":
        digits = load_digits()  # 8 x 8 pixels, from 0 to 16
        return ImageArrays((digits.images * (255 / 16)).astype(np.uint8), digits.target)
    kind, _, root = data.partition(":")
    if kind == "cifar10":
        first, last = (CIFAR10(root or "data", half, download=download) for half in (True, False))
        pixels = np.concatenate([first.data, last.data])
        return ImageArrays(pixels, first.targets + last.targets, classes=first.classes)
    if Path(data).is_dir():
        return ImageFiles.from_folder(data)
    return (
        ImageFiles.from_csv(data) if data.lower().endswith(".csv") else ImageArrays.from_npz(data)
    )


def train(model: HashingModel, images: LabelledImages, places: Tensor, args: Namespace) -> None:
    """Train DSAH, and write what PML's hooks record every ten steps for TensorBoard."""
    # Mirrored or cut in half, a digit becomes another one or none.
    transform = model.transform(is_training=args.data != "digits")
    num_classes, code_length = len(images.classes), model.code_length
    code_bank = CodeBank(images.labels[places], code_length, num_classes=num_classes)
    code_bank.to(args.device)
    loss_func = DSAHLoss(num_classes, code_length, code_bank=code_bank, collect_stats=True)
    models = {"trunk": model.trunk, "embedder": model.embedder, "code_bank": code_bank}
    is_trained = args.pretrained or args.checkpoint is not None  # then it should change little
    batch_size = min(64, len(places))
    steps = args.epochs * math.ceil(len(places) / batch_size)
    optimizers, schedulers = {}, {}
    for name, rate in (("trunk", RATE / 10 if is_trained else RATE), ("embedder", RATE)):
        optimizers[f"{name}_optimizer"] = optimizer = AdamW(models[name].parameters(), rate)
        schedulers[f"{name}_scheduler_by_iteration"] = OneCycleLR(optimizer, rate, steps)
    logs = str(args.output / "tensorboard" / time.strftime("%Y%m%d-%H%M%S"))
    record_keeper, _, writer = logging_presets.get_record_keeper(logs, logs)
    hooks = logging_presets.get_hook_container(record_keeper, log_freq=10)
    trainer = AsymmetricTrainer(
        models,
        optimizers,
        batch_size,
        {"metric_loss": loss_func.to(args.device)},
        Subset(images.with_transform(transform), places.tolist()),
        lr_schedulers=schedulers,
        end_of_iteration_hook=hooks.end_of_iteration_hook,
        data_device=torch.device(args.device),
        dataloader_num_workers=args.workers,
        freeze_trunk_batchnorm=is_trained,
    )
    trainer.train(num_epochs=args.epochs)
    writer.close()


def print_table(methods: dict[str, Codes]) -> None:
    print(f"\n{'':16}{'mAP@all':>9}{'P@100':>9}{'P@H<=2':>9}{'bytes/image':>13}")
    for name, codes in methods.items():
        mean_ap = evaluation.mean_average_precision(*codes)
        at_100 = evaluation.precision_at_k(*codes, top_k=100)
        within_2 = evaluation.precision_within_radius(*codes, radius=2)
        print(f"{name:16}{mean_ap:9.4f}{at_100:9.4f}{within_2:9.4f}{codes[2].shape[1]:13}")


def save(model: HashingModel, methods: dict[str, Codes], output: Path) -> None:
    codes = methods["after training"]
    model.save_pretrained(output / "model")
    names = ("query_codes", "query_labels", "database_codes", "database_labels")
    save_file(dict(zip(names, codes, strict=True)), output / "codes.safetensors")
    knn = HammingKNN(code_length=model.code_length)
    knn.add(codes[2])
    knn.save(output / "index.safetensors")
    curves = {name: evaluation.precision_recall_by_radius(*c) for name, c in methods.items()}
    plot_precision_recall(curves).savefig(output / "precision_recall.png")


def parse_args() -> Namespace:
    parser = ArgumentParser(description="Train, score and search codes of images.")
    add = parser.add_argument
    add("--data", default="digits", help="digits, cifar10[:ROOT], a folder, .csv or .npz file")
    add("--download", action="store_true", help="let torchvision download CIFAR-10")
    add("--queries", type=int, default=300, help="number of queries (300)")
    add("--train-size", type=int, help="images to train on (all of the database)")
    add("--backbone", default=BACKBONE, help=f"any name of timm.list_models() ({BACKBONE})")
    add("--pretrained", action="store_true", help="start from timm's weights")
    add("--checkpoint", help="start from the weights in this file")
    add("--image-size", type=int, help="32 from random weights, else the backbone's own")
    add("--code-length", type=int, default=32, help="number of bits (32)")
    add("--epochs", type=int, default=12)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=0, help="processes that load images")
    add("--output", type=Path, default=Path("outputs/quickstart"))
    return parser.parse_args()


def run(args: Namespace) -> None:
    torch.manual_seed(0)
    size = args.image_size or (None if args.pretrained or args.checkpoint else 32)
    weights = {"pretrained": args.pretrained, "checkpoint_path": args.checkpoint}
    model = HashingModel(args.backbone, args.code_length, img_size=size, **weights)
    model.to(args.device)
    images = load_images(args.data, args.download)
    encoded, labels = images.with_transform(model.transform()), images.labels
    query, database, training = retrieval_split(
        labels, num_queries=args.queries, num_train=args.train_size
    )
    print(f"{len(query)} queries, {len(database)} images, {len(training)} of them to train on")

    def encode() -> Codes:
        codes = model.encode(encoded, num_workers=args.workers)
        return codes[query], labels[query], codes[database], labels[database]

    methods = {"before training": encode()}
    train(model, images, training, args)
    methods["after training"] = codes = encode()
    print_table(methods)
    save(model, methods, args.output)

    # Search for queries of all classes, from bad ones to good ones, with what was saved.
    model, knn = HashingModel.from_pretrained(args.output / "model"), HammingKNN()
    knn.load(args.output / "index.safetensors")
    shown = query[choose_queries(labels[query], 8, evaluation.average_precision(*codes))]
    distances, found = knn(model.encode(Subset(encoded, shown.tolist())), k=min(10, len(knn)))
    figure = plot_neighbors(images, shown, database[found], distances=distances)
    figure.savefig(args.output / "gallery.jpg", dpi=90)  # small enough for a web page
    print(f"\nIn {args.output}: {', '.join(sorted(p.name for p in args.output.iterdir()))}")


if __name__ == "__main__":
    arguments = parse_args()
    if arguments.backbone == BACKBONE:
        torch.set_num_threads(1)  # a network this small gains nothing from more
    try:
        run(arguments)
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"quickstart.py: error: {error}")
