"""Figures show what they are given."""

import itertools
import sys

import matplotlib.colors
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from pml_hashing.datasets import ImageArrays, ImageFiles
from pml_hashing.evaluation import precision_recall_by_radius
from pml_hashing.visualize import (
    choose_queries,
    plot_by_code_length,
    plot_neighbors,
    plot_precision_recall,
    plot_retrieval,
)
from pml_hashing.visualize.gallery import WRONG

PRECISION, RECALL = torch.tensor([1.0, 0.8, 0.5]), torch.tensor([0.2, 0.6, 1.0])


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def pixels(axes):
    return axes.images[0].get_array()


def is_framed(axes):
    colors = {matplotlib.colors.to_hex(spine.get_edgecolor()) for spine in axes.spines.values()}
    (color,) = colors
    return color == WRONG


def test_precision_recall_draws_every_method(tmp_path):
    curves = {"DSAH": (PRECISION, RECALL), "ITQ": (PRECISION / 2, RECALL)}
    figure = plot_precision_recall(curves)
    (axes,) = figure.axes
    assert legend(figure) == ["DSAH", "ITQ", "Hamming radius 2"]
    for line, (precision, recall) in zip(axes.lines, curves.values(), strict=True):
        np.testing.assert_allclose(line.get_xdata(), recall)
        np.testing.assert_allclose(line.get_ydata(), precision)
    first, second = axes.lines
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Recall", "Precision")
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0, 1))
    figure.savefig(tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (990, 600)


def test_precision_recall_marks_the_radius_that_curves_reach():
    curves = {"short": (PRECISION[:1], RECALL[:1]), "long": (PRECISION, RECALL)}
    (marks,) = plot_precision_recall(curves, radius=1).axes[0].collections
    np.testing.assert_allclose(marks.get_offsets(), [[0.6, 0.8]])


@pytest.mark.parametrize("radius", [None, 3])
def test_precision_recall_without_a_mark(radius):
    figure = plot_precision_recall({"DSAH": (PRECISION, RECALL)}, radius=radius)
    assert len(figure.axes[0].collections) == 0
    assert legend(figure) == ["DSAH"]


def test_precision_recall_takes_what_evaluation_returns(device):
    codes, labels = torch.randn(40, 12, device=device), torch.arange(40, device=device) % 3
    curve = precision_recall_by_radius(codes[:5], labels[:5], codes, labels)
    (line,) = plot_precision_recall({"random": curve}).axes[0].lines
    assert len(line.get_xdata()) == 13
    assert line.get_xdata()[-1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "`curves` of at least one method"),
        ({"a": (PRECISION, RECALL[:2])}, r"'a' in `curves` .* got \(3,\) and \(2,\)"),
        ({"a": (PRECISION[None], RECALL[None])}, r"got \(1, 3\) and \(1, 3\)"),
        ({"a": (PRECISION[:0], RECALL[:0])}, "not empty"),
        ({"a": (2 * PRECISION, RECALL)}, "'a' in `curves` from 0 to 1, got 0.2.* to 2.0"),
        ({"a": (PRECISION, -RECALL)}, "from 0 to 1, got -1.0"),
        ({"a": (PRECISION * torch.nan, RECALL)}, "from 0 to 1, got nan"),
    ],
)
def test_precision_recall_refuses(curves, message):
    with pytest.raises(ValueError, match=message):
        plot_precision_recall(curves)


def test_precision_recall_refuses_a_negative_radius():
    with pytest.raises(ValueError, match="Expected `radius` of at least 0, got -1"):
        plot_precision_recall({"DSAH": (PRECISION, RECALL)}, radius=-1)


