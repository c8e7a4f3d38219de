"""Figures of codes: their distances, their bits, and where they lie."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_choice, check_labels
from pml_hashing.evaluation import (
    HammingRanking,
    bit_balance,
    bit_correlation,
    mean_absolute_correlation,
)
from pml_hashing.evaluation.bits import checked_signs
from pml_hashing.visualize._style import COLORS, new_axes, new_figure, with_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Projection = Literal["pca", "tsne"]


def plot_distances(
    query_codes: Tensor, query_labels: Tensor, database_codes: Tensor, database_labels: Tensor
) -> "Figure":
    """Plot how many similar and how many dissimilar pairs lie at each Hamming distance.

    Args:
        query_codes: Real, binary or packed codes of the queries.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database, of the same kind.
        database_labels: Their labels.

    Returns:
        The figure. It has shares of the pairs of each kind, so that the two can be compared.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: As `evaluation.average_precision`.
        ValueError: As `evaluation.average_precision`.
    """
    ranking = HammingRanking(query_codes, query_labels, database_codes, database_labels)
    pairs_of_grade = ranking.counts.sum(dim=0).cpu().double()  # grade 0: no label in common
    kinds = {"similar": pairs_of_grade[:, 1:].sum(dim=1), "dissimilar": pairs_of_grade[:, 0]}
    figure, axes = new_axes("Hamming distance", "Share of the pairs of a kind")
    for color, (name, pairs) in zip(COLORS, kinds.items(), strict=False):
        shares = (pairs / pairs.sum().clamp(min=1)).numpy()
        axes.bar(np.arange(len(shares)), shares, width=1, alpha=0.6, color=color, label=name)
    return with_legend(figure)


def plot_bits(codes: Tensor, code_length: int | None = None) -> "Figure":
    """Plot the share of codes in which each bit is set, and the correlation of every two bits.

    Args:
        codes: Real or binary codes `(n, code_length)`, or packed codes (uint8), of at least 2 bits.
        code_length: Number of bits, for packed codes of a length that is no multiple of 8.

    Returns:
        The figure, with the mean absolute correlation (mAC) in its title.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: As `evaluation.mean_absolute_correlation`.
    """
    redundancy = mean_absolute_correlation(codes, code_length)
    balance, correlation = bit_balance(codes, code_length), bit_correlation(codes, code_length)
    figure = new_figure(8.4, 3.6)
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    left.bar(np.arange(len(balance)), balance.cpu().numpy(), color=COLORS[0])
    left.axhline(0.5, color="0.2", linewidth=0.8, linestyle="--")
    left.set(ylim=(0, 1), xlabel="Bit", ylabel="Share of codes with the bit set")
    left.spines[["top", "right"]].set_visible(False)
    image = right.imshow(correlation.cpu().numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    right.set(xlabel="Bit", ylabel="Bit", title=f"mAC {redundancy:.3f}")
    figure.colorbar(image, label="Correlation")
    return figure


def plot_embedding(
    codes: Tensor,
    labels: Tensor,
    *,
    class_names: Sequence[str] | None = None,
    code_length: int | None = None,
    projection: Projection = "pca",
    seed: int = 0,
) -> "Figure":
    """Plot binary codes in two dimensions, colored by class.

    Equal codes fall on one point: the size of a point shows how many codes lie on it.

    Args:
        codes: Real or binary codes `(n, code_length)`, or packed codes (uint8).
        labels: Class ids `(n,)`. Codes with several labels have no single color.
        class_names: Name of each class, by class id. The ids if `None`.
        code_length: Number of bits, for packed codes of a length that is no multiple of 8.
        projection: `"pca"`, or `"tsne"` (scikit-learn's) of the distinct codes.
        seed: Of t-SNE.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a shape is wrong, a code is NaN or infinite, `labels` are not class ids, or
            `projection` is unknown.
    """
    check_choice(projection, get_args(Projection), "projection")
    check_labels(labels, codes, "labels")
    if labels.ndim != 1:
        raise ValueError(f"Expected `labels` of shape ({len(codes)},), got {tuple(labels.shape)}.")
    signs, labels = checked_signs(codes, code_length).cpu(), labels.cpu()
    distinct, places = signs.unique(dim=0, return_inverse=True)
    points = _project(distinct, projection, seed)
    figure, axes = new_axes(f"{projection.upper()} 1", f"{projection.upper()} 2")
    for number, label in enumerate(labels.unique().tolist()):
        at, sizes = places[labels == label].unique(return_counts=True)
        name = str(label) if class_names is None else class_names[label]
        color = f"C{number % 10}"
        area = 12 * sizes.double().sqrt()
        axes.scatter(*points[at].T, s=area, color=color, alpha=0.6, linewidths=0, label=name)
    return with_legend(figure)


def _project(signs: Tensor, projection: Projection, seed: int) -> np.ndarray:
    if projection == "tsne" and len(signs) > 3:
        from sklearn.manifold import TSNE  # noqa: PLC0415 - only here is it waited for

        perplexity = min(30, (len(signs) - 1) / 3)
        return TSNE(perplexity=perplexity, random_state=seed).fit_transform(signs.numpy())
    centered = signs - signs.mean(dim=0)
    axes = torch.linalg.svd(centered, full_matrices=False).Vh[:2]
    points = centered @ axes.T
    return torch.nn.functional.pad(points, (0, 2 - points.shape[1])).numpy()
