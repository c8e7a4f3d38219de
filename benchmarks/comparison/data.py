"""Images and labels: CIFAR, Fashion-MNIST, a folder of classes, images with several labels."""

import gzip
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import datasets

from pml_hashing import HashingModel
from pml_hashing.datasets import ImageFiles, load_image


class Images(NamedTuple):
    """Images (arrays, PIL or paths), their labels, and how many at the end are test images."""

    images: Any
    labels: Tensor
    num_test: int


class ImageSet(Dataset[tuple[Any, Tensor]]):
    """Some images of `Images`, transformed."""

    def __init__(self, images: Images, indices: Tensor, transform: Callable[[Any], Any]) -> None:
        self.images, self.indices, self.transform = images, indices.tolist(), transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        place = self.indices[index]
        image = load_image(self.images.images[place])
        return self.transform(image), self.images.labels[place]


def load_images(dataset: str, root: Path) -> Images:
    """Return the images of a data set by name, found below `root`, or of a folder of classes.

    Raises:
        ValueError: If it is neither, or cannot be read.
    """
    if dataset not in DATASETS and not Path(dataset).is_dir():
        raise ValueError(
            f"Expected `dataset` to be {', '.join(DATASETS)} or a folder with a sub-folder for "
            f"each class, got {dataset!r}."
        )
    where = root if dataset in DATASETS else dataset
    try:
        return DATASETS[dataset](root) if dataset in DATASETS else folder(dataset)
    except Exception as error:  # each reader has errors of its own
        hint = " (--download fetches them)" if dataset in DOWNLOADS else ""
        raise ValueError(
            f"Expected the images of {dataset} in {where}{hint}, got "
            f"{type(error).__name__}: {error}"
        ) from error


def download(dataset: str, root: Path) -> None:
    """Have torchvision download a data set into `root`.

    Raises:
        ValueError: If it has none of this name.
    """
    if dataset not in DOWNLOADS:
        raise ValueError(
            f"Expected `dataset` to be {', '.join(DOWNLOADS)} to download it, got {dataset!r}."
        )
    DOWNLOADS[dataset](root, download=True)


def folder(path: str) -> Images:
    found = ImageFiles.from_folder(path).readable(lambda error: print(f"left out: {error}"))
    return Images([str(found.folder / name) for name in found.names], found.labels, 0)


def cifar10(root: Path) -> Images:
    if (root / "load_assets.py").exists():
        images, labels = load_assets(root).cifar10("all")
        return Images(images, torch.from_numpy(labels), 10_000)
    halves = [datasets.CIFAR10(root, train) for train in (True, False)]
    labels = [label for half in halves for label in half.targets]
    return Images(np.concatenate([half.data for half in halves]), torch.tensor(labels), 10_000)


def cifar100(root: Path) -> Images:
    if (root / "load_assets.py").exists():
        images, labels, _ = load_assets(root).cifar100()
        return Images(images, torch.from_numpy(labels), 0)
    halves = [datasets.CIFAR100(root, train) for train in (True, False)]
    labels = [label for half in halves for label in half.targets]
    return Images(np.concatenate([half.data for half in halves]), torch.tensor(labels), 10_000)


def fashion_mnist(root: Path) -> Images:
    names = [
        f"{half}-{kind}" for kind in ("images-idx3", "labels-idx1") for half in ("train", "t10k")
    ]
    train_images, test_images, train_labels, test_labels = (_read_idx(root, name) for name in names)
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    images = np.concatenate([train_images, test_images])
    return Images(images, torch.from_numpy(labels), len(test_labels))


def miml(root: Path) -> Images:
    images, labels, _, _ = load_assets(root).jpeg_pack(root / "miml2000" / "miml2000.npz")
    return Images(images, torch.from_numpy(labels.astype(np.int64)), 0)


DATASETS: dict[str, Callable[[Path], Images]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "fashion-mnist": fashion_mnist,
    "miml": miml,
}
DOWNLOADS = {
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "fashion-mnist": datasets.FashionMNIST,
}


def _read_idx(root: Path, name: str) -> np.ndarray:
    """Return the array of an idx file: a header of 4 bytes and 4 per dimension, then uint8."""
    path = next(root.glob(f"[Ff]ashion*/**/{name}-ubyte*"), None)
    if path is None:
        raise FileNotFoundError(f"Expected {name}-ubyte in a folder fashion-mnist of {root}.")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def load_assets(root: Path) -> ModuleType:
    """Return the module of a folder of data that reads what is in it."""
    loader = SourceFileLoader("load_assets", str(root / "load_assets.py"))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


def load_backbone(assets: ModuleType, name: str, checkpoint: Path | None) -> nn.Module:
    """Return a trained backbone of timm, with the weights of a file or of a folder of data."""
    if checkpoint is None:
        return assets.backbone(name)
    return HashingModel(name, 1, checkpoint_path=checkpoint).trunk
