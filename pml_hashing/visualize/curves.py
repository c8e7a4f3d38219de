"""Figures of curves, of one method or of several in one figure."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.visualize._style import COLORS, MARKERS, label_ends, new_axes, with_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES_LABELLED_AT_THEIR_ENDS = 6  # more have a legend

Curves: TypeAlias = dict[str, tuple[np.ndarray, np.ndarray]]
"""Two coordinates of the points of each method, by its name."""

Points: TypeAlias = tuple[list[int], list[float], list[float]]
"""Code lengths, and of each the mean and the deviation of a sample."""


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
    points = _to_curves(curves)
    if radius is not None:
        check_at_least(radius, 0, "radius")
    lines = {name: (recall, precision) for name, (precision, recall) in points.items()}
    figure, axes = _plot(lines, "Recall", "Precision")
    axes.set(xlim=(0, 1))
    if radius is not None:
        _mark_radius(axes, points, radius)
    return with_legend(figure)


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
    points = _to_curves({name: (curve, curve) for name, curve in curves.items()})
    lines = {name: (np.arange(1, len(y) + 1), y) for name, (y, _) in points.items()}
    return with_legend(_plot(lines, "Number of items N", "P@N", markers=False)[0])


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
    lines = {name: (np.arange(len(y)), y) for name, (y, _) in _to_curves(curves).items()}
    return with_legend(_plot(lines, "Hamming radius", "Precision")[0])


def plot_by_code_length(
    scores: Mapping[str, Mapping[int, Sequence[float]]], *, ylabel: str = "mAP"
) -> "Figure":
    """Plot a score over the code length: mean and standard deviation over runs, such as seeds.

    Up to six methods are named at the ends of their lines, more in a legend.

    Args:
        scores: The scores of all runs, by the name of the method and the code length.
        ylabel: What the score is called.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no method, no score of a code length, or one is not finite.

    Examples:
        >>> from pml_hashing.visualize import plot_by_code_length
        >>> figure = plot_by_code_length({"ITQ": {16: [0.2, 0.4], 32: [0.5]}, "SDH": {32: [0.6]}})
        >>> figure.axes[0].get_xticks().tolist()
        [16, 32]
    """
    if not scores:
        raise ValueError("Expected `scores` of at least one method, got none.")
    points = {name: _means(name, of_method) for name, of_method in scores.items()}
    figure, axes = new_axes("Code length (bits)", ylabel)
    for number, (name, (code_lengths, means, deviations)) in enumerate(points.items()):
        marker = MARKERS[(number // len(COLORS)) % len(MARKERS)]
        style = {"color": _color(number), "marker": marker, "markersize": 4, "capsize": 2}
        axes.errorbar(code_lengths, means, deviations, label=name, **style)
    axes.set_xticks(sorted(set().union(*scores.values())))
    if len(scores) <= LINES_LABELLED_AT_THEIR_ENDS:
        label_ends(axes, _ends(points))
        return figure
    figure.set_figheight(max(4.0, 0.5 + 0.22 * len(scores)))  # inches, for the legend
    return with_legend(figure)


def _means(name: str, scores: Mapping[int, Sequence[float]]) -> Points:
    for code_length, runs in scores.items():
        if not len(runs) or not all(map(math.isfinite, runs)):
            raise ValueError(
                f"Expected finite `scores` of {name!r} at {code_length} bits, got {list(runs)}."
            )
    means = [fmean(runs) for runs in scores.values()]
    deviations = [stdev(runs) if len(runs) > 1 else 0.0 for runs in scores.values()]
    return list(scores), means, deviations


def _ends(points: Mapping[str, Points]) -> dict[str, tuple[float, float, str]]:
    """Return the point of the longest code of each method that has any, and its color."""
    return {
        name: (*max(zip(code_lengths, means, strict=True)), _color(number))
        for number, (name, (code_lengths, means, _)) in enumerate(points.items())
        if code_lengths
    }


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _plot(
    lines: Curves, xlabel: str, ylabel: str, *, markers: bool = True
) -> tuple["Figure", "Axes"]:
    """Return a figure of lines, each an x and a y, and its axes."""
    figure, axes = new_axes(xlabel, ylabel)
    for number, (name, (x, y)) in enumerate(lines.items()):
        # Points at the ends of the axes are drawn whole.
        style = {"marker": MARKERS[number % len(MARKERS)], "markersize": 3.5, "clip_on": False}
        axes.plot(x, y, label=name, color=_color(number), **(style if markers else {}))
    axes.set(ylim=(0, 1))
    return figure, axes


def _mark_radius(axes: "Axes", points: Curves, radius: int) -> None:
    reached = [(r[radius], p[radius]) for p, r in points.values() if radius < len(p)]
    style = {"s": 90, "facecolors": "none", "edgecolors": "0.2", "clip_on": False, "zorder": 3}
    if reached:
        axes.scatter(*zip(*reached, strict=True), label=f"Hamming radius {radius}", **style)


def _to_curves(curves: Mapping[str, tuple[Any, Any]]) -> Curves:
    if not curves:
        raise ValueError("Expected `curves` of at least one method, got none.")
    return {name: _to_curve(name, *curve) for name, curve in curves.items()}


def _to_curve(name: str, precision: Any, recall: Any) -> tuple[np.ndarray, np.ndarray]:
    curves = [
        torch.as_tensor(values, device="cpu").detach().cpu().double()
        for values in (precision, recall)
    ]
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
