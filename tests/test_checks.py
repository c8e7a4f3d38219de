"""Every check lets pass what is right, and names what is wrong."""

from functools import partial
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pml_hashing import CodeBank, Collection, HashingModel, TwoNetworkHashingModel, losses
from pml_hashing._checks import (
    check_at_least,
    check_choice,
    check_codes,
    check_finite,
    check_integer,
    check_label_values,
    check_labels,
    check_positive,
    require_labels,
    to_path,
)
from pml_hashing.baselines import SDH
from pml_hashing.centers import (
    class_similarity,
    hadamard,
    hash_centers,
    linear_codes,
    minimal_distance,
    semantic_centers,
    separated_centers,
    spread_codes,
)
from pml_hashing.datasets import ImageFiles, list_images, retrieval_split
from pml_hashing.evaluation import HammingRanking, mean_average_precision, mean_by_class
from pml_hashing.losses.terms import Quantization
from pml_hashing.losses.terms.label_network import LabelNetwork
from pml_hashing.trainers.checkpoints import CheckpointFolder

CODES = torch.zeros(2, 3)
MODEL = HashingModel(nn.Identity(), 8, num_features=4)


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        (check_codes, (CODES, "codes")),
        (check_codes, (CODES, "codes", 3)),
        (check_finite, (CODES, "codes")),
        (check_finite, (torch.ones(2, 3, dtype=torch.uint8), "codes")),
        (check_finite, (torch.ones(2, 3, dtype=torch.int8), "codes")),
        (check_finite, (torch.tensor([[0.0, 0.5, 1.0]]), "codes")),
        (check_finite, (torch.tensor([[-3e38, 3e38]]), "codes")),
        (check_finite, (torch.tensor([[True, False]]), "codes")),
        (check_labels, (torch.zeros(2, dtype=torch.long), CODES, "labels")),
        (check_labels, (torch.zeros(2, 7), CODES, "labels")),
        (check_label_values, (torch.tensor([0, 2]), 3, "labels")),
        (check_label_values, (torch.tensor([], dtype=torch.long), 3, "labels")),
        (check_label_values, (torch.tensor([[0, 1], [0, 0]]), 2, "labels")),
        (check_label_values, (torch.tensor([[True, False]]), 2, "labels")),
        (check_label_values, (torch.tensor([[0.0, 1.0]]), 2, "labels")),
        (check_at_least, (1, 1, "sweeps")),
        (check_integer, (np.int32(3), 3, "sweeps")),
        (check_choice, ("a", ("a", "b"), "inter")),
    ],
)
def test_right_arguments_pass(check, arguments):
    assert check(*arguments) is None


@pytest.mark.parametrize(
    ("check", "arguments", "error", "message"),
    [
        (check_codes, ([[1.0]], "codes"), TypeError, r"`codes` to be a torch\.Tensor, got list"),
        (
            check_codes,
            (torch.zeros(3), "codes"),
            ValueError,
            r"`codes` of shape \(batch_size, code_length\), not empty, got \(3,\)",
        ),
        (check_codes, (torch.zeros(0, 3), "codes"), ValueError, r"got \(0, 3\)"),
        (check_codes, (torch.zeros(3, 0), "codes"), ValueError, r"got \(3, 0\)"),
        (check_codes, (CODES, "codes", 4), ValueError, r"\(batch_size, 4\), .* got \(2, 3\)"),
        (
            check_finite,
            (torch.tensor([[1.0], [torch.nan], [torch.inf]]), "codes"),
            ValueError,
            "finite values in `codes`, got NaN or infinity in 2 of 3 rows, .* row 1",
        ),
        *(
            (
                check_finite,
                (torch.tensor([[1, 0], [1, 1]], dtype=dtype), "codes"),
                ValueError,
                r"`codes` whose signs .* got 0 and 1 alone, .* `2 \* codes - 1`, or `codes\.bool",
            )
            for dtype in (torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float64)
        ),
        (
            check_labels,
            (torch.tensor([0.0, torch.nan]), CODES, "labels"),
            TypeError,
            r"`labels` with integer class ids, got torch\.float32",
        ),
        (check_labels, ([0, 1], CODES, "labels"), TypeError, r"torch\.Tensor, got list"),
        (
            check_labels,
            (torch.zeros(3), CODES, "labels"),
            ValueError,
            r"`labels` of shape \(2,\) with class ids or \(2, num_classes\) .*, got \(3,\)",
        ),
        (check_labels, (torch.zeros(2, 1, 1), CODES, "y"), ValueError, r"`y` .* got \(2, 1, 1\)"),
        (
            check_label_values,
            (torch.zeros(2, 4), 3, "labels"),
            ValueError,
            r"`labels` of shape \(2, 3\) with multi-hot rows, got \(2, 4\)",
        ),
        (
            check_label_values,
            (torch.tensor([[0.0, 0.5]]), 2, "labels"),
            ValueError,
            "multi-hot `labels` of zeros and ones, got 0.5",
        ),
        (
            check_label_values,
            (torch.zeros(2, dtype=torch.cfloat), 2, "labels"),
            TypeError,
            r"`labels` with integer class ids, got torch\.complex64",
        ),
        (
            check_label_values,
            (torch.tensor([-1, 4]), 3, "labels"),
            ValueError,
            "`labels` with class ids from 0 to 2, got -1 to 4",
        ),
        (require_labels, (None, "ref_labels"), ValueError, "Expected `ref_labels`, got None"),
        (
            require_labels,
            (torch.tensor([[2, 0]]),),
            ValueError,
            "multi-hot `labels` of zeros and ones",
        ),
        (check_integer, (1.0, 1, "top_k"), TypeError, "`top_k` to be an integer, got 1.0"),
        (check_integer, (torch.inf, 1, "top_k"), TypeError, "`top_k` to be an integer, got inf"),
        (check_integer, (True, 1, "top_k"), TypeError, "`top_k` to be an integer, got True"),
        (check_integer, (0, 1, "top_k"), ValueError, "`top_k` of at least 1, got 0"),
        (check_at_least, (0.5, 1, "nu"), ValueError, r"`nu` of at least 1, got 0\.5"),
        (check_at_least, (float("nan"), 0, "nu"), ValueError, "`nu` of at least 0, got nan"),
        (check_positive, (0, "nu"), ValueError, "a finite, positive `nu`, got 0"),
        (check_positive, (float("inf"), "nu"), ValueError, "a finite, positive `nu`, got inf"),
        (check_choice, ("c", ("a", 2), "x"), ValueError, "`x` to be one of 'a', 2, got 'c'"),
    ],
)
def test_wrong_arguments_are_named(check, arguments, error, message):
    with pytest.raises(error, match=message):
        check(*arguments)