def test_retrieval_frames_the_wrong_ones(tmp_path):
    images = torch.arange(6).view(6, 1, 1, 1) / 5 * torch.ones(6, 3, 4, 5)
    indices = torch.tensor([[1, 4, 3], [2, 5, 0]])
    relevant = torch.tensor([[True, False, True], [False, True, True]])
    figure = plot_retrieval(
        images[:2],
        images[indices],
        relevant,
        distances=torch.tensor([[0, 2, 7], [1, 1, 12]]),
        query_names=["cat", "a name that is far too long"],
    )
    rows = figure.axes[:4], figure.axes[4:]
    for query, (axes_of_query, *others) in enumerate(rows):
        np.testing.assert_allclose(pixels(axes_of_query), images[query].movedim(0, -1))
        assert not is_framed(axes_of_query)
        for column, axes in enumerate(others):
            item = images[indices[query, column]]
            np.testing.assert_allclose(pixels(axes), item.movedim(0, -1))
            assert is_framed(axes) != relevant[query, column].item()
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions[:4] == ["cat", "d = 0", "d = 2", "d = 7"]
    assert captions[4:] == ["a name that is …", "d = 1", "d = 1", "d = 12"]
    figure.savefig(tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as image:
        assert image.width > image.height > 300


def test_retrieval_places_axes_apart():
    images = np.zeros((2, 3, 8, 8))
    figure = plot_retrieval(images[:, 0], images, torch.ones(2, 3, dtype=torch.bool))
    boxes = [axes.get_position() for axes in figure.axes]
    for number, box in enumerate(boxes):
        assert 0 < box.x0 < box.x1 < 1
        assert 0 < box.y0 < box.y1 < 1
        for other in boxes[:number]:
            assert not box.overlaps(other)
    first_row, second_row = boxes[:4], boxes[4:]
    assert len({box.y0 for box in first_row}) == 1
    assert first_row[0].y0 > second_row[0].y1  # the first query is on top
    gaps = [right.x0 - left.x1 for left, right in itertools.pairwise(first_row)]
    assert gaps[0] > 2 * gaps[1]  # the query stands apart
    assert gaps[1] == pytest.approx(gaps[2])


@pytest.mark.parametrize(
    "image",
    [
        np.full((2, 3), 51, dtype=np.uint8),
        np.full((2, 3, 1), 51, dtype=np.int64),
        np.full((2, 3, 3), 51, dtype=np.uint8),
        np.full((2, 3), 0.2),
        torch.full((2, 3), 0.2),
        torch.full((1, 2, 3), 51, dtype=torch.uint8),
        torch.full((3, 2, 3), 0.2, requires_grad=True),
        Image.new("L", (3, 2), 51),
        Image.new("RGB", (3, 2), (51, 51, 51)),
    ],
    ids=lambda image: type(image).__name__,
)
def test_retrieval_takes_images_of_many_kinds(image):
    figure = plot_retrieval([image], [[image]], torch.tensor([[True]]))
    for axes in figure.axes:
        shown = pixels(axes)
        assert shown.shape[:2] == (2, 3)
        np.testing.assert_allclose(shown, 0.2, rtol=1e-6)


IMAGES, RELEVANT = torch.zeros(2, 3, 4, 4), torch.ones(2, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"relevant": RELEVANT.int()}, TypeError, "`relevant` .* got torch.int32"),
        ({"relevant": [[True]]}, TypeError, "`relevant` .* got list"),
        ({"relevant": RELEVANT[0]}, ValueError, r"\(num_queries, k\), not empty, got \(2,\)"),
        ({"relevant": RELEVANT[:, :0]}, ValueError, r"not empty, got \(2, 0\)"),
        ({"distances": torch.zeros(2, 3)}, ValueError, r"`distances` .* \(2, 2\), .* got \(2, 3\)"),
        ({"query_images": IMAGES[:1]}, ValueError, "`query_images` of 2 queries, .* got 1"),
        ({"retrieved_images": [[]]}, ValueError, "`retrieved_images` of 2 queries, .* got 1"),
        ({"query_names": ["cat"]}, ValueError, "`query_names` of 2 queries, .* got 1"),
        ({"retrieved_names": [["a"]] * 2}, ValueError, "`retrieved_names` of 2 images .* got 1"),
        (
            {"retrieved_images": [IMAGES, IMAGES[:1]]},
            ValueError,
            "`retrieved_images` of 2 images per query, .* got 1",
        ),
        ({"query_images": torch.zeros(2, 4, 4, 4)}, ValueError, r"channels first, got \(4, 4, 4\)"),
        ({"query_images": torch.zeros(2, 3)}, ValueError, r"got \(3,\)"),
        ({"query_images": torch.zeros(2, 3, 0, 4)}, ValueError, r"got \(3, 0, 4\)"),
        ({"query_images": IMAGES - 1}, ValueError, "from 0 to 1, got -1.0 to -1.0"),
        ({"query_images": IMAGES + 2}, ValueError, "from 0 to 1, got 2.0 to 2.0"),
        ({"query_images": IMAGES.int() + 256}, ValueError, "from 0 to 255, got 256 to 256"),
        ({"query_images": IMAGES * torch.nan}, ValueError, "from 0 to 1, got nan to nan"),
    ],
)
def test_retrieval_refuses(change, error, message):
    arguments = {
        "query_images": IMAGES,
        "retrieved_images": [IMAGES, IMAGES],
        "relevant": RELEVANT,
    }
    with pytest.raises(error, match=message):
        plot_retrieval(**arguments | change)


