"""What all figures share: colours, and how a figure is made."""

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
