"""A model that is learned from the images of a folder, without labels."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pml_hashing.codes import pack
from pml_hashing.collection.encoded import CodesInMemory, Encoded
from pml_hashing.collection.encoding import CollectionEncoder, FilesToEncode
from pml_hashing.models import HashingModel
from pml_hashing.models.encoding import OnUnreadable
from pml_hashing.models.itq import draw_places, fit_hyperplanes

BLOCK = 2**12  # features that are mapped to codes at a time


class Learned(NamedTuple):
    """A model, and what it was learned from: their codes need no second pass of the backbone.

    Attributes:
        model: The model.
        codes: The codes of the images.
    """

    model: HashingModel
    codes: CodesInMemory


def learn_itq(
    root: Path,
    names: Sequence[str],
    backbone: str | nn.Module,
    code_length: int,
    *,
    vectors: bool = False,
    allow_outside: bool = False,
    on_unreadable: OnUnreadable = lambda _: None,
    max_samples: int = 5000,
    max_iter: int = 50,
    seed: int = 0,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    **options: Any,
) -> Learned:
    """Return what `HashingModel.from_itq` does of images in a folder, and their codes.

    Args:
        root: The folder.
        names: The images.
        backbone: As of `HashingModel`.
        code_length: Number of bits.
        vectors: Whether the codes are real ones, or bits.
        allow_outside: Whether links out of the folder are followed.
        on_unreadable: Called with the error of each image that cannot be read.
        max_samples: As of `HashingModel.from_itq`.
        max_iter: As of `HashingModel.from_itq`.
        seed: As of `HashingModel.from_itq`.
        batch_size: As of `HashingModel.from_itq`.
        num_workers: As of `HashingModel.from_itq`.
        device: As of `HashingModel.from_itq`.
        progress: As of `HashingModel.from_itq`.
        **options: Those of `HashingModel`.

    Raises:
        ValueError: If there are too few images for so many bits.
    """
    model = HashingModel(backbone, code_length, bound="none", **options)
    if device is not None:
        model.to(device)
    drawn = [names[place] for place in draw_places(len(names), max_samples, seed)]
    files = FilesToEncode(root, drawn, model.transform(), allow_outside)
    width = model.embedder.in_features
    encoder = CollectionEncoder(model.trunk, width, files.transform, packed=False)
    found = list[Encoded]()
    reading: Any = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    with closing(encoder.files(files, **reading)) as batches:
        for batch, errors in batches:
            found += [file.encoded for file in batch]
            for error in errors:
                on_unreadable(error)
    rows = np.frombuffer(bytearray().join(each.code for each in found), dtype=np.float32)
    features = torch.from_numpy(rows.reshape(-1, width))
    planes = fit_hyperplanes(features, code_length, max_iter=max_iter, seed=seed)
    model.embedder.set_hyperplanes(*planes)
    codes = _codes(model.eval(), features, packed=not vectors)
    pairs = zip(found, codes, strict=True)
    learned = (Encoded(content, code.tobytes()) for (content, _), code in pairs)
    return Learned(model, CodesInMemory(learned))


def _codes(model: HashingModel, features: Tensor, *, packed: bool) -> np.ndarray:
    """Return the codes of features, as a collection keeps them."""
    device = next(model.embedder.parameters()).device
    with torch.inference_mode():
        blocks = (model.embedder(block.to(device)).cpu() for block in features.split(BLOCK))
        return np.concatenate([(pack(codes) if packed else codes).numpy() for codes in blocks])
