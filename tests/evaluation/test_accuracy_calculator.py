"""HammingAccuracyCalculator against the functions that it calls, and against PML."""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from pml_hashing.codes import binarize, pack
from pml_hashing.evaluation import (
    HammingAccuracyCalculator,
    HammingRanking,
    average_precision,
    bootstrap_interval,
    mean_average_precision,
    metrics,
)
from pml_hashing.evaluation.ranking import TIES

CPU = {"device": "cpu"}


def make_data(kind="class_ids", device="cpu", code_length=12):
    codes = torch.randn(50, code_length, device=device)
    shape, high = {"class_ids": ((50,), 3), "column": ((50, 1), 3), "multi_hot": ((50, 4), 2)}[kind]
    labels = torch.randint(high, shape, device=device)
    return codes[:10], labels[:10], codes[10:], labels[10:]


def share_a_label(y, z):
    return (y * z).sum(-1) > 0


def expected_metrics(ranking):
    """All metrics for `top_k=(5, 20)` and `radius=3`, as scores of every query."""
    ap, answered = ranking.average_precision, ranking.num_relevant > 0
    metrics = {
        "mean_average_precision_at_r": ranking.average_precision_at_r(),
        "r_precision": ranking.r_precision(),
        "precision_at_1": ranking.precision(1),
        "mean_reciprocal_rank": ranking.reciprocal_rank(),
        "precision_within_radius_3": ranking.precision_by_radius()[:, 3],
        "recall_within_radius_3": ranking.recall_by_radius()[:, 3],
    }
    for k, suffix in ((None, ""), (5, "_at_5"), (20, "_at_20")):
        metrics |= {
            f"mean_average_precision{suffix}": ap(k),
            f"pml_mean_average_precision{suffix}": ap(k, divisor="relevant")[answered],
            f"weighted_mean_average_precision{suffix}": ap(k, weighted=True),
            f"ndcg{suffix}": ranking.ndcg(k),
        }
        if k is not None:
            metrics |= {f"precision_at_{k}": ranking.precision(k)}
            metrics |= {f"recall_at_{k}": ranking.recall(k)}
    return {f"hamming_{name}": values for name, values in metrics.items()}


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("kind", ["class_ids", "column", "multi_hot"])
@pytest.mark.parametrize("convert", [pack, binarize, lambda codes: codes], ids=["8", "1", "real"])
def test_values_are_those_of_the_ranking(ties, kind, convert, device):
    queries, query_labels, codes, labels = make_data(kind, device)
    query_labels[0] = 0 if kind == "multi_hot" else 9  # with nothing relevant
    calculator = HammingAccuracyCalculator(top_k=(5, 20), radius=3, ties=ties, device=device)
    scores = calculator.get_accuracy(convert(queries), query_labels, convert(codes), labels)
    if kind == "column":
        query_labels, labels = query_labels.squeeze(1), labels.squeeze(1)
    ranking = HammingRanking(queries, query_labels, codes, labels, ties=ties)
    expected = expected_metrics(ranking)
    low, high = bootstrap_interval(expected["hamming_mean_average_precision"])
    assert scores == pytest.approx(
        {name: values.mean().item() for name, values in expected.items()}
        | {
            "hamming_mean_average_precision_low": low,
            "hamming_mean_average_precision_high": high,
            "hamming_num_queries_without_relevant_items": (ranking.num_relevant == 0).sum().item(),
        }
    )
    assert scores["hamming_num_queries_without_relevant_items"] >= 1
    assert {type(score) for score in scores.values()} == {float}
    assert all(name.isidentifier() for name in scores)  # columns of a table
    assert set(calculator.get_curr_metrics()) == set(scores)
    assert set(calculator.query_scores) == set(expected)
    assert len(calculator.query_scores["hamming_pml_mean_average_precision"]) == 10
    curves = {
        "precision_by_radius": ranking.precision_by_radius().mean(dim=0),
        "recall_by_radius": ranking.recall_by_radius().mean(dim=0),
        "precision_by_rank": ranking.precision_by_rank(),
        "recall_by_rank": ranking.recall_by_rank(),
    }
    assert set(calculator.curves) == set(curves)
    for name, curve in curves.items():  # packed codes have radii of padding bits behind
        assert calculator.curves[name][: len(curve)].tolist() == pytest.approx(curve.tolist())


def test_arguments_stand_where_pml_has_them():
    ours, pml = (
        list(inspect.signature(kind).parameters.values())
        for kind in (HammingAccuracyCalculator, AccuracyCalculator)
    )
    assert [(p.name, p.default) for p in ours[: len(pml)]] == [(p.name, p.default) for p in pml]
    assert all(p.kind == p.KEYWORD_ONLY for p in ours[len(pml) :])
    name = "hamming_ndcg"
    calculator = HammingAccuracyCalculator((name, "hamming_r_precision"), ("hamming_r_precision",))
    assert calculator.get_curr_metrics() == [name]