TAKE_LABELS = {
    "check_labels": lambda labels: check_labels(labels, CODES, "labels"),
    "check_label_values": lambda labels: check_label_values(labels, labels.shape[-1], "labels"),
    "retrieval_split": lambda labels: retrieval_split(labels, num_queries=1),
    "HammingRanking": lambda labels: HammingRanking(CODES, labels, CODES, labels),
    "mean_average_precision": lambda labels: mean_average_precision(CODES, labels, CODES, labels),
    "mean_by_class": lambda labels: mean_by_class(torch.ones(2), labels),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
@pytest.mark.parametrize(
    "function",
    (
        TAKE_LABELS | {"require_labels": require_labels, "CodeBank": lambda y: CodeBank(y, 3)}
    ).values(),
    ids=[*TAKE_LABELS, "require_labels", "CodeBank"],
)
def test_a_single_column_of_labels_is_refused_everywhere(function, dtype):
    message = (
        r"`\w+` of shape \(2,\) with class ids, such as `\w+.squeeze\(1\)`, or multi-hot `\w+` of "
        r"zeros and ones of shape \(2, num_classes\), "
        r"with at least 2 classes, got \(2, 1\)"
    )
    with pytest.raises(ValueError, match=message):
        function(torch.tensor([[0], [1]]).to(dtype))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.eye(2)])
@pytest.mark.parametrize("function", TAKE_LABELS.values(), ids=TAKE_LABELS)
def test_unsigned_labels_are_refused_everywhere(function, labels, dtype):
    with pytest.raises(TypeError, match=rf"`\w+` of a signed integer .*, got {dtype}"):
        function(labels.to(dtype))


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda: MODEL.save_pretrained(""), "folder"),
        (lambda: HashingModel.from_pretrained(""), "folder"),
        (lambda: TwoNetworkHashingModel.from_pretrained(""), "folder"),
        (lambda: Collection.create("", MODEL, transform=torch.asarray), "place"),
        (lambda: Collection.open(""), "place"),
        (lambda: Collection.from_itq("", "photos", nn.Identity()), "place"),
        (lambda: Collection.from_itq("made", "", nn.Identity()), "folder"),
        (lambda: list_images(""), "folder"),
        (lambda: ImageFiles("", ["a.png"]), "folder"),
        (lambda: ImageFiles.from_folder(""), "folder"),
        (lambda: CheckpointFolder(""), "checkpoint_folder"),
        (lambda: CheckpointFolder.of(""), "checkpoint_folder"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch, use, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"Expected `{name}` to be a path, got an empty one: '.'"):
        use()
    assert not list(tmp_path.iterdir())


def of_classes_and_bits():
    """Yield everything that takes a number of classes and one of bits."""
    for name in sorted(losses.__all__):
        if {"num_classes", "code_length"} <= signature(getattr(losses, name)).parameters.keys():
            terms = [[(1.0, Quantization())]] if name == "DiscreteLoss" else []
            yield lambda *sizes, name=name, terms=terms: getattr(losses, name)(*sizes, *terms)
    yield from (hash_centers, linear_codes, minimal_distance, separated_centers, spread_codes)
    yield lambda classes, length: CodeBank(torch.arange(3), length, num_classes=classes)
    options = {"quantization": 1.0, "reconstruction": nn.functional.mse_loss}
    yield lambda classes, length: LabelNetwork(classes, length, (4,), 1, 0, **options)


def of_bits():
    """Yield everything else that takes a number of bits."""
    yield lambda length: HashingModel(nn.Identity(), length, num_features=4)
    yield lambda length: semantic_centers(torch.eye(3), length)
    yield lambda length: SDH(length).fit(np.ones((4, 2)), [0, 1, 0, 1])
    yield hadamard


def test_absurd_sizes_are_refused_before_memory_is_asked_for():
    two = torch.arange(2)
    of_classes = [
        partial(lambda make, size: make(size, 16), make) for make in of_classes_and_bits()
    ]
    of_classes += [losses.DualSemanticRegressionLoss, partial(class_similarity, CODES, two)]
    for make in of_classes:
        with pytest.raises(
            ValueError, match=r"`num_\w+` of at most [\d,]+, got 1,000,000,000,000\."
        ):
            make(10**12)
    for make in (*(partial(make, 3) for make in of_classes_and_bits()), *of_bits()):
        with pytest.raises(ValueError, match=r"of at most 65,536, got 1,000,000,000,000\."):
            make(10**12)


def test_a_path_is_one():
    assert to_path("a/b", "path") == to_path(Path("a/b"), "path") == Path("a/b")
    assert CheckpointFolder.of(None) is None
