"""Train binary codes of images, score them and search them: from images to an index on disk.

    python examples/quickstart.py                      # handwritten digits: nothing to download
    python examples/quickstart.py --data cifar10:data  # CIFAR-10 in data/ (--download fetches it)
    python examples/quickstart.py --data photos        # a folder with a sub-folder for each class
    python examples/quickstart.py --data images.npz    # arrays `images` (uint8) and `labels`

Some images, drawn at random, are the queries. The others are the database, all of which is trained
on, or --train-size images of it; no query is. Random weights are enough to start from for the
digits of scikit-learn; for photographs add --backbone resnet50 --pretrained.
"""

import math
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from pytorch_metric_learning.utils import logging_presets
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from pml_hashing import CodeBank, DSAHLoss, evaluation
from pml_hashing._files import write_atomically
from pml_hashing.distances import HammingDistance
from pml_hashing.models import HashingModel
from pml_hashing.pairs import similarity
from pml_hashing.regularizers import QuantizationRegularizer
from pml_hashing.search import HammingKNN
from pml_hashing.trainers import AsymmetricTrainer
from pml_hashing.visualize import plot_precision_recall, plot_retrieval

BACKBONE = "test_resnet"  # timm's smallest ResNet: 0.4 million parameters


@dataclass
class ImageSet(Dataset[tuple[Any, Tensor]]):
    """Images, or paths of their files, with class ids `(n,)` or multi-hot rows `(n, classes)`."""

    images: np.ndarray
    labels: Tensor
    classes: list[str]
    transform: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return self.transform(self.picture(index)), self.labels[index]

    def picture(self, index: int | Tensor) -> Image.Image:
        image = self.images[int(index)]
        if isinstance(image, str):
            return datasets.folder.default_loader(image)
        return Image.fromarray(image.squeeze()).convert("RGB")

    def class_names(self, index: int) -> str:
        label = self.labels[index]
        return ", ".join(self.classes[c] for c in (label.nonzero() if label.ndim else [label]))

    def part(self, indices: Tensor, transform: Any) -> "ImageSet":
        images = self.images[indices.numpy()]
        return ImageSet(images, self.labels[indices], self.classes, transform)


class Codes(NamedTuple):
    """Packed codes and labels, in the order in which every score takes them."""

    query_codes: Tensor
    query_labels: Tensor
    database_codes: Tensor
    database_labels: Tensor


def load_images(data: str, download: bool) -> ImageSet:
    kind, _, root = data.partition(":")
    if data == "digits":
        digits = load_digits()
        images = (digits.images * (255 / 16)).astype(np.uint8)  # 8 x 8 pixels, from 0 to 16
        return ImageSet(images, torch.tensor(digits.target), list("0123456789"))
    if kind == "cifar10":
        halves = [datasets.CIFAR10(root or "data", h, download=download) for h in (True, False)]
        labels = torch.tensor([label for half in halves for label in half.targets])
        return ImageSet(np.concatenate([h.data for h in halves]), labels, halves[0].classes)
    if Path(data).is_dir():
        folder = datasets.ImageFolder(data)
        paths, ids = zip(*folder.samples, strict=True)
        return ImageSet(np.array(paths), torch.tensor(ids), folder.classes)
    return load_npz(data)


def load_npz(path: str) -> ImageSet:
    try:
        with Path(path).open("rb") as opened, np.load(opened) as file:  # numpy may leave it open
            images, labels = file["images"], file["labels"]
    except Exception as error:  # zip archives and arrays have errors of many kinds
        raise ValueError(
            "Expected --data digits, cifar10[:ROOT], a folder, or an .npz file with the arrays "
            f"images and labels, got {path} ({error})."
        ) from error
    if images.dtype != np.uint8 or images.ndim < 3 or images.shape[3:] not in {(), (1,), (3,)}:
        raise ValueError(
            "Expected images of uint8 and shape (n, height, width) or (n, height, width, 1 or 3), "
            f"got {images.dtype} and {images.shape}."
        )
    if labels.dtype.kind not in "iub" or labels.ndim not in {1, 2} or len(labels) != len(images):
        raise ValueError(
            f"Expected integer labels of shape ({len(images)},) or ({len(images)}, num_classes), "
            f"got {labels.dtype} and {labels.shape}."
        )
    classes = np.arange(labels.shape[-1])
    if labels.ndim == 1:  # class ids may be any numbers
        classes, labels = np.unique(labels, return_inverse=True)
    return ImageSet(images, torch.from_numpy(labels).long(), [str(c) for c in classes])


