"""Figures of curves and codes: what they show, read back from their axes."""

import numpy as np
import pytest
import torch

from pml_hashing import visualize
from pml_hashing.codes import hamming_distance, pack
from pml_hashing.evaluation import bit_balance, bit_correlation, mean_absolute_correlation


def make_codes(n=30, code_length=12):
    labels = torch.arange(n) % 3
    return 2 * torch.randn(3, code_length)[labels] + torch.randn(n, code_length), labels


def test_precision_by_rank_and_by_radius(tmp_path):
    precision = torch.tensor([1.0, 0.5, 0.25])
    figure = visualize.plot_precision_by_rank({"a": precision, "b": precision / 2})
    first, second = figure.axes[0].lines
    assert first.get_xdata().tolist() == [1, 2, 3]
    assert second.get_ydata().tolist() == [0.5, 0.25, 0.125]
    figure = visualize.plot_precision_by_radius({"a": (precision, precision)})
    assert figure.axes[0].lines[0].get_ydata().tolist() == precision.tolist()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "plot", [visualize.plot_precision_by_rank, visualize.plot_precision_by_radius]
)
def test_curves_are_required(plot):
    with pytest.raises(ValueError, match="at least one method, got none"):
        plot({})


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_distances(packed, multi_hot):
    codes, labels = make_codes()
    kinds = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]])[labels] if multi_hot else labels
    similar = kinds @ kinds.T > 0 if multi_hot else kinds[:, None] == kinds
    given = pack(codes) if packed else codes
    figure = visualize.plot_distances(given[:10], kinds[:10], given, kinds)
    distances = hamming_distance(codes[:10], codes)
    for mask, bars in zip((similar[:10], ~similar[:10]), figure.axes[0].containers, strict=True):
        heights = np.array([bar.get_height() for bar in bars])
        expected = torch.bincount(distances[mask], minlength=len(heights)) / mask.sum()
        np.testing.assert_allclose(heights, expected, rtol=1e-6)


def test_bits():
    codes, _ = make_codes()
    figure = visualize.plot_bits(pack(codes), 12)
    left, right, _ = figure.axes
    heights = [bar.get_height() for bar in left.containers[0]]
    np.testing.assert_allclose(heights, bit_balance(codes))
    np.testing.assert_allclose(right.images[0].get_array(), bit_correlation(codes))
    assert right.get_title() == f"mAC {mean_absolute_correlation(codes):.3f}"


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_embedding_has_one_point_a_distinct_code_and_class(projection):
    codes, labels = make_codes()
    codes[labels == 0] = codes[0].clone()
    figure = visualize.plot_embedding(
        codes, labels, class_names=["cat", "dog", "owl"], projection=projection
    )
    clouds = figure.axes[0].collections
    assert [cloud.get_label() for cloud in clouds] == ["cat", "dog", "owl"]
    assert len(clouds[0].get_offsets()) == 1
    assert clouds[0].get_sizes()[0] > clouds[1].get_sizes()[0]
    for cloud, label in zip(clouds, range(3), strict=True):
        assert len(cloud.get_offsets()) == len((codes[labels == label] >= 0).unique(dim=0))


def test_pca_keeps_the_distances_of_codes_in_a_plane():
    codes = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    figure = visualize.plot_embedding(codes, torch.tensor([0, 1, 2]))
    points = torch.tensor(
        np.concatenate([cloud.get_offsets() for cloud in figure.axes[0].collections])
    )
    np.testing.assert_allclose(torch.cdist(points, points), torch.cdist(codes, codes), atol=1e-5)


def test_one_bit_or_one_code_still_makes_a_figure():
    for codes in (torch.ones(3, 1), torch.ones(1, 4)):
        labels = torch.zeros(len(codes), dtype=torch.int64)
        offsets = visualize.plot_embedding(codes, labels).axes[0].collections[0].get_offsets()
        np.testing.assert_allclose(offsets, [[0, 0]], atol=1e-6)


def test_bad_arguments_are_named():
    codes, labels = make_codes()
    with pytest.raises(ValueError, match=r"`projection` to be one of .* got 'umap'"):
        visualize.plot_embedding(codes, labels, projection="umap")
    with pytest.raises(ValueError, match=r"`labels` of shape \(30,\), got \(30, 2\)"):
        visualize.plot_embedding(codes, torch.zeros(30, 2))
    with pytest.raises(ValueError, match=r"`labels` of shape \(30,\) .* got \(29,\)"):
        visualize.plot_embedding(codes, labels[1:])
    with pytest.raises(ValueError, match="finite values in `codes`"):
        visualize.plot_bits(codes / 0)
