"""What every method gets, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from comparison.protocols import Split
from comparison.sources import Augmentation, Data
from pml_hashing.models.hash_layer import Head


@dataclass(frozen=True)
class Budget:
    """What is the same for all networks: AdamW, and a rate that falls to 0 along a cosine.

    Attributes:
        epochs: Passes over the training images, or rounds of `steps_per_epoch`.
        batch_size: Images in a step.
        lr: Largest rate of the hash layer, and of a loss that has weights of its own.
        weight_decay: Of AdamW.
        head: The hash layer: see `HashLayer`.
        drop_rate: Dropout before the hash layer.
        trunk_rate: Rate of a backbone that is trained too, to `lr`: it should change little.
        warm_up: Epochs in which the rates grow first. Then they change in every step, and not in
            every epoch, as they do if it is 0.
        head_epochs: Epochs in which the hash layer alone is trained first, with the rates of
            `FROZEN`, on features of the backbone as it is.
        freeze_batch_norm: Whether a backbone's batch normalization keeps its statistics.
        augmentation: How images are changed while training: `"timm"`, as its own training does,
            `"light"`, or `"strong"`, which is light with RandAugment and random erasing.
        training_scale: Side of the images that are trained on, to that of those encoded.
        steps_per_epoch: Steps of an epoch, where it is not a pass over all training images.
    """

    epochs: int = 12
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-3
    head: Head = "mlp"
    drop_rate: float = 0.2
    trunk_rate: float = 0.1
    warm_up: float = 0
    head_epochs: int = 0
    freeze_batch_norm: bool = False
    augmentation: Augmentation = "timm"
    training_scale: float = 1
    steps_per_epoch: int | None = None


FROZEN = Budget()
"""On features of a frozen backbone."""

FINE_TUNED = Budget(
    epochs=8,
    batch_size=32,
    weight_decay=0.02,
    head="linear",
    warm_up=1,
    head_epochs=12,
    freeze_batch_norm=True,
    augmentation="light",
)
"""With the backbone: docs/tutorials/fine_tuning.md says what was tried."""


class Task(NamedTuple):
    """What one method has to learn from, and with how much."""

    data: Data
    split: Split
    code_length: int
    seed: int
    budget: Budget
    device: str


Encoder = Callable[[Tensor], Tensor]
"""Codes of the images at some places: packed or real ones."""


class Learned(NamedTuple):
    """How a trained method encodes queries and database."""

    query: Encoder
    database: Encoder


Method = Callable[[Task], Learned]
