"""What all data sets of images with labels have in common, wherever the images are."""

import copy
from collections.abc import Callable
from typing import Any, Self, TypeAlias

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

Transform: TypeAlias = Callable[[Image.Image], Any] | None
"""Applied to each image, in RGB, when it is read. Nothing if `None`."""


class LabelledImages(Dataset[tuple[Any, Tensor]]):
    """Images, each with one label or several: the base of `ImageFiles` and `ImageArrays`.

    An item is `(image, label)`, the image in RGB or what the transform makes of it. To write your
    own data set, define `image` in a subclass, and call `super().__init__`.

    Args:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        classes: Names of the classes.
        transform: Applied to each image, in RGB, when it is read.
    """

    def __init__(self, labels: Tensor, classes: list[str], transform: Transform = None) -> None:
        self.labels, self.classes, self.transform = labels, classes, transform

    def image(self, index: int) -> Image.Image:
        """Return an image as it is, in RGB."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        image = self.image(index)
        return image if self.transform is None else self.transform(image), self.labels[index]

    def with_transform(self, transform: Transform) -> Self:
        """Return the same images with another transform."""
        images = copy.copy(self)
        images.transform = transform
        return images

    def class_names(self, index: int) -> list[str]:
        """Return the names of the classes of an image."""
        label = self.labels[index]
        ids = label.nonzero().flatten() if label.ndim else label[None]
        return [self.classes[class_id] for class_id in ids.tolist()]
