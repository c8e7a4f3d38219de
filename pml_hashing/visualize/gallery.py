"""A gallery of queries, each with its nearest neighbors."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_integer, check_labels
from pml_hashing.datasets import ImageFiles, LabelledImages
from pml_hashing.pairs import similarity
from pml_hashing.visualize._style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WRONG = "#d62728"
INCHES_OF_AN_IMAGE = 0.85
LETTERS_OF_A_LINE = 16
HEIGHT_OF_A_LINE = 0.2  # of a caption, in heights of an image


def plot_neighbors(
    images: LabelledImages, queries: Tensor, neighbors: Tensor, *, distances: Tensor | None = None
) -> "Figure":
    """Draw images of a data set, each with its nearest neighbors in it: see `plot_retrieval`.

    A neighbor is right if it shares a label with the query. Below an image stand its name, where
    it has a file, and its classes.

    Args:
        images: The data set, such as `ImageFiles`.
        queries: Places of the queries in it, `(num_queries,)`.
        neighbors: Places of their neighbors, from the nearest on, `(num_queries, k)`.
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
        >>> len(figure.axes)  # a query and three neighbors
        4
    """
    if (queries.ndim, neighbors.ndim) != (1, 2) or not 0 < len(queries) == len(neighbors):
        raise ValueError(
            "Expected `queries` of shape (num_queries,) and `neighbors` of shape (num_queries, k), "
            f"not empty, got {tuple(queries.shape)} and {tuple(neighbors.shape)}."
        )
    rows = list(zip(queries.tolist(), neighbors.tolist(), strict=True))
    labels = images.labels

    def text(place: int) -> str:
        lines = [PurePath(images.names[place]).name] if isinstance(images, ImageFiles) else []
        return "\n".join([*lines, ", ".join(images.class_names(place))])

    return plot_retrieval(
        [images.image(query) for query, _ in rows],
        [[images.image(neighbor) for neighbor in row] for _, row in rows],
        torch.cat([similarity(labels[[query]], labels[row]) for query, row in rows]),
        distances=distances,
        query_names=[text(query) for query, _ in rows],
        retrieved_names=[[text(neighbor) for neighbor in row] for _, row in rows],
    )


def choose_queries(labels: Tensor, count: int, scores: Tensor | None = None) -> Tensor:
    """Return queries to show: of each class in turn, from the worst of a class to the best.

    Args:
        labels: Class ids `(num_queries,)` or multi-hot rows `(num_queries, num_classes)`.
        count: How many to choose, at most.
        scores: Of the queries, such as their average precision, `(num_queries,)`. They count as
            equal if `None`.

    Returns:
        Places of the queries, different ones, int64, `(min(count, num_queries),)`.

    Raises:
        ValueError: If `count` is less than 1, there is no query, or sizes do not agree.

    Examples:
        >>> import torch
        >>> from pml_hashing.visualize import choose_queries
        >>> choose_queries(torch.tensor([0, 0, 1, 1]), 2, scores=torch.tensor([0.3, 0.1, 0.2, 0.9]))
        tensor([1, 3])
    """
    check_integer(count, 1, "count")
    check_labels(labels, range(len(labels)), "labels")
    if scores is not None and scores.shape != labels.shape[:1]:
        raise ValueError(
            f"Expected `scores` of shape ({len(labels)},), as `labels`, got {tuple(scores.shape)}."
        )
    order = (
        torch.arange(len(labels), device="cpu")
        if scores is None
        else scores.cpu().argsort(stable=True)
    )
    labels = labels.cpu()[order]
    of_classes = [labels == c for c in labels.unique()] if labels.ndim == 1 else labels.T != 0
    waiting = [rows for rows in (held.nonzero().flatten().tolist() for held in of_classes) if rows]
    waiting = waiting or [list(range(len(labels)))]  # no image has a label
    count, chosen = min(count, len({row for rows in waiting for row in rows})), list[int]()
    while len(chosen) < count:
        share = len(chosen) / max(1, count - 1)
        rows = [row for row in waiting[len(chosen) % len(waiting)] if row not in chosen]
        if not rows:
            waiting.pop(len(chosen) % len(waiting))
            continue
        chosen.append(rows[round(share * (len(rows) - 1))])
    return order[chosen]


def plot_retrieval(
    query_images: Sequence[Any],
    retrieved_images: Sequence[Sequence[Any]],
    relevant: Tensor,
    *,
    distances: Tensor | None = None,
    query_names: Sequence[str] | None = None,
    retrieved_names: Sequence[Sequence[str]] | None = None,
) -> "Figure":
    """Draw queries, each with its nearest neighbors, and a frame around the wrong ones.

    An image is a PIL image, gray or RGB; an array `(height, width)` or `(height, width, channels)`;
    or a tensor `(height, width)` or `(channels, height, width)`. Its values are integers up to 255,
    or floats from 0 to 1.

    Args:
        query_images: One image per row.
        retrieved_images: The neighbors of every query, `k` per row: of an array or a tensor of all
            images, `images[indices]` with the indices that `HammingKNN` returns.
        relevant: Whether each of them is right, bool, `(num_queries, k)`. `pairs.similarity` of
            the labels of queries and database tells that: `.gather(1, indices)` of it.
        distances: Their Hamming distances, `(num_queries, k)`, written below them.
        query_names: Text to write below the queries. Lines that are too long are cut.
        retrieved_names: Text to write below their neighbors, `k` per row.

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
        >>> len(figure.axes)  # a query and three neighbors
        4
    """
    images = {"query_images": query_images, "retrieved_images": retrieved_images}
    names = {"query_names": query_names, "retrieved_names": retrieved_names}
    _check_gallery(relevant, distances, **images, **names)
    captions = [
        _captions(row, relevant.shape[1], distances, query_names, retrieved_names)
        for row in range(len(relevant))
    ]
    num_lines = max(len(caption.splitlines()) for row in captions for caption in row)
    figure, grid = _new_gallery(*relevant.shape, caption=HEIGHT_OF_A_LINE * num_lines)
    at_distance = "" if distances is None else " at Hamming distance d"
    headings = "Query", f"Nearest{at_distance}, wrong ones framed"
    for axes, heading in zip(grid[0], headings, strict=False):  # above the tallest of the row
        box = axes.get_position(original=True)
        figure.text(box.x0, box.y1 + 0.01, heading, fontsize=9, va="bottom")
    for row, axes_of_row in enumerate(grid):
        shown = [query_images[row], *retrieved_images[row]]
        for axes, image, caption in zip(axes_of_row, shown, captions[row], strict=True):
            _draw(axes, image, caption)
        for axes, is_right in zip(axes_of_row[1:], relevant[row].tolist(), strict=True):
            if not is_right:
                axes.spines[:].set(color=WRONG, linewidth=3)
    return figure


def _captions(
    row: int,
    num_neighbors: int,
    distances: Tensor | None,
    query_names: Sequence[str] | None,
    retrieved_names: Sequence[Sequence[str]] | None,
) -> list[str]:
    """Return what stands below a query and its neighbors."""
    captions = ["" if query_names is None else query_names[row]]
    for column in range(num_neighbors):
        lines = [] if retrieved_names is None else [retrieved_names[row][column]]
        if distances is not None:
            lines.append(f"d = {int(distances[row, column])}")
        captions.append("\n".join(lines))
    return captions


def _new_gallery(
    num_rows: int, num_columns: int, *, caption: float
) -> tuple["Figure", list[list["Axes"]]]:
    """Return a figure, and the axes of each row: the query and, apart from it, its neighbors.

    Args:
        num_rows: Number of queries.
        num_columns: Number of neighbors.
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
    for name in ("retrieved_images", "retrieved_names"):
        _check_rows(per_query[name], relevant.shape[1], name)


def _check_rows(rows: Any, num_neighbors: int, name: str) -> None:
    for values in () if rows is None else rows:
        if len(values) != num_neighbors:
            raise ValueError(
                f"Expected `{name}` of {num_neighbors} images per query, as `relevant`, "
                f"got {len(values)}."
            )


def _draw(axes: "Axes", image: Any, caption: str) -> None:
    axes.imshow(_to_pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color="0.8", linewidth=0.5)
    caption = "\n".join(
        line if len(line) <= LETTERS_OF_A_LINE else line[: LETTERS_OF_A_LINE - 1] + "…"
        for line in caption.splitlines()
    )
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
