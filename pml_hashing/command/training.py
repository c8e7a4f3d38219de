"""What `pml-hashing train` is made of: the data, the model, the loss and the training."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pml_hashing.command.errors import warn_left_out

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from pml_hashing import Engine, HashingModel
    from pml_hashing.datasets import ImageFiles

SETUP = "train.json"
FINE_RATE = 0.1  # of a trained backbone, to that of the hash layer
HEAD_EPOCHS = 12  # of the hash layer alone, before a backbone is trained too
DSAH, UNBOUNDED = "dsah", ("orthohash", "greedyhash", "dpsh")  # which bound codes by themselves
LOSSES = (DSAH, "csq", "hyp2", *UNBOUNDED)


@dataclass(frozen=True)
class Setup:
    """What a training is: the same goes on from its checkpoints.

    Attributes:
        backbone: A name of timm.
        checkpoint: A file of its weights.
        img_size: Pixels a side.
        bits: Length of a code.
        loss: One of `LOSSES`.
        fine_tune: Whether the backbone is trained too.
        train_size: Pixels a side of the images that it is trained on, where they are smaller.
        batch_size: Images in a step.
        lr: Learning rate of the hash layer.
        seed: Of all random numbers.
    """

    backbone: str
    checkpoint: Path | None
    img_size: int | None
    bits: int
    loss: str
    fine_tune: bool
    batch_size: int
    lr: float
    seed: int
    train_size: int | None = None

    def content(self, images: "ImageFiles") -> dict[str, Any]:
        """Return it and which images it is about, for JSON."""
        weights = None if self.checkpoint is None else self.checkpoint.name
        return asdict(self) | {"checkpoint": weights, "images": _digest(images)}

    def check(self, output: Path, images: "ImageFiles") -> None:
        """Raise unless a folder is new, or has this training.

        Raises:
            FileExistsError: If it has something else.
            ValueError: If it has another training.
        """
        path, mine = output / SETUP, self.content(images)
        if path.is_file():
            held = _held(path)
            other = [name for name in mine if held.get(name) != mine[name]]
            if other:
                raise ValueError(
                    f"Expected the same {', '.join(other)} as of the training in {output}, got "
                    "others: remove it, or name another place by --output."
                )
        elif output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise FileExistsError(f"Expected --output to be new or a training's, got {output}.")

    def write(self, output: Path, images: "ImageFiles") -> None:
        """Write it beside the checkpoints."""
        from pml_hashing._files import write_atomically

        text = json.dumps(self.content(images), indent=2) + "\n"
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / SETUP, lambda path: path.write_text(text))


def _held(path: Path) -> dict[str, Any]:
    """Return what `Setup.write` wrote.

    Raises:
        ValueError: If somebody else wrote it.
    """
    try:
        held = json.loads(path.read_bytes())
        if not isinstance(held, dict):
            raise ValueError(f"a {type(held).__name__}, no dict")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected {path} as a training wrote it, got another ({error}): remove its folder, or "
            "name another place by --output."
        ) from error
    return held


def read_images(
    data: Path, *, allow_outside: bool = False, allow_empty: bool = False
) -> "ImageFiles":
    """Return the labelled images of a folder or a table.

    Args:
        data: The folder or the table.
        allow_outside: Whether paths and links out of the folder are followed.
        allow_empty: Whether a sub-folder may have no images.

    Raises:
        FileNotFoundError: If there is no such folder or table.
        ValueError: If it is none, or there are no labels.
    """
    from pml_hashing.datasets import ImageFiles

    if data.suffix.lower() == ".csv":
        return ImageFiles.from_csv(data, allow_outside=allow_outside)
    if data.is_dir() and not any(path.is_dir() for path in data.iterdir()):
        raise ValueError(
            f"Expected a sub-folder for each class in {data}, got none: a CSV file can name "
            'labels, and "pml-hashing index" needs none.'
        )
    return ImageFiles.from_folder(data, allow_outside=allow_outside, allow_empty=allow_empty)


def make_model(setup: Setup, device: str) -> "HashingModel":
    """Return a model with a trained backbone and a new hash layer."""
    import torch

    from pml_hashing import HashingModel

    torch.manual_seed(setup.seed)
    model = HashingModel(
        setup.backbone,
        setup.bits,
        pretrained=setup.checkpoint is None,
        checkpoint_path=setup.checkpoint,
        img_size=setup.img_size,
        bound="none" if setup.loss in UNBOUNDED else "tanh",
    )
    return model.to(device)


def start_or_resume(
    setup: Setup,
    model: "HashingModel",
    images: "ImageFiles",
    checkpoints: Path,
    workers: int,
    progress: bool,
) -> "Engine":
    """Return the training of a model, or of its hash layer alone, where its checkpoints are.

    A new one that trains the backbone too starts with a hash layer that was trained alone: a random
    one would first take apart what the backbone knows.
    """
    reading = {"num_workers": workers, "progress": progress}
    if setup.fine_tune:
        images = images.readable(warn_left_out)
        dataset, labels = to_images(model, images, setup.train_size)
    else:
        dataset, labels = to_features(model, images, **reading)
    loss_func = make_loss(setup, labels, len(images.classes))
    loss_func.to(next(model.embedder.parameters()).device)
    options = {"progress": progress, "num_workers": workers if setup.fine_tune else 0}
    engine = _engine(setup, model, loss_func, dataset, checkpoint_folder=checkpoints, **options)
    engine.resume()
    if setup.fine_tune and engine.round == 0:
        features, _ = to_features(model, images, **reading)
        alone = replace(setup, fine_tune=False)
        _engine(alone, model, loss_func, features, progress=progress).fit(HEAD_EPOCHS)
    return engine


def _engine(
    setup: Setup,
    model: "HashingModel",
    loss_func: "nn.Module",
    dataset: Any,
    **options: Any,
) -> "Engine":
    """Return a training on images, or of the hash layer alone on features."""
    from torch import nn
    from torch.optim import AdamW

    from pml_hashing import Engine

    groups: list[dict[str, Any]] = [
        {"params": [*model.embedder.parameters(), *loss_func.parameters()], "lr": setup.lr}
    ]
    if setup.fine_tune:
        groups.append({"params": [*model.trunk.parameters()], "lr": setup.lr * FINE_RATE})
    return Engine(
        # By the first part the engine knows what the features are, and assigns class codes by them.
        model if setup.fine_tune else nn.Sequential(nn.Identity(), model.embedder),
        loss_func,
        AdamW(groups),
        dataset,
        min(setup.batch_size, len(dataset)),
        seed=setup.seed,
        freeze_batch_norm=setup.fine_tune,
        channels_last=setup.fine_tune,
        **options,
    )


def to_features(
    model: "HashingModel", images: "ImageFiles", **reading: Any
) -> "tuple[Dataset[Any], Tensor]":
    """Return the backbone's features of images, each computed once, and the labels."""
    import torch
    from torch.utils.data import TensorDataset

    from pml_hashing.datasets import UnreadableImageError
    from pml_hashing.models.encoding import encode

    unreadable: list[UnreadableImageError] = []
    reading |= {"on_unreadable": unreadable.append, "packed": False}
    width = model.embedder.in_features
    features = encode(model.trunk, width, model.data_config, images, **reading)
    for error in unreadable:
        warn_left_out(error)
    is_kept = torch.ones(len(images), dtype=torch.bool, device="cpu")
    is_kept[[error.index for error in unreadable]] = False
    labels = images.labels[is_kept]
    return TensorDataset(features, labels), labels