def test_every_reported_metric_is_in_the_documented_table():
    first_cells = re.findall(r"^\| (`.*?) \|", metrics.__doc__, flags=re.MULTILINE)
    names = set()
    for cell in first_cells:
        first, *others = re.findall(r"`(.+?)`", cell)
        stem = first.removesuffix("_low")
        names |= {first} | {other.replace("...", stem) for other in others}
    found = {name.format(k=7, r=3) for name in names}
    assert found == set(metrics.reported_metrics((7,), 3))


def test_interval_needs_no_mean():
    names = ("hamming_mean_average_precision_low",)
    scores = HammingAccuracyCalculator(include=names, **CPU).get_accuracy(*make_data())
    everything = HammingAccuracyCalculator(**CPU).get_accuracy(*make_data())
    assert list(scores) == list(names)
    assert 0 < scores[names[0]] < everything["hamming_mean_average_precision"]


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
def test_queries_in_the_reference_are_left_out(ties, kind):
    _, _, codes, labels = make_data(kind)
    calculator = HammingAccuracyCalculator(top_k=7, ties=ties, **CPU)
    for size in (10, 40):
        scores = calculator.get_accuracy(
            codes[:size], labels[:size], codes, labels, ref_includes_query=True
        )
        if size == 40:
            assert calculator.get_accuracy(codes, labels) == scores
        one_by_one = []
        for query in range(size):
            others = [i for i in range(40) if i != query]
            one_by_one.append(
                mean_average_precision(
                    codes[[query]], labels[[query]], codes[others], labels[others], 7, ties=ties
                )
            )
        expected = sum(one_by_one) / size
        assert scores["hamming_mean_average_precision_at_7"] == pytest.approx(expected)


def test_pml_metrics_keep_their_meaning():
    """Without ties, PML ranks the binary codes as we do."""
    size = 12
    codes = (1 - 2 * torch.ones(size, size).tril())[torch.randperm(size)] * 0.5
    query, labels = torch.rand(1, size), torch.randint(2, (size,))
    label, labels = torch.tensor([2**24]), labels + 2**24  # float32 holds 2**24, not 2**24 + 1
    labels[:2] = torch.tensor([2**24, 2**24 + 1])
    names = ("hamming_mean_average_precision", "mean_average_precision", "precision_at_1")
    calculator = HammingAccuracyCalculator(include=names, **CPU)
    scores = calculator.get_accuracy(query, label, codes, labels)
    pml = AccuracyCalculator(include=names[1:], device=torch.device("cpu"))
    expected = pml.get_accuracy(binarize(query), label - 2**24, binarize(codes), labels - 2**24)
    assert set(scores) == set(calculator.get_curr_metrics()) == set(names)
    assert {name: scores[name] for name in names[1:]} == pytest.approx(expected)
    assert scores["hamming_mean_average_precision"] == pytest.approx(
        expected["mean_average_precision"]
    )
    packed = calculator.get_accuracy(pack(query), label, pack(codes), labels)
    assert packed == pytest.approx(scores)


def test_pml_metrics_of_multi_hot_labels_need_a_comparison():
    data = make_data("multi_hot")
    names = ("precision_at_1", "hamming_precision_at_1")
    calculator = HammingAccuracyCalculator(
        include=names, top_k=1, label_comparison_fn=share_a_label, ties="stable", **CPU
    )
    scores = calculator.get_accuracy(*data)
    relevant = share_a_label(data[1][:, None], data[3][None]).any(1)
    # PML leaves queries without a relevant item out of the mean
    share = relevant.double().mean().item()
    assert scores["precision_at_1"] * share == pytest.approx(scores["hamming_precision_at_1"])
    with pytest.raises(ValueError, match="`label_comparison_fn` for PML's metrics and multi-hot"):
        HammingAccuracyCalculator(include=names, top_k=1, **CPU).get_accuracy(*data)


def test_include_and_exclude():
    calculator = HammingAccuracyCalculator(top_k=(), **CPU)
    everything = set(calculator.get_curr_metrics())
    assert not any(name.endswith("100") for name in everything)
    excluding = HammingAccuracyCalculator(top_k=(), exclude=["hamming_ndcg"], **CPU)
    assert everything - set(excluding.get_curr_metrics()) == {"hamming_ndcg"}
    calculator = HammingAccuracyCalculator(**CPU)
    scores = calculator.get_accuracy(*make_data(), include=("hamming_precision_within_radius_2",))
    assert list(scores) == calculator.get_curr_metrics() == ["hamming_precision_within_radius_2"]
    assert len(calculator.get_accuracy(*make_data())) == len(everything) + 6
    with pytest.raises(ValueError, match="Primary metrics must be one or more of"):
        HammingAccuracyCalculator(include=("mAP",), **CPU)


