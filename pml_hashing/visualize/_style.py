"""What all figures share: colors, and how a figure is made."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which people who do not see red or green can tell apart."""
MARKERS = "osD^vP"


def new_figure(width: float, height: float) -> "Figure":
    """Return a figure that no global state of pyplot knows, and that needs no display."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ImportError('Figures need matplotlib: pip install "pml-hashing[examples]"') from error
    return Figure(figsize=(width, height), dpi=150)


def with_legend(figure: "Figure") -> "Figure":
    """Return the figure with a legend outside of its axes."""
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def label_ends(axes: "Axes", ends: dict[str, tuple[float, float, str]]) -> None:
    """Write the name of each line beside its end, apart from the others, in place of a legend.

    Args:
        axes: Where the lines are, all of them.
        ends: The last point of each line, and its color, by its name.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)  # as it is now, since places of names are parts of it
    heights = _apart({name: (y - low) / (high - low) for name, (_, y, _) in ends.items()})
    for name, (x, y, color) in ends.items():
        axes.annotate(
            name,
            (x, y),
            xytext=(1.04, heights[name]),
            textcoords="axes fraction",
            va="center",
            color=color,
            arrowprops={"arrowstyle": "-", "color": "0.8", "shrinkB": 4, "relpos": (0, 0.5)},
        )


def _apart(heights: dict[str, float], gap: float = 0.065) -> dict[str, float]:
    """Move heights in an axes from one another, from the lowest up, then down from the top."""
    names = sorted(heights, key=lambda name: (heights[name], name))
    places: dict[str, float] = {}
    lowest = 0.0
    for name in names:
        places[name] = max(heights[name], lowest)
        lowest = places[name] + gap
    highest = 1.0
    for name in reversed(names):
        places[name] = min(places[name], highest)
        highest = places[name] - gap
    return places


def new_axes(xlabel: str, ylabel: str) -> tuple["Figure", "Axes"]:
    """Return a figure with one pair of labelled axes, and room for a legend beside them."""
    figure = new_figure(6.6, 4.0)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
