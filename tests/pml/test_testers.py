"""Our tester and calculator where PML has its own: splits, levels, streams, metrics of a user."""

import copy

import pytest
import torch
from pytorch_metric_learning import testers
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import nn
from torch.utils.data import TensorDataset

from pml_hashing.codes import unpack
from pml_hashing.evaluation import HammingAccuracyCalculator, mean_average_precision
from pml_hashing.search import HammingKNN
from pml_hashing.testers import HammingTester

COMMON = {"data_device": torch.device("cpu"), "dataloader_num_workers": 0}
METRIC = "hamming_mean_average_precision"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


def make_splits(num_levels=1):
    """Return two splits whose labels have some levels: 6 classes, in 3 groups."""
    splits = {}
    for name, size in (("train", 30), ("val", 20)):
        labels = torch.arange(size) % 6
        labels = torch.stack([labels, labels // 2], dim=1)[:, :num_levels]
        splits[name] = TensorDataset(torch.randn(size, 12), labels.squeeze(1))
    return splits


def expected_score(splits, query, references, level=None):
    def labels_of(name):
        labels = splits[name].tensors[1]
        return labels if level is None else labels[:, level]

    order = [query] * (query in references) + [name for name in references if name != query]
    images = torch.cat([splits[name].tensors[0] for name in order])
    labels = torch.cat([labels_of(name) for name in order])
    own = query in references
    return mean_average_precision(
        splits[query].tensors[0], labels_of(query), images, labels, query_in_database=own
    )


@pytest.mark.parametrize(
    "asked",
    [
        None,
        [("train", ["train", "val"]), ("val", ["train", "val"])],
        [("train", ["train"]), ("val", ["train"])],
    ],
)
def test_splits(asked):
    splits, seen = make_splits(), {}

    def hook(tester):
        seen["codes"] = {name: c.shape for name, (c, _) in tester.embeddings_and_labels.items()}
        seen["accuracies"] = copy.deepcopy(tester.all_accuracies)

    tester = HammingTester(end_of_testing_hook=hook, **COMMON)
    found = tester.test(splits, 3, nn.Identity(), splits_to_eval=copy.deepcopy(asked))
    for query, references in asked or [("train", ["train"]), ("val", ["val"])]:
        expected = expected_score(splits, query, references)
        assert found[query][f"{METRIC}_level0"] == pytest.approx(expected)
        assert found[query]["epoch"] == 3
    assert seen == {"codes": {"train": (30, 2), "val": (20, 2)}, "accuracies": found}
    assert not hasattr(tester, "embeddings_and_labels")
    with pytest.raises(AssertionError, match="more than once"):
        tester.test(splits, 3, nn.Identity(), splits_to_eval=[("val", ["val"])] * 2)


@pytest.mark.parametrize("level", [0, 1, [0, 1], [1]])
def test_columns_of_class_ids_are_levels(level):
    splits = make_splits(num_levels=2)
    tester = HammingTester(label_hierarchy_level=level, **COMMON)
    against = [("val", ["train"])]
    scores = tester.test(splits, 1, nn.Identity(), splits_to_eval=against)["val"]
    levels = [level] if isinstance(level, int) else level
    expected = {i: expected_score(splits, "val", ["train"], i) for i in levels}
    for i, score in expected.items():
        assert scores[f"{METRIC}_level{i}"] == pytest.approx(score)
    if len(levels) > 1:
        mean = sum(expected.values()) / len(levels)
        assert scores[f"AVERAGE_{METRIC}"] == pytest.approx(mean)
    theirs = testers.GlobalEmbeddingSpaceTester(
        label_hierarchy_level=level,
        normalize_embeddings=False,
        accuracy_calculator=HammingAccuracyCalculator(device="cpu"),
        **COMMON,
    )
    assert theirs.test(splits, 1, nn.Identity(), splits_to_eval=against)["val"] == scores


def test_levels_within_a_parent():
    splits = make_splits(num_levels=2)
    tester = testers.WithSameParentLabelTester(
        normalize_embeddings=False,
        accuracy_calculator=HammingAccuracyCalculator((METRIC,), device="cpu"),
        **COMMON,
    )
    scores = tester.test(splits, 1, nn.Identity())["val"]
    images, labels = splits["val"].tensors
    parts = [labels[:, 1] == parent for parent in range(3)]
    expected = [
        mean_average_precision(*[images[p], labels[p, 0]] * 2, query_in_database=True)
        for p in parts
    ]
    assert scores[f"{METRIC}_level0"] == pytest.approx(sum(expected) / 3)


def test_two_streams():
    """PML's tester makes class ids floats."""
    first, second, labels = torch.randn(20, 12), torch.randn(20, 12), torch.arange(20) % 3
    tester = testers.GlobalTwoStreamEmbeddingSpaceTester(
        normalize_embeddings=False,
        accuracy_calculator=HammingAccuracyCalculator((METRIC,), device="cpu"),
        **COMMON,
    )
    data = {"val": TensorDataset(first, second, labels)}
    scores = tester.test(data, 1, nn.Identity(), nn.Identity())["val"]
    expected = mean_average_precision(first, labels, second, labels)
    assert scores[f"{METRIC}_level0"] == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_networks_and_their_codes(dtype):
    """The trunk's codes, another dtype, evaluation mode, arrays: as in PML's tester."""
    trunk, embedder = nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9)), nn.Linear(9, 4)
    if dtype is not None:
        trunk, embedder = trunk.to(dtype), embedder.to(dtype)
    data = make_splits()["val"]
    images = data.tensors[0].to(dtype or torch.float32)
    for use_trunk_output, length in ((True, 9), (False, 4)):
        tester = HammingTester(use_trunk_output=use_trunk_output, dtype=dtype, **COMMON)
        trunk.train()
        codes, labels = tester.get_all_embeddings(data, trunk, embedder)
        assert not trunk.training
        with torch.no_grad():
            expected = trunk(images) if use_trunk_output else embedder(trunk(images))
        assert torch.equal(unpack(codes)[:, :length] > 0, expected >= 0)
        arrays = tester.get_all_embeddings(data, trunk, embedder, return_as_numpy=True)
        assert [a.tolist() for a in arrays] == [codes.tolist(), labels.tolist()]
        assert ("_trunk_" in tester.description_suffixes("accuracies")) == use_trunk_output


