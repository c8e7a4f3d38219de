"""What networks are trained on: features of a frozen backbone, or images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from tqdm import tqdm

from comparison.data import Images, ImageSet, load_images
from comparison.results import write_whole
from pml_hashing import HashingModel
from pml_hashing.models import LIGHT_AUGMENTATION

Augmentation = Literal["timm", "light", "strong"]
AUGMENTATIONS: dict[Augmentation, Mapping[str, Any]] = {
    "timm": {},
    "light": LIGHT_AUGMENTATION,
    "strong": {**LIGHT_AUGMENTATION, "auto_augment": "rand-m7-mstd0.5", "re_prob": 0.25},
}
"""How images are changed while training, as arguments of timm's transform."""


@dataclass(frozen=True)
class Source:
    """Where the data are, and what sees them.

    Attributes:
        dataset: A name, or a folder of classes.
        root: Where a data set of that name is.
        backbone: A name of timm.
        img_size: Height and width of an image for the backbone. Its own if `None`.
        checkpoint: Weights of the backbone. Those of timm's hub if `None`.
        features: The file of the features. `None` end to end.
        device: Where to train.
        workers: Processes that load images.
    """

    dataset: str
    root: Path
    backbone: str
    img_size: int | None
    checkpoint: Path | None
    features: Path | None
    device: str
    workers: int

    @property
    def weights(self) -> str:
        """Return the backbone's name in results: its own, and its weights if not timm's."""
        if self.checkpoint is None:
            return self.backbone
        return f"{self.backbone} ({self.checkpoint.name})"

    @property
    def description(self) -> str:
        """What features are of, which is kept with them."""
        return f"{self.dataset}, {self.weights}, {self.img_size or 'own'} px"

    def load(self) -> "Features | Pixels":
        """Return the data. Features are extracted where there are none yet."""
        if self.features is None:
            return Pixels(self, load_images(self.dataset, self.root))
        if not self.features.exists():
            extract(self, self.features)
        return Features.load(self.features, self.description)

    def model(self, code_length: int, **options: Any) -> HashingModel:
        """Return the backbone with a hash layer.

        Raises:
            ValueError: If there is no such backbone, or its weights cannot be loaded.
        """
        try:
            model = HashingModel(
                self.backbone,
                code_length,
                pretrained=self.checkpoint is None,
                checkpoint_path=self.checkpoint,
                img_size=self.img_size,
                **options,
            )
        except (OSError, RuntimeError) as error:  # of timm's hub, or of no network
            raise ValueError(str(error)) from error
        if model.data_config is not None:
            model.data_config["crop_pct"] = 1.0  # nothing of a small image is cut off
        return model

    def loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        return DataLoader(dataset, 100, num_workers=self.workers)


class Standardize(nn.Module):
    """Features less their mean, over their deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("deviation", features.std(dim=0).clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) / self.deviation


@dataclass(frozen=True)
class Features:
    """Features of all images by a frozen backbone."""

    features: Tensor
    labels: Tensor
    num_test: int
    workers: int = 0

    @classmethod
    def load(cls, path: Path, description: str) -> "Features":
        """Return the features of a file.

        Raises:
            ValueError: If there are none in it, or they are features of something else.
        """
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                features, labels = (torch.from_numpy(file[name]) for name in ("features", "labels"))
                # A file of benchmarks/cifar10_features.py does not say what it is.
                num_test = int(file["num_test"]) if "num_test" in file else 10_000
                of = str(file["description"]) if "description" in file else description
        except Exception as error:  # zip archives and arrays have errors of many kinds
            raise ValueError(
                f"Expected a file of features and labels at {path}, got another "
                f"({type(error).__name__}: {error})."
            ) from error
        if features.ndim != 2 or len(features) != len(labels):
            raise ValueError(
                f"Expected features of shape ({len(labels)}, num_features), as there are labels, "
                f"in {path}, got {tuple(features.shape)}."
            )
        if of != description:
            raise ValueError(f"Expected features of {description} in {path}, got those of {of}.")
        return cls(features, labels, num_test)

    def model(self, code_length: int, training: Tensor, **options: Any) -> HashingModel:
        """Return a hash layer on features that are standardized as the training images are."""
        trunk = Standardize(self.features[training].float())
        return HashingModel(trunk, code_length, num_features=self.features.shape[1], **options)

    def training_set(
        self, model: HashingModel, indices: Tensor, augmentation: Augmentation, scale: float
    ) -> Dataset[Any]:
        """Return features and labels, which are not augmented."""
        return TensorDataset(self.features[indices].float(), self.labels[indices])

    def batches(self, model: HashingModel, indices: Tensor) -> Any:
        return (self.features[part] for part in indices.split(4096))


@dataclass(frozen=True)
class Pixels:
    """Images, for a backbone that is trained too."""

    source: Source
    images: Images

    @property
    def labels(self) -> Tensor:
        return self.images.labels

    @property
    def num_test(self) -> int:
        return self.images.num_test

    @property
    def workers(self) -> int:
        return self.source.workers

    def model(self, code_length: int, training: Tensor, **options: Any) -> HashingModel:
        return self.source.model(code_length, **options)

    def training_set(
        self, model: HashingModel, indices: Tensor, augmentation: Augmentation, scale: float
    ) -> Dataset[Any]:
        """Return augmented images, smaller by `scale` than those that are encoded, and labels."""
        assert model.data_config is not None
        sides = tuple(round(side * scale) for side in model.data_config["input_size"][1:])
        changed = {**AUGMENTATIONS[augmentation], "input_size": sides}
        transform = model.transform(is_training=True, **changed)
        return ImageSet(self.images, indices, transform)

    def batches(self, model: HashingModel, indices: Tensor) -> Any:
        loader = self.source.loader(ImageSet(self.images, indices, model.transform()))
        return (images for images, _ in loader)


Data = Features | Pixels


@torch.inference_mode()
def extract(source: Source, path: Path) -> None:
    """Write the features of all images (float16), their labels, and what they are of."""
    images = load_images(source.dataset, source.root)
    model = source.model(code_length=1).eval()
    model.to(source.device, memory_format=torch.channels_last)
    dataset = ImageSet(images, torch.arange(len(images.labels)), model.transform())
    features = [
        model.trunk(batch.to(source.device)).half().cpu().numpy()
        for batch, _ in tqdm(source.loader(dataset), desc="extracting features", disable=False)
    ]
    arrays: dict[str, Any] = {
        "features": np.concatenate(features),
        "labels": images.labels.numpy(),
        "num_test": np.array(images.num_test),
        "description": np.array(source.description),
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    write_whole(path, write)