def split(images: ImageSet, model: HashingModel, args: Namespace) -> list[ImageSet]:
    """Return queries, database and training images."""
    if args.queries >= len(images):
        raise ValueError(f"Expected --queries below {len(images)}, the number of images.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(args.seed))
    queries, database = order.tensor_split([args.queries])
    plain, augmented = model.transform(), model.transform(is_training=True)
    if args.data == "digits":  # mirrored or cut in half, a digit is another or none
        shaken = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1))
        augmented = v2.Compose([shaken, plain])
    chosen = ((queries, plain), (database, plain), (database[: args.train_size], augmented))
    return [images.part(indices, transform) for indices, transform in chosen]


def make_loss(images: ImageSet, args: Namespace) -> nn.Module:
    """Return DSAH, or a loss of PML that a distance and a regularizer turn into a hashing loss."""
    num_classes, code_length = len(images.classes), args.code_length
    if args.loss == "dsah":
        bank = CodeBank(images.labels, code_length, num_classes=num_classes).to(args.device)
        loss_func = DSAHLoss(num_classes, code_length, code_bank=bank, collect_stats=True)
        return loss_func.to(args.device)
    if images.labels.ndim == 2:
        raise ValueError("Expected --loss dsah for images of several labels, which PML's refuse.")
    distance = HammingDistance(binarize=False)  # bits have no gradient, their relaxation has
    options: Any = {"distance": distance, "embedding_regularizer": QuantizationRegularizer()}
    if args.loss == "triplet":
        return TripletMarginLoss(margin=code_length / 4, **options)  # in bits
    return ContrastiveLoss(pos_margin=0, neg_margin=code_length / 4, **options)


def make_trainer(model: HashingModel, images: ImageSet, args: Namespace) -> AsymmetricTrainer:
    models = {"trunk": model.trunk, "embedder": model.embedder}
    steps = args.epochs * math.ceil(len(images) / args.batch_size)
    optimizers, schedulers = {}, {}
    for name, part in models.items():  # a trained trunk is to change little
        rate = args.lr * (0.1 if name == "trunk" and (args.pretrained or args.checkpoint) else 1)
        optimizers[f"{name}_optimizer"] = optimizer = torch.optim.AdamW(part.parameters(), rate)
        schedulers[f"{name}_scheduler_by_iteration"] = OneCycleLR(optimizer, rate, steps)
    loss_func = make_loss(images, args)
    if isinstance(loss_func, DSAHLoss):
        models["code_bank"] = loss_func.code_bank
    return AsymmetricTrainer(
        models,
        optimizers,
        args.batch_size,
        {"metric_loss": loss_func},
        images,
        lr_schedulers=schedulers,
        data_device=torch.device(args.device),
        dataloader_num_workers=args.workers,
        seed=args.seed,
    )


def train(trainer: AsymmetricTrainer, epochs: int, log_folder: str) -> None:
    """Train, and write what PML's hooks record every ten steps for TensorBoard."""
    record_keeper, _, writer = logging_presets.get_record_keeper(log_folder, log_folder)
    hooks = logging_presets.get_hook_container(record_keeper, log_freq=10)
    trainer.end_of_iteration_hook = hooks.end_of_iteration_hook
    trainer.train(num_epochs=epochs)
    writer.close()


def encode(model: HashingModel, queries: ImageSet, database: ImageSet, workers: int) -> Codes:
    loaders = [DataLoader(images, 256, num_workers=workers) for images in (queries, database)]
    query_codes, database_codes = map(model.encode, loaders)
    return Codes(query_codes, queries.labels, database_codes, database.labels)


def queries_per_second(codes: Codes) -> float:
    """Time the search for the ten nearest items, given the codes of the queries."""
    knn = HammingKNN()
    knn.add(codes.database_codes)
    start = time.perf_counter()
    for _ in range(10):
        knn(codes.query_codes, k=min(10, len(knn)))
    return 10 * len(codes.query_codes) / (time.perf_counter() - start)