class WithFirst(HammingAccuracyCalculator):
    """Adds metrics as PML has it: one by neighbours, one of the codes alone."""

    def calculate_first(self, knn_labels, query_labels, **kwargs):
        return (knn_labels[:, 0] == query_labels).float().mean().item()

    def calculate_hamming_bits(self, query, **kwargs):
        return float(query.shape[1])

    def requires_knn(self):
        return [*super().requires_knn(), "first"]


def test_metrics_of_a_user():
    codes, labels = torch.randn(30, 12), torch.arange(30) % 3
    default = HammingAccuracyCalculator(device="cpu")
    calculator = WithFirst(device="cpu", k=3, knn_func=HammingKNN())
    names = ["first", "hamming_bits"]
    assert sorted({*calculator.get_curr_metrics()} - {*default.get_curr_metrics()}) == names
    scores = calculator.get_accuracy(codes, labels)
    _, places = HammingKNN()(codes, 1, codes, True)
    assert scores["first"] == pytest.approx((labels[places[:, 0]] == labels).float().mean().item())
    assert scores["hamming_bits"] == 12
    assert {k: scores[k] for k in default.get_curr_metrics()} == default.get_accuracy(codes, labels)
    assert WithFirst(("first",), device="cpu").get_curr_metrics() == ["first"]
    assert "first" not in WithFirst(exclude=("first",), device="cpu").get_curr_metrics()


@pytest.mark.parametrize(
    "options",
    [{}, {"k": 3}, {"k": "max_bin_count"}, {"avg_of_avgs": True}, {"return_per_class": True}],
)
def test_metrics_of_pml_are_those_of_pml(options):
    """On binary codes without ties, which both rank alike."""
    reference = torch.where(torch.arange(16) < torch.arange(17)[:, None], 1.0, -1.0)
    labels, query = torch.arange(17) % 3, torch.ones(3, 16)
    include = ("precision_at_1", "mean_average_precision", "mean_reciprocal_rank")
    shared = {"include": include, "device": torch.device("cpu"), "knn_func": HammingKNN()} | options
    data = query, torch.arange(3), reference, labels
    ours, theirs = (kind(**shared) for kind in (HammingAccuracyCalculator, AccuracyCalculator))
    assert ours.get_accuracy(*data) == theirs.get_accuracy(*data)
    assert ours.description() == theirs.description()
    subset = {"include": ("precision_at_1",)}
    assert ours.get_accuracy(*data, **subset) == theirs.get_accuracy(*data, **subset)
    floats = query, torch.arange(3.0), reference, labels.double()
    assert ours.get_accuracy(*floats) == theirs.get_accuracy(*floats)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be an integer greater than 0"),
        ({"k": "all"}, "k must be an integer greater than 0"),
        ({"avg_of_avgs": True, "return_per_class": True}, "mutually exclusive"),
        ({"include": ("nothing",)}, "must be one or more of"),
    ],
)
def test_options_that_pml_refuses(options, message):
    for kind in (HammingAccuracyCalculator, AccuracyCalculator):
        with pytest.raises(ValueError, match=message):
            kind(device=torch.device("cpu"), **options)
