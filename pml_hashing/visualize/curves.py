"""Figures of curves, of one method or of several in one figure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.visualize._style import COLORS, MARKERS, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    figure, axes = new_axes("Recall", "Precision")
    for number, (name, (precision, recall)) in enumerate(points.items()):
        axes.plot(recall, precision, label=name, **_line(number))
    if radius is not None:
        _mark_radius(axes, points, radius)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def plot_precision_by_rank(curves: Mapping[str, Tensor]) -> "Figure":
    """Plot P@N over N, of one method or of several.

    Args:
        curves: Precision of the first 1, 2, ..., N items, as `precision_by_rank` returns it, by the
            name of the method.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no curve, or one has other values than numbers from 0 to 1.
    """
    if not curves:
        raise ValueError("Expected `curves` of at least one method, got none.")
    figure, axes = new_axes("Number of items N", "P@N")
    for number, (name, curve) in enumerate(curves.items()):
        precision, _ = _to_curve(name, curve, curve)
        axes.plot(np.arange(1, len(precision) + 1), precision, label=name, color=_color(number))
    axes.set(ylim=(0, 1))
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def plot_precision_by_radius(curves: Mapping[str, tuple[Tensor, Tensor]]) -> "Figure":
    """Plot precision over the Hamming radius, of one method or of several.

    Args:
        curves: Precision and recall at every radius, as `precision_recall_by_radius` returns them,
            by the name of the method.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: As `plot_precision_recall`.
    """
    if not curves:
        raise ValueError("Expected `curves` of at least one method, got none.")
    figure, axes = new_axes("Hamming radius", "Precision")
    for number, (name, curve) in enumerate(curves.items()):
        precision, _ = _to_curve(name, *curve)
        axes.plot(precision, label=name, **_line(number))
    axes.set(ylim=(0, 1))
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _line(number: int) -> dict[str, Any]:
    marker = MARKERS[number % len(MARKERS)]
    # Points at the ends of the axes are drawn whole.
    return {"color": _color(number), "marker": marker, "markersize": 3.5, "clip_on": False}


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
