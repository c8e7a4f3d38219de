"""Saved models: one safetensors file that holds the weights and how the model was made."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from pml_hashing._checks import to_path
from pml_hashing._files import open_file, write_atomically
from pml_hashing._tensor_files import read_tensors, write_tensors
from pml_hashing.models import preprocessing
from pml_hashing.models._errors import shortened

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
CONFIG_KEY = "config"
FORMAT = {"format": "pml_hashing.HashingModel", "format_version": "2"}
TWO_NETWORKS_FORMAT = {"format": "pml_hashing.TwoNetworkHashingModel", "format_version": "1"}
NETWORKS = ("first", "second")
OPTION_TYPES = {
    "backbone": (str, NoneType),
    "code_length": (int,),
    "head": (str,),
    "bound": (str,),
    "drop_rate": (int, float),
    "batch_norm": (bool,),  # stands there if it is true
    "in_chans": (int,),
    "img_size": (int, NoneType),
    "num_features": (int,),
}
LARGEST_IN_CHANS = 2**14
BUFFERS_LIMIT = 2**30  # bytes that a backbone may compute from the size of its images

Model = TypeVar("Model", bound=nn.Module)
Config: TypeAlias = dict[str, Any]
"""Options, dtype and data config of a model; of two networks, those of each by its name."""


def save(
    model: nn.Module, config: Config, folder: str | os.PathLike[str], form: dict[str, str]
) -> None:
    """Write weights and `config` into one file, and `config` again for people to read.

    One file is renamed into place in one step. Two files could end up from different saves, if the
    process stops between their renames.

    Args:
        model: The module with the weights.
        config: How it was made, or how each of its networks was.
        folder: Where to write.
        form: Name and version of the format: that of a model, or of two networks.

    Raises:
        OSError: If the folder cannot be written, or is full.
        ValueError: If `data_config` could not be loaded again, or `folder` is empty.
    """
    folder = to_path(folder, "folder")
    _check_config(json.loads(json.dumps(config)), form)
    note = {"note": f"For people. The copy that is loaded stands in {WEIGHTS_NAME}."}
    text = json.dumps(note | form | config, indent=2) + "\n"
    weights = {name: weight.cpu().contiguous() for name, weight in model.state_dict().items()}
    write_tensors(folder / WEIGHTS_NAME, weights, form | {CONFIG_KEY: json.dumps(config)})
    write_atomically(folder / CONFIG_NAME, lambda path: path.write_text(text, encoding="utf-8"))


def load(folder: str | os.PathLike[str], form: dict[str, str]) -> tuple[Config, dict[str, Tensor]]:
    """Return the `config` that `save` was given, checked, and the weights.

    Raises:
        FileNotFoundError: If there is no such file, or something else in its place.
        ValueError: If the file is damaged, is not a saved model, or has another version.
    """
    path = Path(folder) / WEIGHTS_NAME
    try:
        with open_file(path, f"`folder` to hold a saved model with a {WEIGHTS_NAME}") as file:
            weights, metadata = read_tensors(file, form)
        config = json.loads(metadata[CONFIG_KEY])
        _check_config(config, form)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected a whole file that {form['format'].split('.')[1]}.save_pretrained wrote, "
            f"got {path}: {shortened(error)}"
        ) from error
    return config, weights


def _check_config(config: Any, form: dict[str, str]) -> None:
    """Raise unless a model can be made from it: whoever wrote the file also wrote the checksum."""
    if form == FORMAT:
        _check_network(config)
        return
    if config.keys() != set(NETWORKS):
        raise ValueError(f"its networks are {sorted(config)}, not {sorted(NETWORKS)}.")
    for network in NETWORKS:
        _check_network(config[network])
    lengths = [config[network]["options"]["code_length"] for network in NETWORKS]
    if len(set(lengths)) > 1:
        raise ValueError(f"its networks have different code lengths, {lengths}.")


def _check_network(config: Any) -> None:
    options, data_config = config["options"], config["data_config"]
    if {"batch_norm", *options} != OPTION_TYPES.keys():
        raise ValueError(f"its options are {sorted(options)}, not {sorted(OPTION_TYPES)}.")
    for name, value in options.items():
        if type(value) not in OPTION_TYPES[name]:
            raise ValueError(f"its option `{name}` is {value!r}.")
    if options["in_chans"] > LARGEST_IN_CHANS:  # a mean and a deviation are made for each
        raise ValueError(f"its option `in_chans` is above {LARGEST_IN_CHANS}.")
    dtype = getattr(torch, str(config["dtype"]), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"its dtype is {config['dtype']!r}.")
    if data_config is not None:
        preprocessing.check_data_config(data_config)


def split(
    weights: dict[str, Tensor], folder: str | os.PathLike[str]
) -> dict[str, dict[str, Tensor]]:
    """Return the weights of each of two networks, by the name of the network.

    Raises:
        ValueError: If a weight belongs to neither.
    """
    parts: dict[str, dict[str, Tensor]] = {network: {} for network in NETWORKS}
    for name, weight in weights.items():
        network, _, rest = name.partition(".")
        if network not in parts:
            raise ValueError(
                f"Expected weights of two networks in {folder}, got others ({name[:99]})."
            )
        parts[network][rest] = weight
    return parts


def build(
    kind: Callable[..., Model],
    config: Config,
    weights: dict[str, Tensor],
    folder: Path,
    backbone: nn.Module | None,
    backbone_name: str = "backbone",
) -> Model:
    """Return the model of one network that had this config and these weights.

    Args:
        kind: What makes it.
        config: How it was made.
        weights: Its state dict.
        folder: Where they were read, for errors.
        backbone: The module that it was made with, if that was not a timm name.
        backbone_name: Of the argument, for errors.

    Raises:
        ValueError: If the weights are not those of the model, or `backbone` is missing or not
            needed.
    """
    options = dict(config["options"])
    name = options.pop("backbone")
    if (name is None) != (backbone is not None):
        needed = "the module that the model was made with" if name is None else "None"
        raise ValueError(
            f"Expected `{backbone_name}` to be {needed}, for the model saved in {folder} with "
            f"{str(name or 'a module')[:99]}, got {type(backbone).__name__}."
        )
    trunk = str(name) if backbone is None else backbone
    try:
        with torch.device("meta"):  # where a model of any size takes no memory
            check_fits(kind(trunk, **options), weights)
        model = kind(trunk, **options).to(getattr(torch, config["dtype"]))
        model.load_state_dict(weights)
    except Exception as error:  # each family of models has errors of its own
        raise ValueError(
            f"Expected weights of this model in {folder}, got others ({shortened(error)})."
        ) from error
    return model


def check_fits(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Raise unless `weights` are those of `model`, whose own may be on the meta device.

    A file can claim a model of any size. On the meta device, it takes no memory to see what it is.

    Raises:
        ValueError: If names, shapes or kinds of values differ, or the model computes much more.
    """
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | weights.keys()):
        if name not in weights or name not in wanted:
            raise ValueError(f"{name} is {'missing' if name in wanted else 'unexpected'}.")
    for name, weight in weights.items():
        if weight.shape != wanted[name].shape:
            expected, got = tuple(wanted[name].shape), tuple(weight.shape)
            raise ValueError(f"{name} is of shape {got}, not {expected}.")
        if weight.is_floating_point() != wanted[name].is_floating_point():
            raise ValueError(f"{name} is {weight.dtype}, not {wanted[name].dtype}.")
    size = sum(buffer.nbytes for buffer in model.buffers() if buffer.is_meta)
    if size > sum(weight.nbytes for weight in weights.values()) + BUFFERS_LIMIT:
        raise ValueError(f"its backbone would compute {size:,} bytes of buffers.")
