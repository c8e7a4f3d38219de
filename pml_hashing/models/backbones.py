"""Backbones: timm models by name, and the width of any module's features."""

import difflib
import os
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import timm
import timm.models
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import PretrainedCfg
from torch import Tensor, nn

from pml_hashing._archives import check_checksums, load_archive
from pml_hashing._eval_mode import eval_mode
from pml_hashing._files import open_file
from pml_hashing._tensor_files import read_unsigned
from pml_hashing.models import hub
from pml_hashing.models._errors import shortened

FILENAMES = ("model.safetensors", "pytorch_model.bin")
"""Of timm's weights on the hub, where its config names none, the first that is there."""


def _create_trunk(
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
        ValueError: If timm has no such model, or no weights of it, or `checkpoint_path` holds other
            weights.
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
        return _create_from_hub(name, config, options)
    return timm.create_model(name, **options)


def _create_from_hub(name: str, config: PretrainedCfg | None, options: dict[str, Any]) -> nn.Module:
    if config is None or not (config.hf_hub_id or config.url):
        raise ValueError(
            f"Expected `pretrained` only for a `backbone` that timm has weights of, got {name!r}."
        )
    address = hub.endpoint() if config.hf_hub_id else _url_and_name(config)[0]
    answers = not hub.is_offline() and hub.does_answer(address)
    try:
        if answers:
            return timm.create_model(name, pretrained=True, **options)
        return _create_from_cache(name, _find_cached(config), options)
    except Exception as error:  # the hub's client and timm have errors of many kinds
        reason = shortened(error) if answers else hub.why_not(address)
        raise OSError(
            f"Expected the weights of {name!r} from timm's hub or its local cache, got none "
            f"({reason}). Give a file of them by `checkpoint_path` (--checkpoint), or another "
            "`backbone`."
        ) from error


def _find_cached(config: PretrainedCfg) -> Path:
    """Return the file of weights that was fetched before.

    Raises:
        FileNotFoundError: If there is none.
    """
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        names = (config.hf_hub_filename,) if config.hf_hub_filename else FILENAMES
        found = (try_to_load_from_cache(repository, of, revision=revision or None) for of in names)
        path = next((path for path in found if isinstance(path, str)), "")
    else:
        path = str(Path(torch.hub.get_dir(), "checkpoints", _url_and_name(config)[1]))
    if not Path(path).is_file():
        raise FileNotFoundError("no weights in the local cache")
    return Path(path)


def _url_and_name(config: PretrainedCfg) -> tuple[str, str]:
    """Return where weights are that are not on the hub, and the name of their file."""
    url = config.url or ""
    return (url, Path(urlsplit(url).path).name) if isinstance(url, str) else url


def _create_from_cache(name: str, path: Path, options: dict[str, Any]) -> nn.Module:
    """Return what timm makes of weights that it fetched before, without asking the hub."""
    overlay: Any = {"file": str(path), "custom_load": path.suffix == ".npz"}
    trunk = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    trunk.pretrained_cfg.pop("file")  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return trunk


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
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}, not a state dict.")
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


def to_trunk(backbone: str | nn.Module, **options: Any) -> nn.Module:
    """Return a timm model by its name, or a module as it is.

    Raises:
        TypeError: If it is neither.
        OSError: As `_create_trunk` does, for a name.
        ValueError: If a module is to be given weights, or as `_create_trunk` does.
    """
    if isinstance(backbone, str):
        return _create_trunk(backbone, **options)
    if not isinstance(backbone, nn.Module):
        raise TypeError(
            "Expected `backbone` to be a name of timm.list_models() or a torch.nn.Module, "
            f"got {type(backbone).__name__}."
        )
    if options["pretrained"] or options["checkpoint_path"] is not None:
        raise ValueError(
            "Expected `pretrained` and `checkpoint_path` only for a name of timm.list_models(), "
            f"got {type(backbone).__name__}, which has its weights already."
        )
    return backbone


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