def test_scores_by_code_length():
    scores = {"ITQ": {32: [0.5], 16: [0.2, 0.4, 0.6]}, "none yet": {}, "SDH": {64: [0.6, 0.6]}}
    figure = plot_by_code_length(scores, ylabel="mAP@all")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Code length (bits)", "mAP@all")
    assert axes.get_xticks().tolist() == [16, 32, 64]
    itq, _, sdh = axes.containers
    np.testing.assert_allclose(itq.lines[0].get_xydata(), [[32, 0.5], [16, 0.4]])
    (bars,) = itq.lines[2]
    np.testing.assert_allclose([bar[:, 1] for bar in bars.get_segments()], [[0.5, 0.5], [0.2, 0.6]])
    np.testing.assert_allclose(sdh.lines[0].get_xydata(), [[64, 0.6]])


def test_few_methods_are_named_at_the_ends_of_their_lines():
    scores = {str(i): {8: [0.5], 24: [0.7 + i / 1000], 12: [0.9]} for i in range(5)}
    figure = plot_by_code_length(scores | {"low": {8: [0.1]}, "none yet": {}}, ylabel="mAP")
    assert legend(figure) == [*scores, "low", "none yet"]  # seven
    figure = plot_by_code_length(scores | {"low": {8: [0.1]}})
    assert not figure.legends
    (axes,) = figure.axes
    names = {text.get_text(): text for text in axes.texts}
    assert names["low"].xy == (8, 0.1)
    assert names["3"].xy == (24, pytest.approx(0.703))
    heights = [names[name].xyann[1] for name in ("low", "0", "1", "2", "3", "4")]
    assert min(np.diff(heights)) > 0.06  # in the order of the lines, none on another
    assert 0 <= heights[0] < heights[-1] <= 1
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to them
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_names_of_lines_that_end_at_the_top_stay_in_the_figure():
    axes = plot_by_code_length({str(i): {8: [0.5], 24: [0.9 + i / 1000]} for i in range(6)}).axes[0]
    heights = [text.xyann[1] for text in axes.texts]  # in the order of the lines
    assert min(np.diff(heights)) > 0.06
    assert max(heights) == pytest.approx(1)


def test_many_methods_have_lines_of_their_own_and_room():
    axes = plot_by_code_length({str(i): {8: [0.5]} for i in range(24)}).axes[0]
    lines = [container.lines[0] for container in axes.containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 24
    assert axes.figure.get_figheight() > 5


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "at least one method, got none"),
        ({"ITQ": {8: []}}, r"finite `scores` of 'ITQ' at 8 bits, got \[\]"),
        ({"ITQ": {8: [0.5, float("nan")]}}, "at 8 bits, got .0.5, nan"),
    ],
)
def test_scores_by_code_length_refuses(scores, message):
    with pytest.raises(ValueError, match=message):
        plot_by_code_length(scores)