def print_table(methods: dict[str, Codes]) -> None:
    print(f"\n{'':16}{'mAP@all':>9}{'P@100':>9}{'P@H<=2':>9}{'bytes/image':>13}{'queries/s':>12}")
    for name, codes in methods.items():
        mean_ap = evaluation.mean_average_precision(*codes)
        at_100 = evaluation.precision_at_k(*codes, top_k=100)
        within_2 = evaluation.precision_within_radius(*codes, radius=2)
        size, speed = codes.database_codes.shape[1], queries_per_second(codes)
        print(f"{name:16}{mean_ap:9.4f}{at_100:9.4f}{within_2:9.4f}{size:13}{speed:12,.0f}")


def save(model: HashingModel, methods: dict[str, Codes], output: Path) -> None:
    codes = methods["after training"]
    model.save_pretrained(output / "model")
    write_atomically(output / "codes.safetensors", lambda path: save_file(codes._asdict(), path))
    knn = HammingKNN(code_length=model.code_length)
    knn.add(codes.database_codes)
    knn.save(output / "index.safetensors")
    curves = {name: evaluation.precision_recall_by_radius(*c) for name, c in methods.items()}
    plot_precision_recall(curves).savefig(output / "precision_recall.png")


def search(codes: Codes, queries: ImageSet, database: ImageSet, output: Path) -> None:
    """Search for some queries, from the worst to the best, with the saved model and index."""
    model, knn = HashingModel.from_pretrained(output / "model"), HammingKNN()
    knn.load(output / "index.safetensors")
    order = evaluation.average_precision(*codes).argsort()
    shown = queries.part(order[torch.linspace(0, len(order) - 1, 8).long()], model.transform())
    distances, indices = knn(model.encode(shown), k=min(10, len(knn)))
    figure = plot_retrieval(
        [shown.picture(i) for i in range(len(shown))],
        [[database.picture(i) for i in row] for row in indices],
        similarity(shown.labels, database.labels).gather(1, indices),
        distances=distances,
        query_names=[shown.class_names(i) for i in range(len(shown))],
    )
    figure.savefig(output / "gallery.jpg", dpi=90)  # small enough for a web page


def positive(text: str) -> int:
    if int(text) < 1:
        raise ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


def parse_args() -> Namespace:
    parser = ArgumentParser(description="Train, score and search codes of images.")
    add = parser.add_argument
    add("--data", default="digits", help="digits, cifar10[:ROOT], a folder or a .npz file")
    add("--download", action="store_true", help="let torchvision download CIFAR-10")
    add("--queries", type=positive, default=300, help="number of queries (300)")
    add("--train-size", type=positive, help="images to train on (all of the database)")
    add("--backbone", default=BACKBONE, help=f"any name of timm.list_models() ({BACKBONE})")
    add("--pretrained", action="store_true", help="start from timm's weights")
    add("--checkpoint", help="start from the weights in this file")
    add("--image-size", type=positive, help="32 from random weights, else the backbone's own")
    add("--code-length", type=positive, default=32, help="number of bits (32)")
    add("--loss", choices=("dsah", "triplet", "contrastive"), default="dsah")
    add("--epochs", type=positive, default=12)
    add("--batch-size", type=positive, default=64)
    add("--lr", type=float, default=3e-3, help="largest rate (a tenth for a trained backbone)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=0, help="processes that load images")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path("outputs/quickstart"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    if args.backbone == BACKBONE:
        torch.set_num_threads(1)  # so small a network gains nothing from more
    try:  # whatever can be wrong with the arguments
        size = args.image_size or (None if args.pretrained or args.checkpoint else 32)
        weights = {"pretrained": args.pretrained, "checkpoint_path": args.checkpoint}
        model = HashingModel(args.backbone, args.code_length, img_size=size, **weights)
        model.to(args.device)
        queries, database, training = split(load_images(args.data, args.download), model, args)
        trainer = make_trainer(model, training, args)
        args.output.mkdir(parents=True, exist_ok=True)
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"quickstart.py: error: {error}")
    print(f"{len(queries)} queries, {len(database)} images, {len(training)} of them to train on")
    methods = {"before training": encode(model, queries, database, args.workers)}
    train(trainer, args.epochs, str(args.output / "tensorboard" / time.strftime("%Y%m%d-%H%M%S")))
    methods["after training"] = encode(model, queries, database, args.workers)
    print_table(methods)
    save(model, methods, args.output)
    search(methods["after training"], queries, database, args.output)
    print(f"\nIn {args.output}: {', '.join(sorted(p.name for p in args.output.iterdir()))}")


if __name__ == "__main__":
    main()
