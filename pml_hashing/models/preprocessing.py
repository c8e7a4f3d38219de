"""Preprocessing: how a backbone wants its images, by timm's data config."""

import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from PIL import Image
from timm.data import config as timm_config
from timm.data import transforms_factory
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from pml_hashing._checks import check
from pml_hashing.datasets import load_image

LARGEST_SIDE = 2**14  # of an image, in pixels
SMALLEST_CROP = 1 / 16  # of a side
LIGHT_AUGMENTATION: Mapping[str, Any] = MappingProxyType(
    {"scale": (0.7, 1), "ratio": (0.9, 1.1), "color_jitter": None}
)
"""Augmentation for a trained backbone that is fine-tuned on few images.

Crops have at least 70 % of an image, colors stay, and half are mirrored:
`model.transform(is_training=True, **LIGHT_AUGMENTATION)`. timm's own, for training from nothing,
cuts out as little as 8 %.
"""


def resolve_data_config(
    trunk: nn.Module, in_chans: int, img_size: int | None
) -> dict[str, Any] | None:
    """Return timm's data config of a trunk for images of this kind, or `None` if it has none."""
    if not getattr(trunk, "pretrained_cfg", None):
        return None
    config = timm_config.resolve_data_config(model=trunk)
    size = config["input_size"][1:] if img_size is None else (img_size, img_size)
    config["input_size"] = (in_chans, *size)
    config["mean"] = _per_channel(config["mean"], in_chans)
    config["std"] = _per_channel(config["std"], in_chans)
    return config


def _per_channel(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """Average for gray images, else repeat in turn: as timm does with the weights of a channel."""
    if in_chans == 1:
        return (sum(values) / len(values),)
    return tuple(itertools.islice(itertools.cycle(values), in_chans))


def create_transform(
    data_config: dict[str, Any], is_training: bool, **augmentation: Any
) -> transforms.Compose:
    """Return timm's transform, after one that gives an image the channels that it expects.

    Raises:
        TypeError: If timm's transform has no such argument, or `is_training` is an image.
        ValueError: If there is an `augmentation`, but not `is_training`: timm would ignore it.
    """
    if not isinstance(is_training, bool):
        raise TypeError(
            f"Expected `is_training` of True or False, got {type(is_training).__name__}: "
            "`transform()` returns the preprocessing, which is then called with an image."
        )
    changed = f"no `{next(iter(augmentation), None)}` without `is_training`"
    check(is_training or not augmentation, changed, "nothing that would be augmented")
    steps = {1: [as_seen, v2.Grayscale()], 3: [as_seen, v2.RGB()]}
    arguments = data_config | augmentation
    return transforms.Compose(
        [
            *steps.get(data_config["input_size"][0], []),
            transforms_factory.create_transform(**arguments, is_training=is_training),
        ]
    )


def as_seen(image: Any) -> Any:
    """Return a PIL image as `load_image` does, as `encode` sees it, and tensors as they are."""
    if type(image) is Image.Image and image.mode == "RGB" and not image.info:
        return image  # as `load_image` returns it: another copy of a photograph would take long
    return load_image(image) if isinstance(image, Image.Image) else image


def from_json(data_config: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a data config that was written as JSON, which has lists for tuples."""
    if data_config is None:
        return None
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data_config.items()}


def check_data_config(data_config: dict[str, Any]) -> None:
    """Raise unless a transform can be made of a data config, and of images that fit in memory.

    Raises:
        ValueError: If it cannot.
    """
    size = data_config["input_size"]
    if len(size) != 3 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in size):
        raise ValueError(f"its `input_size` is {size}, not three numbers from 1 to {LARGEST_SIDE}.")
    crop = data_config.get("crop_pct")
    if crop is not None and not SMALLEST_CROP <= crop <= 1:
        raise ValueError(f"its `crop_pct` is {crop}, not from {SMALLEST_CROP} to 1.")
    for name in ("mean", "std"):
        if not all(map(math.isfinite, data_config[name])):
            raise ValueError(f"its `{name}` is {data_config[name]}.")
    try:
        create_transform(data_config, is_training=False)
    except Exception as error:  # timm asserts, and has errors of several kinds
        raise ValueError(f"no transform can be made of its data config ({error}).") from error
