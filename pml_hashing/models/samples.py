"""What people have in hand, as samples for a model: paths, images, arrays, rows of tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from pml_hashing._arrays import from_array
from pml_hashing.datasets import UnreadableImageError, load_image
from pml_hashing.models import preprocessing

DataConfig: TypeAlias = dict[str, Any] | None
"""How a model preprocesses an image, as `HashingModel.data_config`; `None` if it does not say."""

IMAGES = str | bytes | PathLike | Image.Image  # and arrays of pixels
IMAGE_KEYS = ("image", "img", "pixel_values", "path")
"""Where a row of a table has its image: the first of these keys that it has."""


def as_samples(inputs: Any, data_config: DataConfig) -> Any:
    """Return tensors, data sets of samples and batches as they are, and all else as a data set.

    Args:
        inputs: A tensor of samples, or an array; a sequence of images (paths, bytes, PIL images,
            arrays of pixels) or of rows with an image; a data set or an iterable data set of any
            of these, or of tuples that start with one; or an iterable of batches.
        data_config: How images are preprocessed.

    Raises:
        TypeError: If it is a single image, where a list of them is expected, or an array of what
            are no numbers.
    """
    if isinstance(inputs, np.ndarray):
        if _is_pixels(inputs):
            return Samples(inputs, data_config)
        return from_array(inputs, "inputs")
    if isinstance(inputs, IMAGES | Mapping):
        raise TypeError(
            f"Expected `inputs` to be a list of images, got one {type(inputs).__name__}."
        )
    if isinstance(inputs, IterableDataset):
        return SampleStream(inputs, data_config)
    if isinstance(inputs, Dataset):
        if not isinstance(inputs, Sized):
            kind = type(inputs).__name__
            raise TypeError(f"Expected `inputs` that have a length or are iterable, got {kind}.")
        return Samples(inputs, data_config)
    if (
        hasattr(inputs, "__getitem__")
        and hasattr(inputs, "__len__")
        and not _is_batches(inputs, of_images=data_config is not None)
    ):
        return Samples(inputs, data_config)
    return inputs


def _is_batches(inputs: Sequence[Any], of_images: bool) -> bool:
    """Return whether this is a list of batches: of tensors, or tuples that start with one.

    Tensors of three dimensions are no batches of images, but preprocessed images.
    """
    if isinstance(inputs, Tensor) or not len(inputs):
        return True
    # In place of an image may be none, as in a column of a table.
    first = next((item for item in inputs if item is not None or not of_images), None)
    first = first[0] if isinstance(first, tuple | list) and first else first
    if isinstance(first, Tensor):
        return not (of_images and first.ndim == 3)
    if first is None and of_images:
        return False
    return not isinstance(first, IMAGES | Mapping | np.ndarray)


class Samples(Dataset[Any]):
    """The items of a sequence or a data set as samples. Their labels are left out.

    Args:
        items: Tensors, images, rows with an image, or tuples that start with one of these.
        data_config: How an image is preprocessed.
    """

    def __init__(self, items: Any, data_config: DataConfig) -> None:
        self.items, self.to_sample = items, ToSample(data_config)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.to_sample(self.items[index])


class SampleStream(IterableDataset[Any]):
    """The items of a data set without places as samples, an error in place of what is unreadable.

    Args:
        items: As of `Samples`.
        data_config: How an image is preprocessed.
        start: The first item. Those before it are passed over.
    """

    def __init__(self, items: Iterable[Any], data_config: DataConfig, start: int = 0) -> None:
        self.items, self.to_sample, self.start = items, ToSample(data_config), start

    def starting_at(self, start: int) -> "SampleStream":
        """Return the same, from an item on."""
        return SampleStream(self.items, self.to_sample.data_config, start)

    def __iter__(self) -> Iterator[Any]:
        for place, item in enumerate(islice(self.items, self.start, None), self.start):
            try:
                yield self.to_sample(item)
            except UnreadableImageError as error:
                error.index = place
                yield error


class ToSample:
    """Turns an item into a sample: an image is loaded and preprocessed, all else stays.

    `None` in the place of an image is one that cannot be read.

    Args:
        data_config: How an image is preprocessed.
    """

    def __init__(self, data_config: DataConfig) -> None:
        self.data_config, self._transform = data_config, None

    def __call__(self, item: Any) -> Any:
        item = item[0] if isinstance(item, tuple | list) and item else item
        item = _image_of(item) if isinstance(item, Mapping) else item
        if item is None and self.data_config is not None:
            raise UnreadableImageError("Expected an image, got none.")
        if item is None or not (isinstance(item, IMAGES) or _is_pixels(item)):
            return item
        if self._transform is None:
            if self.data_config is None:
                raise ValueError(
                    "Expected a model with a `data_config`, as that of a backbone of timm, which "
                    "tells how an image is preprocessed, got none: set it, or pass samples that "
                    "your own transform made."
                )
            self._transform = preprocessing.create_transform(self.data_config, is_training=False)
        return self._transform(load_image(item))


def _image_of(row: Mapping[str, Any]) -> Any:
    """Return the image of a row of a table, also where `datasets` has not decoded it."""
    key = next((key for key in (*IMAGE_KEYS, "bytes") if row.get(key) is not None), None)
    image = None if key is None else row[key]
    if image is None and any(name in row for name in IMAGE_KEYS):
        return None
    if isinstance(image, Mapping):
        return _image_of({"bytes": image.get("bytes"), "path": image.get("path")})
    if not isinstance(image, IMAGES | Tensor | np.ndarray):
        raise TypeError(
            f"Expected rows of `inputs` with an image under {', '.join(IMAGE_KEYS)}, "
            f"got {', '.join(map(repr, row)) or 'an empty one'}."
        )
    return image


def _is_pixels(item: Any) -> bool:
    """Return whether an array holds pixels as files have them: floats are samples."""
    return isinstance(item, np.ndarray) and item.dtype in (np.uint8, np.uint16) and item.ndim > 1
