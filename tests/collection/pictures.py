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


def all_of(photos):
    """Return all that a collection answers about its images."""
    names = photos.names
    return {
        "codes": held_codes(photos),
        "metadata": [photos.metadata(name) for name in names],
        "columns": photos.columns,
        "counts": photos.counts() if "label" in photos.columns else None,
        "similar": [photos.similar(name, 4) for name in names],
        "within": photos.similar(names, radius=5),
        "duplicates": [(group.names, group.distances) for group in photos.duplicates(2)],
        "some": photos.names_from(1, 2),
    }


def states_of(photos):
    """Return the tables of images that a collection has."""
    found = photos._storage._connection.rows(
        "select name from system.tables where startsWith(name, {t:String})",
        {"t": f"{photos.name}_state"},
    )
    return [name.decode() for name in found["name"].to_pylist()]
