"""A folder of images with their labels: class sub-folders, or a table of paths and labels."""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from pml_hashing._checks import to_path
from pml_hashing.datasets._base import LabelledImages, Transform
from pml_hashing.datasets.listing import list_images
from pml_hashing.datasets.loading import read_image
from pml_hashing.datasets.tables import SEPARATOR, read_table, row_of, to_labels
from pml_hashing.datasets.unreadable import UnreadableImageError


class ImageFiles(LabelledImages):
    """Images in the files of a folder, each with the names of its classes.

    Labels are class ids if every image has one label, and multi-hot rows if any has more or none.
    Files are opened when an item is read, by `load_image`. No file outside the folder is opened
    unless `allow_outside` says so: neither a path nor a symbolic link can lead out of it.

    Args:
        folder: Where the images are.
        names: Paths of the images in the folder, which are also their names.
        labels: For each image the names of its classes. No image has any if `None`.
        transform: Applied to each image, in RGB, when it is read.
        classes: Names of all classes. Those in `labels`, sorted, if `None`.
        allow_outside: Whether absolute paths, and paths and links out of the folder, are followed.

    Attributes:
        names: Paths of the images in the folder.
        ignored: How many other files `from_folder` found, by their endings.
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`, int64.
        classes: Names of the classes.

    Raises:
        FileNotFoundError: If `folder` is not a folder.
        ValueError: If there are no images, a name occurs twice or leads out of the folder, an image
            has an empty label or one that is not in `classes`, or sizes do not agree.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from pml_hashing.datasets import ImageFiles
        >>> folder = tempfile.mkdtemp()
        >>> Image.new("RGB", (8, 8)).save(f"{folder}/beach.png")
        >>> Image.new("RGB", (8, 8)).save(f"{folder}/dune.png")
        >>> images = ImageFiles(folder, ["beach.png", "dune.png"], [["sea", "sand"], ["sand"]])
        >>> images.classes, images.labels
        (['sand', 'sea'], tensor([[1, 1],
                [1, 0]]))
        >>> images.image(images.index("dune.png")).size
        (8, 8)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        names: Sequence[str],
        labels: Sequence[Sequence[str]] | None = None,
        *,
        transform: Transform = None,
        classes: Sequence[str] | None = None,
        allow_outside: bool = False,
    ) -> None:
        self.folder, self.ignored = to_path(folder, "folder").resolve(), dict[str, int]()
        self.allow_outside = allow_outside
        labels = [()] * len(names) if labels is None else labels
        if not self.folder.is_dir():
            raise FileNotFoundError(f"Expected `folder` to be a folder of images, got {folder}.")
        if len(names) != len(labels) or not names:
            raise ValueError(
                "Expected `names` and `labels` of the same size, not empty, "
                f"got {len(names)} and {len(labels)}."
            )
        self.names = list(names)
        self._index_of_path: dict[PurePath, int] = {}  # `./a.png` is `a.png`
        for index, (name, classes_of_image) in enumerate(zip(names, labels, strict=True)):
            self._check(index, name, classes_of_image)
            self._index_of_path[PurePath(name)] = index
        found = {label for classes_of_image in labels for label in classes_of_image}
        known = sorted(found) if classes is None else list(classes)
        if not found <= set(known):
            unknown = ", ".join(map(repr, sorted(found - set(known))))
            raise ValueError(f"Expected `labels` in {known}, got {unknown}.")
        super().__init__(_to_tensor(labels, known), known, transform)

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        transform: Transform = None,
        allow_empty: bool = False,
        allow_outside: bool = False,
    ) -> Self:
        """Return the images of a folder that has a sub-folder for each class.

        They are found by their endings, at any depth. Other files, and images beside the
        sub-folders, are counted in `ignored`.

        Args:
            folder: The folder.
            transform: Applied to each image, in RGB, when it is read.
            allow_empty: Whether a class may have no image.
            allow_outside: Whether links out of the folder are followed.

        Raises:
            FileNotFoundError: If `folder` is not a folder, has no image in a sub-folder, or a class
                has none.
        """
        found = list_images(folder)
        names = [name for name in found.names if "/" in name]
        labels = [[name.partition("/")[0]] for name in names]
        visible = (path for path in Path(folder).iterdir() if not path.name.startswith("."))
        classes = sorted(path.name for path in visible if path.is_dir())
        empty = sorted({*classes} - {label for (label,) in labels})
        if not names:
            raise FileNotFoundError(
                f"Expected images in sub-folders of {folder}, one for each class, got none."
            )
        if empty and not allow_empty:
            raise FileNotFoundError(
                f"Expected images in each sub-folder of {folder}, got none in {', '.join(empty)}: "
                "`allow_empty` allows it."
            )
        options: Any = {"transform": transform, "classes": classes, "allow_outside": allow_outside}
        images = cls(folder, names, labels, **options)
        beside = {"beside the classes": len(found.names) - len(names)}
        images.ignored = found.ignored | (beside if len(names) < len(found.names) else {})
        return images

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        *,
        transform: Transform = None,
        path_column: str | None = None,
        label_column: str | None = "label",
        separator: str = SEPARATOR,
        allow_outside: bool = False,
    ) -> Self:
        """Return the images of a table, a CSV file in UTF-8 whose first row names the columns.

        Args:
            path: The table. Paths in it are relative to its folder.
            transform: Applied to each image, in RGB, when it is read.
            path_column: Name of the column with the paths. If `None`, the first that there is of
                path, name, file, filename, file_name and image.
            label_column: Name of the column with the names of classes. A cell may be empty: the
                image has no label. No image has any if `None`.
            separator: What separates the labels of an image that has several.
            allow_outside: Whether absolute paths, and those out of the folder, are allowed.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not such a table, or a row of it is wrong: the message says which.
        """
        columns = [] if label_column is None else [label_column]
        names, labels = list[str](), list[list[str]]()
        for row in read_table(path, path_column, columns):
            names.append(row.path)
            with row_of(path, row):
                labels += [to_labels(cell, separator) for cell in row.cells.values()] or [[]]
        options: Any = {"transform": transform, "allow_outside": allow_outside}
        return cls(Path(path).parent, names, labels, **options)

    def image(self, index: int) -> Image.Image:
        """Return an image as it is in its file, in RGB.

        Raises:
            UnreadableImageError: If it is missing, does not decode, has more pixels than Pillow's
                `Image.MAX_IMAGE_PIXELS`, or lies outside the folder.
        """
        within = None if self.allow_outside else self.folder
        try:
            return read_image(self.folder / self.names[index], within)
        except UnreadableImageError as error:
            error.index = index
            raise

    def readable(self, on_unreadable: Callable[[UnreadableImageError], object]) -> Self:
        """Return the images that can be read, after reading all of them once.

        Args:
            on_unreadable: Called with the error of each of the others.

        Raises:
            ValueError: If none can be read.
        """
        places, errors = [], []
        for place in range(len(self)):
            try:
                self.image(place)
            except UnreadableImageError as error:
                errors.append(error)
                on_unreadable(error)
            else:
                places.append(place)
        if not places:
            raise ValueError(
                f"Expected readable images in {self.folder}, got none of {len(self)}, the first: "
                f"{errors[0]}"
            ) from errors[0]
        images = copy.copy(self)
        images.names, images.labels = [self.names[place] for place in places], self.labels[places]
        images._index_of_path = {PurePath(name): i for i, name in enumerate(images.names)}
        return images

    def index(self, name: str) -> int:
        """Return the place of an image by its name.

        Raises:
            KeyError: If there is no such image.
        """
        if PurePath(name) not in self._index_of_path:
            raise KeyError(
                f"Expected the name of an image, such as {self.names[0]!r}, got {name!r}."
            )
        return self._index_of_path[PurePath(name)]

    def _check(self, index: int, name: str, labels: Sequence[str]) -> None:
        where = f"for image {index}"
        leads_out = PurePath(name).is_absolute() or ".." in PurePath(name).parts
        if not name or (leads_out and not self.allow_outside):
            raise ValueError(
                f"Expected a path that stays in the folder {where}, got {name!r}: `allow_outside` "
                "allows others."
            )
        if PurePath(name) in self._index_of_path:
            first = self._index_of_path[PurePath(name)]
            raise ValueError(
                f"Expected different images, got image {first} again {where}, {name!r}."
            )
        if isinstance(labels, str) or not all(labels):
            raise ValueError(
                f"Expected a list of labels, none of them empty, {where}, {name!r}, got {labels!r}."
            )


def _to_tensor(labels: Sequence[Sequence[str]], classes: list[str]) -> Tensor:
    id_of_class = {name: class_id for class_id, name in enumerate(classes)}
    if all(len(labels_of_image) == 1 for labels_of_image in labels):
        return torch.tensor([id_of_class[label] for (label,) in labels], device="cpu")
    rows = torch.zeros(len(labels), len(classes), dtype=torch.int64, device="cpu")
    for row, labels_of_image in zip(rows, labels, strict=True):
        row[[id_of_class[label] for label in labels_of_image]] = 1
    return rows
