"""Encoding a stream of batches that come with ids, as Ray, Spark and streaming data sets give."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from pml_hashing.datasets import UnreadableImageError
from pml_hashing.models import samples
from pml_hashing.models.encoding import Encoder, OnUnreadable, device_for

Batch: TypeAlias = tuple[Any, Any]
"""Ids, and an image for each."""


class StreamOptions(TypedDict, total=False):
    """How a model is run. `HashingModel.encode_batches` documents the options."""

    on_unreadable: OnUnreadable | None
    amp: bool
    packed: bool


def encode_batches(
    model: nn.Module,
    code_length: int,
    data_config: samples.DataConfig,
    batches: Iterable[Batch],
    **options: Unpack[StreamOptions],
) -> Iterator[tuple[Any, Tensor]]:
    """Yield ids and codes of each batch, as `HashingModel.encode_batches` documents it."""
    for ids, images in map(_as_pair, batches):
        found = _as_batch(images)
        if len(ids) != len(found):
            raise ValueError(
                f"Expected an id for each of {len(found)} images in `batches`, got {len(ids)}."
            )
        encoder = Encoder(
            model,
            code_length,
            device_for(model, None),
            data_config,
            batch_size=max(1, len(found)),
            progress=False,
            **options,
        )
        parts = list(encoder.batches(found)) if len(found) else []
        codes = torch.cat([codes for codes, _ in parts]) if parts else encoder.no_codes()
        yield _readable(ids, [error for _, part in parts for error in part.unreadable]), codes


def _as_pair(batch: Any) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        kind = type(batch).__name__
        raise TypeError(f"Expected `batches` of pairs, ids and as many images, got {kind}.")
    ids, images = batch
    return ids, images


def _as_batch(images: Any) -> Any:
    """Return images in a form that `encode` takes for several of them."""
    if isinstance(images, np.ndarray) and images.dtype == object:
        images = list(images)  # of several sizes, as tables of Arrow give them
    if isinstance(images, list | tuple) and images:
        tensors = [image for image in images if isinstance(image, Tensor)]
        return torch.stack(tensors) if len(tensors) == len(images) else images
    return images


def _readable(ids: Any, unreadable: list[UnreadableImageError]) -> Any:
    """Return ids as they came, or a list without those of images that could not be read."""
    missing = {error.index for error in unreadable}
    return [id_ for place, id_ in enumerate(ids) if place not in missing] if missing else ids
