"""Saved models: one safetensors file that holds the weights and how the model was made."""

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from pml_hashing._files import write_atomically
from pml_hashing.models._errors import shortened

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
METADATA_KEY = "pml_hashing"
FORMAT = {"format": "pml_hashing.HashingModel", "version": 1}


def save(model: nn.Module, config: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write weights and `config` into one file, and `config` a second time for people.

    One file is renamed into place at once. Two files could come from two saves if the first of
    two renames is the last thing that happens.
    """
    config = FORMAT | config
    metadata = {"format": "pt", METADATA_KEY: json.dumps(config)}
    note = {"note": f"For people. The copy that is loaded stands in {WEIGHTS_NAME}."}
    text = json.dumps(note | config, indent=2) + "\n"
    folder = Path(folder)
    write_atomically(
        folder / WEIGHTS_NAME,
        lambda path: safetensors.torch.save_model(model, str(path), metadata),
    )
    write_atomically(folder / CONFIG_NAME, lambda path: path.write_text(text, encoding="utf-8"))


def load_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the `config` that `save` was given.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, is no saved model, or has another version.
    """
    path = Path(folder) / WEIGHTS_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected `folder` to hold a saved model with a {WEIGHTS_NAME}, found none at {path}."
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"Expected a whole safetensors file at {path}, got another ({shortened(error)})."
        ) from error
    try:
        config = json.loads(metadata[METADATA_KEY])
        found = {key: config.pop(key) for key in FORMAT}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected a file of HashingModel.save_pretrained at {path}, got other weights."
        ) from error
    if found != FORMAT:
        raise ValueError(f"Expected a file of {FORMAT} at {path}, got one of {found}.")
    return config


def load_weights(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Copy the saved weights and buffers into `model`.

    Raises:
        ValueError: If the names or shapes are not those of `model`.
    """
    path = Path(folder) / WEIGHTS_NAME
    try:
        safetensors.torch.load_model(model, path)
    except RuntimeError as error:
        raise ValueError(
            f"Expected weights of this model at {path}, got others ({shortened(error)})."
        ) from error
