"""Pictures of noise, a tiny model, and what a collection should hold: its parts, made afresh."""

import numpy as np
import torch
from PIL import Image

from pml_hashing.models import HashingModel


def save(path, seed, size=(24, 20)):
    """Save a picture that its seed tells."""
    pixels = np.random.default_rng(seed).integers(256, size=(6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)


def make_model(code_length=16):
    torch.manual_seed(0)
    return HashingModel("test_resnet", code_length, img_size=32).eval()


def fresh_codes(model, folder, names):
    """Return the code of each name, made one by one."""
    return {name: model.encode([folder / name], progress=False)[0].tolist() for name in names}


def held_codes(photos):
    return {name: photos.codes([name])[0].tolist() for name in photos.names}
