"""Backbones: timm models by name, and the width of any module's features."""

import difflib
import os
from pathlib import Path
from typing import Any, BinaryIO

import timm
import timm.models
import torch
from torch import Tensor, nn

from pml_hashing._archives import check_checksums, load_archive
from pml_hashing._eval_mode import eval_mode
from pml_hashing._files import open_file
from pml_hashing._tensor_files import read_unsigned
from pml_hashing.models._errors import shortened


def create_trunk(
    name: str,
    *,
    pretrained: bool,
    checkpoint_path: str | os.PathLike[str] | None,
    in_chans: int,
    img_size: int | None,
    drop_rate: float,
) -> nn.Module:
    """Return a timm model without its classifier. `HashingModel` documents the arguments.

    Raises:
        FileNotFoundError: If `checkpoint_path` is not a file.
        OSError: If timm's hub and its local cache do not have the weights.
        ValueError: If timm has no such model, or `checkpoint_path` holds other weights.
    """
    known = {*timm.list_models(), *timm.list_models(include_tags=True)}
    if name not in known:
        nearest = difflib.get_close_matches(name, sorted(known), n=5, cutoff=0.4)
        raise ValueError(
            f"Expected `backbone` to be a name of timm.list_models(), got {name!r}. "
            f"The nearest are {', '.join(map(repr, nearest)) or 'none'}."
        )
    # timm drops what is None, and not every model takes a drop rate.
    options: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans}
    options["drop_rate"] = drop_rate or None
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = img_size
    if checkpoint_path is not None:
        return _create_from_file(name, Path(checkpoint_path), options)
    if pretrained:
        return _create_from_hub(name, options)
    return timm.create_model(name, **options)


def _create_from_hub(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub's client and timm have errors of many kinds
        raise OSError(
            f"Expected the weights of {name!r} from timm's hub or its local cache, got none: the "
            "hub does not answer, or does not have them. Give a file of them by `checkpoint_path`, "
            f"or another `backbone`. ({shortened(error)})"
        ) from error


def _create_from_file(name: str, path: Path, options: dict[str, Any]) -> nn.Module:
    with open_file(path, "`checkpoint_path` to be a file of weights") as file:
        trunk = timm.create_model(name, **options)
        try:
            weights = _without_classifier(_read_weights(file, path.suffix), trunk)
            # timm adapts the weights to `in_chans` and `img_size` where it is given them as
            # pretrained. It looks for a classifier no more, and demands every other weight.
            overlay: Any = {"state_dict": weights, "classifier": None}
            options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
            trunk = timm.create_model(name, **options)
        except Exception as error:  # each reader and each family of models has errors of its own
            raise ValueError(
                f"Expected `checkpoint_path` to be a whole file of weights of {name!r}, "
                f"safetensors or a state dict of PyTorch, got {path} ({shortened(error)})."
            ) from error
    trunk.pretrained_cfg.pop("state_dict")  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return trunk


def _read_weights(file: BinaryIO, suffix: str) -> dict[str, Tensor]:
    """Read a state dict, or one inside a training checkpoint, without running anything in it."""
    if suffix == ".safetensors":
        content: Any = read_unsigned(file)[0]
    else:
        check_checksums(file)
        content = load_archive(file)
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    for name, weight in content.items():
        if not isinstance(weight, Tensor):
            raise ValueError(f"{name} is {type(weight).__name__}, not a tensor.")
    return timm.models.clean_state_dict(content)


def _without_classifier(weights: dict[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    """Leave out what stands beside or below the classifier, and is not in the trunk."""
    classifiers = trunk.pretrained_cfg.get("classifier") or ()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    roots = {classifier.split(".")[0] for classifier in classifiers}
    names = trunk.state_dict().keys()
    kept = {k: w for k, w in weights.items() if k in names or k.split(".")[0] not in roots}
    if not kept:
        raise ValueError("it holds no weights of the trunk.")
    return kept


def feature_width(trunk: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Return the width of a trunk's features, from its output for one black image.

    Args:
        trunk: A module that maps images to features `(n, num_features)`.
        input_size: Channels, height and width of an image.

    Raises:
        ValueError: If the trunk fails, or returns anything but a matrix with one row.
    """
    like = next(trunk.parameters(), torch.zeros(()))
    image = torch.zeros(1, *input_size, dtype=like.dtype, device=like.device)
    expected = (
        f"Expected `backbone` to map an image of shape {tuple(image.shape)} to features of shape "
        "(1, num_features)"
    )
    with eval_mode(trunk), torch.no_grad():
        try:
            features = trunk(image)
        except Exception as error:  # a user's module may raise anything
            raise ValueError(
                f"{expected}, got an error ({shortened(error)}). Pass `in_chans` and `img_size` of "
                "its images, or `num_features` if it takes no images."
            ) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"{expected}, got {got}. Pool and flatten its output, or pass `num_features` if it "
            "takes no images."
        )
    return features.shape[1]