@pytest.mark.parametrize(
    ("labels", "names", "wrong"),
    [
        ([0, 1, 1, 0], ["0", "1"], [True, True, False, True, False, True]),
        ([[1, 1], [0, 1], [0, 0], [1, 0]], ["0, 1", "1"], [False, True, False, True, True, False]),
    ],
)
def test_neighbors_of_a_data_set(labels, names, wrong):
    gray = np.arange(0, 4 * 40, 40, dtype=np.uint8).repeat(4).reshape(4, 2, 2)
    neighbors = torch.tensor([[1, 2, 3], [3, 2, 0]])
    figure = plot_neighbors(
        ImageArrays(gray, labels), torch.tensor([0, 1]), neighbors, distances=neighbors
    )
    queries, found = figure.axes[::4], [axes for i, axes in enumerate(figure.axes) if i % 4]
    assert [axes.get_xlabel() for axes in queries] == names
    classes = [", ".join(ImageArrays(gray, labels).class_names(i)) for i in (1, 2, 3)]
    below = [f"{text}\nd = {d}" for d, text in enumerate(classes, start=1)]
    assert [axes.get_xlabel() for axes in found[:3]] == below
    assert [is_framed(axes) for axes in found] == wrong
    shown = [round(float(pixels(axes).max() * 255)) for axes in found]
    assert shown == (40 * neighbors).flatten().tolist()


@pytest.mark.parametrize(
    ("queries", "neighbors"), [([0], [[1], [2]]), ([], []), ([0], [1]), ([[0]], [[1]])]
)
def test_neighbors_of_other_sizes(queries, neighbors):
    images = ImageArrays(np.zeros((3, 2, 2), np.uint8), [0, 1, 0])
    with pytest.raises(ValueError, match=r"`queries` of shape \(num_queries,\) and `neighbors`"):
        plot_neighbors(images, torch.tensor(queries), torch.tensor(neighbors))


def test_neighbors_in_files_have_names(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / "sea").mkdir(exist_ok=True)
        Image.new("RGB", (4, 6)).save(tmp_path / "sea" / name)
    images = ImageFiles.from_folder(tmp_path)
    figure = plot_neighbors(images, torch.tensor([0]), torch.tensor([[1]]))
    assert [axes.get_xlabel() for axes in figure.axes] == ["a.png\nsea", "b.png\nsea"]


def test_no_image_covers_a_heading():
    portrait, landscape = np.zeros((40, 10, 3)), np.zeros((10, 40, 3))
    images = [[landscape, portrait, portrait]]
    figure = plot_retrieval([landscape], images, torch.ones(1, 3, dtype=torch.bool))
    figure.canvas.draw()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    for heading in figure.texts:
        assert heading.get_text()
        assert not any(heading.get_window_extent().overlaps(box) for box in boxes)


def test_queries_are_chosen_of_each_class_in_turn():
    labels, scores = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0.9, 0.1, 0.5, 0.4, 0.2, 0.3])
    chosen = choose_queries(labels, 3, scores)
    assert labels[chosen].tolist() == [0, 1, 2]
    assert chosen[0] == 1  # the worst of its class
    everything = choose_queries(labels, 99, scores)
    assert sorted(everything.tolist()) == list(range(6))
    rows = torch.nn.functional.one_hot(labels)
    assert torch.equal(choose_queries(rows, 3, scores), chosen)
    assert len(choose_queries(torch.zeros(3, 2, dtype=torch.long), 2)) == 2
    of_one = scores[choose_queries(torch.zeros(6, dtype=torch.long), 3, scores)].tolist()
    assert of_one == sorted(of_one)  # from the worst to the best
    assert (of_one[0], of_one[-1]) == (scores.min(), scores.max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([0, 1]), 0), "`count`"),
        ((torch.tensor([0, 1]), 1, torch.zeros(3)), "`scores`"),
    ],
)
def test_queries_that_cannot_be_chosen(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_queries(*arguments)


def test_without_matplotlib_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "pml-hashing\[examples\]"'):
        plot_precision_recall({"DSAH": (PRECISION, RECALL)})
