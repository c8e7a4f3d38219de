"""Images in memory with their labels: an array of pixels, as of CIFAR-10, or an .npz file."""

import os
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pml_hashing._checks import check_label_values
from pml_hashing._files import open_file
from pml_hashing.datasets._base import LabelledImages, Transform
from pml_hashing.datasets.loading import load_image


class ImageArrays(LabelledImages):
    """Images in one array of pixels, each with its class id or a multi-hot row.

    Args:
        images: Pixels, uint8, `(n, height, width)` or `(n, height, width, 1)` in gray, or
            `(n, height, width, 3)` in RGB.
        labels: Integers: class ids `(n,)`, or multi-hot rows `(n, num_classes)`.
        transform: Applied to each image, in RGB, when it is read.
        classes: Names of all classes, by class id. If `None`, class ids may be any numbers: their
            names are these numbers, and `labels` are their places among those that occur.

    Attributes:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`, int64.
        classes: Names of the classes.

    Raises:
        TypeError: If `images` is not a numpy array.
        ValueError: If it has another type or shape, or `labels` do not fit it or `classes`.

    Examples:
        >>> import numpy as np
        >>> from pml_hashing.datasets import ImageArrays
        >>> images = ImageArrays(np.zeros((3, 8, 8), np.uint8), [7, 3, 7])
        >>> images.classes, images.labels
        (['3', '7'], tensor([1, 0, 1]))
        >>> images.image(0).size, images.class_names(0)
        ((8, 8), ['7'])
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray | Tensor,
        *,
        transform: Transform = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(images, np.ndarray):
            raise TypeError(f"Expected `images` to be a numpy array, got {type(images).__name__}.")
        is_gray_or_rgb = images.ndim in {3, 4} and images.shape[3:] in {(), (1,), (3,)}
        if images.dtype != np.uint8 or not is_gray_or_rgb or 0 in images.shape:
            raise ValueError(
                "Expected `images` of uint8 and shape (n, height, width) or (n, height, width, 1 "
                f"or 3), not empty, got {images.dtype} and {images.shape}."
            )
        self.images = images
        super().__init__(*_named(np.asarray(labels), len(images), classes), transform)

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str], *, transform: Transform = None) -> Self:
        """Return the images of an .npz file of numpy, all of them in memory.

        Args:
            path: A file with the arrays `images` and `labels`, and with or without `classes`. They
                are the arguments of the class, `classes` of strings.
            transform: Applied to each image, in RGB, when it is read.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is another kind of file. Nothing in it is unpickled.
        """
        with open_file(path, "`path` to be an .npz file of images") as opened:
            try:
                with np.load(opened) as file:
                    images, labels = file["images"], file["labels"]
                    classes = file["classes"].tolist() if "classes" in file else None
                return cls(images, labels, transform=transform, classes=classes)
            except Exception as error:  # zip archives and arrays have errors of many kinds
                raise ValueError(
                    "Expected an .npz file with the arrays images and labels, "
                    f"got {path} ({type(error).__name__}: {error})"
                ) from error

    def image(self, index: int) -> Image.Image:
        return load_image(self.images[index])


def _named(
    labels: np.ndarray, num_images: int, classes: Sequence[str] | None
) -> tuple[Tensor, list[str]]:
    """Return labels as PyTorch has them, and the names of the classes."""
    if labels.dtype.kind not in "iub" or labels.ndim not in {1, 2} or len(labels) != num_images:
        raise ValueError(
            f"Expected integer `labels` of shape ({num_images},) or ({num_images}, num_classes), "
            f"got {labels.dtype} and {labels.shape}."
        )
    if classes is None and labels.ndim == 1:
        numbers, labels = np.unique(labels, return_inverse=True)
        classes = [str(number) for number in numbers]
    elif classes is None:
        classes = [str(column) for column in range(labels.shape[1])]
    elif isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"Expected `classes` to be a list of names, got {classes!r:.99}.")
    as_tensor = torch.from_numpy(labels.astype(np.int64))
    check_label_values(as_tensor, len(classes), "labels")
    return as_tensor, list(classes)
