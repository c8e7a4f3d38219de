"""Figures of what codes retrieve: precision-recall curves and a gallery of neighbours."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_at_least

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which people who do not see red or green can tell apart."""
MARKERS = "osD^vP"
WRONG = "#d62728"
INCHES_OF_AN_IMAGE = 0.85
LETTERS_OF_A_CAPTION = 16


def plot_precision_recall(
    curves: Mapping[str, tuple[Tensor, Tensor]], *, radius: int | None = 2
) -> "Figure":
    """Plot precision over recall, of one method or of several.

    Args:
        curves: Precision and recall at every radius, as `precision_recall_by_radius` returns them,
            by the name of the method.
        radius: The Hamming radius whose point is marked. No point if `None`, or if a curve ends
            before it.

    Returns:
        The figure. `figure.savefig("curve.png")` writes it to a file.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no curve, or one has other values than numbers from 0 to 1, or not
            as many of precision as of recall.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import precision_recall_by_radius
        >>> from pml_hashing.visualize import plot_precision_recall
        >>> labels = torch.arange(100) % 5
        >>> codes = torch.randn(5, 16)[labels] + torch.randn(100, 16)
        >>> curve = precision_recall_by_radius(codes[:20], labels[:20], codes[20:], labels[20:])
        >>> figure = plot_precision_recall({"16 bits": curve})
        >>> figure.axes[0].get_xlabel()
        'Recall'
    """
    if not curves:
        raise ValueError("Expected `curves` of at least one method, got none.")
    if radius is not None:
        check_at_least(radius, 0, "radius")
    points = {name: _to_curve(name, *curve) for name, curve in curves.items()}
    figure = _new_figure(6.6, 4.0)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    for number, (name, (precision, recall)) in enumerate(points.items()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        # Points at the ends of the axes are drawn whole.
        style: Any = {"color": color, "marker": marker, "clip_on": False}
        axes.plot(recall, precision, label=name, markersize=3.5, **style)
    if radius is not None:
        _mark_radius(axes, points, radius)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Recall", ylabel="Precision")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _mark_radius(
    axes: "Axes", points: dict[str, tuple[np.ndarray, np.ndarray]], radius: int
) -> None:
    reached = [curve for curve in points.values() if radius < len(curve[0])]
    if reached:
        axes.scatter(
            [recall[radius] for _, recall in reached],
            [precision[radius] for precision, _ in reached],
            s=90,
            facecolors="none",
            edgecolors="0.2",
            clip_on=False,
            zorder=3,
            label=f"Hamming radius {radius}",
        )


def plot_retrieval(
    query_images: Sequence[Any],
    retrieved_images: Sequence[Sequence[Any]],
    relevant: Tensor,
    *,
    distances: Tensor | None = None,
    query_names: Sequence[str] | None = None,
) -> "Figure":
    """Draw queries, each with its neighbours from the nearest on, and a frame round the wrong ones.

    An image is a PIL image, gray or RGB; an array `(height, width)` or `(height, width, channels)`;
    or a tensor `(height, width)` or `(channels, height, width)`. Its values are integers up to 255,
    or floats from 0 to 1.

    Args:
        query_images: One image a row.
        retrieved_images: The neighbours of every query, `k` a row: of an array or a tensor of all
            images, `images[indices]` with the indices that `HammingKNN` returns.
        relevant: Whether each of them is right, bool, `(num_queries, k)`. `pairs.similarity` of
            the labels of queries and database tells that: `.gather(1, indices)` of it.
        distances: Their Hamming distances, `(num_queries, k)`, written below them.
        query_names: What is written below the queries.

    Returns:
        The figure. `figure.savefig("gallery.png")` writes it to a file.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `relevant` is no tensor of bool.
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
    _check_gallery(
        relevant,
        distances,
        query_images=query_images,
        retrieved_images=retrieved_images,
        query_names=query_names,
    )
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
    figure = _new_figure(width * INCHES_OF_AN_IMAGE, height * INCHES_OF_AN_IMAGE)
    grid = []
    for row in range(num_rows):
        bottom = height - title - row * (pitch + caption) - 1
        lefts = [margin + column * pitch + gap * (column > 0) for column in range(num_columns + 1)]
        boxes = [(left / width, bottom / height, 1 / width, 1 / height) for left in lefts]
        grid.append([figure.add_axes(box) for box in boxes])
    return figure, grid


def _new_figure(width: float, height: float) -> "Figure":
    """Return a figure that no global state of pyplot knows, and that needs no display."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ImportError('Figures need matplotlib: pip install "pml-hashing[examples]"') from error
    return Figure(figsize=(width, height), dpi=150)


def _to_curve(name: str, precision: Any, recall: Any) -> tuple[np.ndarray, np.ndarray]:
    curves = [torch.as_tensor(values).detach().cpu().double() for values in (precision, recall)]
    shapes = [tuple(curve.shape) for curve in curves]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or 0 in shapes[0]:
        raise ValueError(
            f"Expected precision and recall of {name!r} in `curves` of one shape (num_radii,), not "
            f"empty, got {shapes[0]} and {shapes[1]}."
        )
    both = torch.stack(curves)
    if not ((both >= 0) & (both <= 1)).all():  # false for NaN
        raise ValueError(
            f"Expected precision and recall of {name!r} in `curves` from 0 to 1, "
            f"got {both.min().item()} to {both.max().item()}."
        )
    return both[0].numpy(), both[1].numpy()


def _check_gallery(relevant: Tensor, distances: Tensor | None, **per_query: Any) -> None:
    if not isinstance(relevant, Tensor) or relevant.dtype != torch.bool:
        got = relevant.dtype if isinstance(relevant, Tensor) else type(relevant).__name__
        raise TypeError(f"Expected `relevant` to be a tensor of torch.bool, got {got}.")
    if relevant.ndim != 2 or 0 in relevant.shape:
        raise ValueError(
            "Expected `relevant` of shape (num_queries, k), not empty, "
            f"got {tuple(relevant.shape)}."
        )
    if distances is not None and distances.shape != relevant.shape:
        raise ValueError(
            f"Expected `distances` of shape {tuple(relevant.shape)}, as `relevant`, "
            f"got {tuple(distances.shape)}."
        )
    for name, values in per_query.items():
        if values is not None and len(values) != len(relevant):
            raise ValueError(
                f"Expected `{name}` of {len(relevant)} queries, as `relevant`, got {len(values)}."
            )
    for images in per_query["retrieved_images"]:
        if len(images) != relevant.shape[1]:
            raise ValueError(
                f"Expected `retrieved_images` of {relevant.shape[1]} images a query, as "
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
