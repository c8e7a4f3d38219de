"""A gallery of queries, each with its nearest neighbours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pml_hashing.datasets import LabelledImages
from pml_hashing.pairs import similarity
from pml_hashing.visualize._style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WRONG = "#d62728"
INCHES_OF_AN_IMAGE = 0.85
LETTERS_OF_A_CAPTION = 16


def plot_neighbors(
    images: LabelledImages, queries: Tensor, neighbors: Tensor, *, distances: Tensor | None = None
) -> "Figure":
    """Draw images of a data set, each with its nearest neighbours in it: see `plot_retrieval`.

    A neighbour is right if it shares a label with the query. The classes of a query are written
    below it.

    Args:
        images: The data set, such as `ImageFiles`.
        queries: Places of the queries in it, `(num_queries,)`.
        neighbors: Places of their neighbours, from the nearest on, `(num_queries, k)`.
        distances: Their Hamming distances, `(num_queries, k)`, written below them.

    Raises:
        ImportError: If matplotlib is not installed.
        UnreadableImageError: If an image cannot be read.
        ValueError: If there is no query, or sizes do not agree.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from pml_hashing.datasets import ImageArrays
        >>> from pml_hashing.visualize import plot_neighbors
        >>> images = ImageArrays(np.zeros((4, 8, 8), np.uint8), [0, 0, 1, 1])
        >>> figure = plot_neighbors(images, torch.tensor([0]), torch.tensor([[1, 2, 3]]))
        >>> len(figure.axes)  # a query and three neighbours
        4
    """
    if (queries.ndim, neighbors.ndim) != (1, 2) or not 0 < len(queries) == len(neighbors):
        raise ValueError(
            "Expected `queries` of shape (num_queries,) and `neighbors` of shape (num_queries, k), "
            f"not empty, got {tuple(queries.shape)} and {tuple(neighbors.shape)}."
        )
    rows = list(zip(queries.tolist(), neighbors.tolist(), strict=True))
    labels = images.labels
    return plot_retrieval(
        [images.image(query) for query, _ in rows],
        [[images.image(neighbor) for neighbor in row] for _, row in rows],
        torch.cat([similarity(labels[[query]], labels[row]) for query, row in rows]),
        distances=distances,
        query_names=[", ".join(images.class_names(query)) for query, _ in rows],
    )


def plot_retrieval(
    query_images: Sequence[Any],
    retrieved_images: Sequence[Sequence[Any]],
    relevant: Tensor,
    *,
    distances: Tensor | None = None,
    query_names: Sequence[str] | None = None,
) -> "Figure":
    """Draw queries, each with its nearest neighbours, and a frame around the wrong ones.

    An image is a PIL image, gray or RGB; an array `(height, width)` or `(height, width, channels)`;
    or a tensor `(height, width)` or `(channels, height, width)`. Its values are integers up to 255,
    or floats from 0 to 1.

    Args:
        query_images: One image per row.
        retrieved_images: The neighbours of every query, `k` per row: of an array or a tensor of all
            images, `images[indices]` with the indices that `HammingKNN` returns.
        relevant: Whether each of them is right, bool, `(num_queries, k)`. `pairs.similarity` of
            the labels of queries and database tells that: `.gather(1, indices)` of it.
        distances: Their Hamming distances, `(num_queries, k)`, written below them.
        query_names: Text to write below the queries.

    Returns:
        The figure. `figure.savefig("gallery.png")` writes it to a file.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `relevant` is not a tensor of bool.
        ValueError: If there is no query, sizes do not agree, or an image has another shape or other
            values.

    Examples:
        >>> import torch
        >>> from pml_hashing.pairs import similarity
        >>> from pml_hashing.visualize import plot_retrieval
        >>> images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 0, 0, 1, 1, 1])
        >>> indices = torch.tensor([[2, 1, 4]])
        >>> relevant = similarity(labels[:1], labels).gather(1, indices)
        >>> figure = plot_retrieval(images[:1], images[indices], relevant)
        >>> len(figure.axes)  # a query and three neighbours
        4
    """
    images = {"query_images": query_images, "retrieved_images": retrieved_images}
    _check_gallery(relevant, distances, **images, query_names=query_names)
    with_captions = distances is not None or query_names is not None
    figure, grid = _new_gallery(*relevant.shape, caption=0.22 if with_captions else 0)
    at_distance = "" if distances is None else " at Hamming distance d"
    grid[0][0].set_title("Query", fontsize=9, loc="left")
    grid[0][1].set_title(f"Nearest{at_distance}, wrong ones framed", fontsize=9, loc="left")
    for row, axes_of_row in enumerate(grid):
        _draw(axes_of_row[0], query_images[row], "" if query_names is None else query_names[row])
        for column, axes in enumerate(axes_of_row[1:]):
            caption = "" if distances is None else f"d = {int(distances[row, column])}"
            _draw(axes, retrieved_images[row][column], caption)
            if not relevant[row, column]:
                axes.spines[:].set(color=WRONG, linewidth=3)
    return figure


def _new_gallery(
    num_rows: int, num_columns: int, *, caption: float
) -> tuple["Figure", list[list["Axes"]]]:
    """Return a figure, and the axes of each row: the query and, apart from it, its neighbours.

    Args:
        num_rows: Number of queries.
        num_columns: Number of neighbours.
        caption: Height of what is written below an image, in heights of an image.
    """
    pitch, gap, margin, title = 1.08, 0.25, 0.12, 0.35  # in sizes of an image
    width = max(2 * margin + gap + num_columns * pitch + 1, 5.6)  # for the headings
    height = title + num_rows * (pitch + caption) + margin
    figure = new_figure(width * INCHES_OF_AN_IMAGE, height * INCHES_OF_AN_IMAGE)
    grid = []
    for row in range(num_rows):
        bottom = height - title - row * (pitch + caption) - 1
        lefts = [margin + column * pitch + gap * (column > 0) for column in range(num_columns + 1)]
        boxes = [(left / width, bottom / height, 1 / width, 1 / height) for left in lefts]
        grid.append([figure.add_axes(box) for box in boxes])
    return figure, grid


def _check_gallery(relevant: Tensor, distances: Tensor | None, **per_query: Any) -> None:
    if not isinstance(relevant, Tensor) or relevant.dtype != torch.bool:
        got = relevant.dtype if isinstance(relevant, Tensor) else type(relevant).__name__
        raise TypeError(f"Expected `relevant` to be a tensor of torch.bool, got {got}.")
    shape = tuple(relevant.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"Expected `relevant` of shape (num_queries, k), not empty, got {shape}.")
    if distances is not None and distances.shape != shape:
        got = tuple(distances.shape)
        raise ValueError(f"Expected `distances` of shape {shape}, as `relevant`, got {got}.")
    for name, values in per_query.items():
        if values is not None and len(values) != len(relevant):
            raise ValueError(
                f"Expected `{name}` of {len(relevant)} queries, as `relevant`, got {len(values)}."
            )
    for images in per_query["retrieved_images"]:
        if len(images) != relevant.shape[1]:
            raise ValueError(
                f"Expected `retrieved_images` of {relevant.shape[1]} images per query, as "
                f"`relevant`, got {len(images)}."
            )


def _draw(axes: "Axes", image: Any, caption: str) -> None:
    axes.imshow(_to_pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color="0.8", linewidth=0.5)
    if len(caption) > LETTERS_OF_A_CAPTION:
        caption = caption[: LETTERS_OF_A_CAPTION - 1] + "…"
    axes.set_xlabel(caption, fontsize=8, labelpad=2)


def _to_pixels(image: Any) -> np.ndarray:
    """Return an image as floats from 0 to 1, `(height, width)` or `(height, width, channels)`."""
    pixels = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    shape = pixels.shape
    if isinstance(image, Tensor) and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if 0 in shape or pixels.ndim not in {2, 3} or pixels.shape[2:] not in {(), (1,), (3,)}:
        raise ValueError(
            "Expected images of shape (height, width) or (height, width, 1 or 3), tensors with the "
            f"channels first, got {shape}."
        )
    largest = 255 if np.issubdtype(pixels.dtype, np.integer) else 1
    if not (pixels.min() >= 0 and pixels.max() <= largest):  # false for NaN
        raise ValueError(
            f"Expected images of {pixels.dtype} with values from 0 to {largest}, "
            f"got {pixels.min()} to {pixels.max()}."
        )
    return pixels / largest
