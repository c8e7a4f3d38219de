"""Pictures of noise, a tiny model, and what a collection should hold: its parts, made afresh."""

import numpy as np
import torch
from PIL import Image

from pml_hashing.models import HashingModel


def picture(seed, size=(24, 20)):
    """Return a picture that its seed tells."""
    pixels = np.random.default_rng(seed).integers(256, size=(6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)


def make_model(code_length=16):
    """Return a model whose codes differ from picture to picture."""
    torch.manual_seed(0)
    pictures = [picture(seed) for seed in range(10_000, 10_100)]
    options = {"img_size": 32, "progress": False}
    return HashingModel.from_itq("test_resnet", code_length, pictures, **options)


def fresh_codes(model, folder, names):
    """Return the code of each name, made one by one."""
    return {name: model.encode([folder / name], progress=False)[0].tolist() for name in names}


def held_codes(photos):
    return {name: photos.codes([name])[0].tolist() for name in photos.names}