def to_images(
    model: "HashingModel", images: "ImageFiles", size: int | None = None
) -> "tuple[Dataset[Any], Tensor]":
    """Return images as the backbone is trained on them, and their labels.

    Raises:
        ValueError: If the backbone takes no images of this size.
    """
    from pml_hashing.models import LIGHT_AUGMENTATION
    from pml_hashing.models.backbones import feature_width

    changed = dict[str, int]()
    if size is not None:
        feature_width(model.trunk, (3, size, size))
        changed["input_size"] = size
    transform = model.transform(is_training=True, **LIGHT_AUGMENTATION, **changed)
    return images.with_transform(transform), images.labels


def make_loss(setup: Setup, labels: "Tensor", num_classes: int) -> "nn.Module":
    """Return a loss for classes. That of the default learns codes of all images together."""
    import pml_hashing.losses as of

    length = setup.bits
    if setup.loss == DSAH:
        from pml_hashing import CodeBank

        bank = CodeBank(labels, length, num_classes=num_classes)
        return of.DSAHLoss(num_classes, length, seed=setup.seed, code_bank=bank)
    if setup.loss == "dpsh":
        return of.DPSHLoss()
    classes = {
        "csq": of.CSQLoss,
        "greedyhash": of.GreedyHashLoss,
        "hyp2": of.HyP2Loss,
        "orthohash": of.OrthoHashLoss,
    }
    return classes[setup.loss](num_classes, length)


def _digest(images: "ImageFiles") -> str:
    """Return a checksum of the names of images and their labels."""
    total = hashlib.sha256(json.dumps([images.names, images.classes]).encode())
    total.update(images.labels.numpy().tobytes())
    return total.hexdigest()