@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
def test_means_by_class(kind):
    data = make_data(kind)
    values = average_precision(*data)
    rows = sorted({tuple(np.atleast_1d(row)) for row in data[1].tolist()})
    expected = [
        np.mean(
            [
                v
                for v, y in zip(values.tolist(), data[1], strict=True)
                if tuple(np.atleast_1d(y)) == r
            ]
        )
        for r in rows
    ]
    name = "hamming_mean_average_precision"
    by_class = HammingAccuracyCalculator(include=(name,), return_per_class=True, **CPU)
    assert by_class.get_accuracy(*data)[name] == pytest.approx(expected)
    averaged = HammingAccuracyCalculator(include=(name,), avg_of_avgs=True, **CPU)
    assert averaged.get_accuracy(*data)[name] == pytest.approx(np.mean(expected))
    assert averaged.description() == "avg_of_avgs"
    nothing = data[0], torch.zeros_like(data[1]), data[2], torch.zeros_like(data[3]) + 1
    everything = HammingAccuracyCalculator(avg_of_avgs=True, **CPU).get_accuracy(*nothing)
    assert everything["hamming_pml_mean_average_precision"] == 0  # as PML says of no query


def test_numpy_arrays():
    data = make_data()
    calculator = HammingAccuracyCalculator(**CPU)
    assert calculator.get_accuracy(*(x.numpy() for x in data)) == calculator.get_accuracy(*data)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_can_be_copied(clone):
    data, calculator = make_data(), HammingAccuracyCalculator(**CPU)
    assert clone(calculator).get_accuracy(*data) == calculator.get_accuracy(*data)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_k": 0}, ValueError, "`top_k` of at least 1, got 0"),
        ({"top_k": (5, 1.5)}, TypeError, "`top_k` to be an integer, got 1.5"),
        ({"radius": -1}, ValueError, "`radius` of at least 0, got -1"),
        (
            {"ties": "first"},
            ValueError,
            "`ties` to be one of 'expected', .*, 'pessimistic', got 'first'",
        ),
        ({"include": "hamming_precision_at_100"}, TypeError, "must be of type tuple"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        HammingAccuracyCalculator(**CPU, **options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({0: torch.zeros(10)}, ValueError, r"`query_codes` of shape .* got \(10,\)"),
        ({0: [[1.0]]}, TypeError, "`query_codes` to be a torch.Tensor, got list"),
        ({2: torch.zeros(40, 16)}, ValueError, r"`database_codes` of shape \(batch_size, 12\)"),
        ({2: torch.full((40, 12), torch.nan)}, ValueError, "finite values in `database_codes`"),
        ({3: None}, TypeError, "`database_labels` to be a torch.Tensor, got NoneType"),
        ({1: torch.zeros(10, 2)}, ValueError, "`query_labels` and `database_labels` of the same"),
        ({1: torch.full((10,), 0.5)}, TypeError, "`query_labels` with integer class ids"),
        ({1: torch.full((10,), torch.inf)}, TypeError, "`query_labels` with integer class ids"),
        ({4: True}, ValueError, r"first 10 items of the database .* got other codes for 10 of"),
    ],
)
def test_bad_data_is_named(changes, error, message):
    data = [changes.get(i, x) for i, x in enumerate((*make_data(), False))]
    with pytest.raises(error, match=message):
        HammingAccuracyCalculator(**CPU).get_accuracy(*data)


@pytest.mark.parametrize("convert", [pack, binarize])
@pytest.mark.parametrize("flip", ["codes", "labels"])
def test_queries_must_come_first(flip, convert):
    codes, labels = -torch.ones(3, 4), torch.tensor([0, 0, 1])
    queries, query_labels = codes[:2].clone(), labels[:2].clone()
    calculator = HammingAccuracyCalculator(**CPU)
    same = convert(queries * 0.5), query_labels, convert(codes), labels, True
    assert calculator.get_accuracy(*same)["hamming_mean_average_precision"] == pytest.approx(0.75)
    if flip == "codes":
        queries[1, 0] = 1
    else:
        query_labels[1] = 1
    with pytest.raises(
        ValueError, match=rf"first 2 items .*, got other {flip} for 1 of them, .* item 1"
    ):
        calculator.get_accuracy(convert(queries), query_labels, convert(codes), labels, True)
