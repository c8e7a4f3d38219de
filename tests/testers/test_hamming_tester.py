"""HammingTester on tiny networks, alone and inside PML's trainer and hooks."""

import pytest
import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from pytorch_metric_learning.utils import logging_presets
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch.utils.data import Dataset, TensorDataset

from pml_hashing.codes import pack
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.testers import HammingTester

QUERY_VS_DATABASE = [("query", ["database"])]


def make_split(size, kind="class_ids", device="cpu"):
    shape, high = {"class_ids": ((size,), 3), "multi_hot": ((size, 4), 2)}[kind]
    return TensorDataset(torch.randn(size, 6), torch.randint(high, shape))


def make_network(code_length=12):
    return torch.nn.Linear(6, 8), torch.nn.Linear(8, code_length)


def make_tester(**kwargs):
    return HammingTester(dataloader_num_workers=0, **({"data_device": "cpu"} | kwargs))


def encode(split, trunk, embedder):
    with torch.no_grad():
        return embedder(trunk(split.tensors[0])), split.tensors[1]


@pytest.mark.parametrize("level", ["default", "all"])
@pytest.mark.parametrize(("kind", "suffix"), [("class_ids", "level0"), ("multi_hot", "levelall")])
def test_scores_queries_against_the_database(kind, suffix, level, device):
    splits = {"query": make_split(11, kind), "database": make_split(70, kind)}
    trunk, embedder = make_network()
    expected = mean_average_precision(
        *encode(splits["query"], trunk, embedder), *encode(splits["database"], trunk, embedder)
    )
    options = {} if level == "default" else {"label_hierarchy_level": level}
    tester = make_tester(data_device=device, **options)
    trunk, embedder = trunk.to(device), embedder.to(device)
    scores = tester.test(splits, 3, trunk, embedder, splits_to_eval=QUERY_VS_DATABASE)
    assert set(scores) == {"query"}
    assert scores["query"][f"hamming_mean_average_precision_{suffix}"] == pytest.approx(expected)
    assert set(scores["query"]) == {"epoch"} | {
        f"{metric}_{suffix}" for metric in tester.accuracy_calculator.get_curr_metrics()
    }
    key = tester.accuracies_keyname(
        "hamming_precision_at_100", label_hierarchy_level=tester.label_hierarchy_level
    )
    assert key in scores["query"]


@pytest.mark.parametrize(("kind", "suffix"), [("class_ids", "level0"), ("multi_hot", "levelall")])
def test_each_split_against_itself_leaves_the_query_out(kind, suffix):
    splits = {"train": make_split(9, kind), "val": make_split(20, kind)}
    network = make_network()
    scores = make_tester().test(splits, 1, *network)
    for name, split in splits.items():
        codes, labels = encode(split, *network)
        expected = mean_average_precision(codes, labels, codes, labels, query_in_database=True)
        score = scores[name][f"hamming_mean_average_precision_{suffix}"]
        assert score == pytest.approx(expected)


def test_several_reference_splits():
    splits = {"query": make_split(5), "train": make_split(9), "val": make_split(20)}
    network = make_network()
    scores = make_tester().test(
        splits, 1, *network, splits_to_eval=[("query", ["train", "query", "val"])]
    )
    parts = [encode(splits[name], *network) for name in ("query", "train", "val")]
    codes, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    expected = mean_average_precision(*parts[0], codes, labels, query_in_database=True)
    assert scores["query"]["hamming_mean_average_precision_level0"] == pytest.approx(expected)


def test_codes_are_packed_batch_by_batch(monkeypatch):
    split, network = make_split(70), make_network()
    tester = make_tester(batch_size=32)
    sizes = []

    def spy(codes):
        assert not codes.requires_grad
        sizes.append(len(codes))
        return pack(codes)

    monkeypatch.setattr("pml_hashing.testers.hamming_tester.pack", spy)
    packed_codes, labels = tester.get_all_embeddings(split, *network)
    codes, class_ids = encode(split, *network)
    assert sizes == [32, 32, 6]
    assert torch.equal(packed_codes, pack(codes))
    assert torch.equal(labels, class_ids[:, None])


def test_labels_of_one_column_are_class_ids():
    split, network = make_split(20), make_network()
    images, labels = split.tensors
    columns = TensorDataset(images, labels[:, None])
    scores = [make_tester().test({"val": x}, 1, *network)["val"] for x in (split, columns)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("levels", [1, [0, 1]], ids=str)
@pytest.mark.parametrize("lowest", [-1, 0, 2])
def test_columns_of_class_ids_are_levels(levels, lowest):
    """Of a hierarchy, as in PML: those of which a value is neither 0 nor 1."""
    splits, network = {"query": make_split(11), "database": make_split(70)}, make_network()
    data = {}
    for name, split in splits.items():
        images, fine = split.tensors
        coarse = (fine > 0).long()
        data[name] = TensorDataset(images, torch.stack([coarse, fine], dim=1) + lowest)
    tester = make_tester(label_hierarchy_level=levels)
    scores = tester.test(data, 1, *network, splits_to_eval=QUERY_VS_DATABASE)["query"]
    codes = [encode(splits[name], *network)[0] for name in splits]
    for level in levels if isinstance(levels, list) else [levels]:
        of_level = [data[name].tensors[1][:, level] for name in splits]
        expected = mean_average_precision(codes[0], of_level[0], codes[1], of_level[1])
        score = scores[f"hamming_mean_average_precision_level{level}"]
        assert score == pytest.approx(expected)
    assert "hamming_mean_average_precision_levelall" not in scores


class Indexed(Dataset):
    """Items `(x, y, index)`."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        return *self.split[index], index


class Named(Indexed):
    """Items that are dictionaries."""

    def __getitem__(self, index):
        image, label = self.split[index]
        return {"label": label, "image": image}


def test_items_may_be_longer_or_have_a_getter():
    split, network = make_split(20), make_network()
    scores = make_tester().test({"val": split}, 1, *network)
    assert make_tester().test({"val": Indexed(split)}, 1, *network) == scores
    tester = make_tester(data_and_label_getter=lambda batch: (batch["image"], batch["label"]))
    assert tester.test({"val": Named(split)}, 1, *network) == scores


def test_collate_function_and_label_map():
    split, network = make_split(20), make_network()
    scores = make_tester().test({"val": split}, 1, *network)
    reversed_items = TensorDataset(split.tensors[1] + 5, split.tensors[0])

    def collate(items):
        labels, images = zip(*items, strict=True)
        return torch.stack(images), torch.stack(labels)

    tester = make_tester(dataset_labels=split.tensors[1].numpy() + 5, set_min_label_to_zero=True)
    assert tester.test({"val": reversed_items}, 1, *network, collate_fn=collate) == scores


@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
def test_labels_as_floats(kind):
    split, network = make_split(20, kind), make_network()
    floats = TensorDataset(split.tensors[0], split.tensors[1].float())
    scores = make_tester().test({"val": split}, 1, *network)
    assert make_tester().test({"val": floats}, 1, *network) == scores


def test_visualizer_sees_binary_codes():
    seen = []

    class Visualizer:
        def fit_transform(self, codes):
            seen.append(codes)
            return codes

    split, network = make_split(20), make_network(code_length=8)
    make_tester(visualizer=Visualizer()).test({"val": split}, 1, *network)
    codes, _ = encode(split, *network)
    assert ((codes.numpy() >= 0) * 2 - 1 == seen[0]).all()


@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_hook_container_trains_tests_and_saves(kind, tmp_path):
    splits = {"query": make_split(10, kind), "database": make_split(40, kind)}
    train, (trunk, embedder) = make_split(32), make_network()
    record_keeper, _, tensorboard_writer = logging_presets.get_record_keeper(
        str(tmp_path / "csv"), str(tmp_path / "tensorboard")
    )
    metric = "hamming_mean_average_precision"
    hooks = logging_presets.get_hook_container(
        record_keeper, primary_metric=metric, validation_split_name="query"
    )
    tester = make_tester(end_of_testing_hook=hooks.end_of_testing_hook)
    trainer = MetricLossOnly(
        models={"trunk": trunk, "embedder": embedder},
        optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.1)},
        batch_size=16,
        loss_funcs={"metric_loss": TripletMarginLoss()},
        dataset=train,
        dataloader_num_workers=0,
        end_of_iteration_hook=hooks.end_of_iteration_hook,
        end_of_epoch_hook=hooks.end_of_epoch_hook(
            tester,
            splits,
            str(tmp_path / "models"),
            patience=5,
            splits_to_eval=QUERY_VS_DATABASE,
        ),
    )
    trainer.train(num_epochs=2)
    tensorboard_writer.close()
    history = hooks.get_accuracy_history(tester, "query", return_all_metrics=True)
    key = f"{metric}_level0" if kind == "class_ids" else f"{metric}_levelall"
    codes = [encode(splits[name], trunk, embedder) for name in ("query", "database")]
    assert list(history["epoch"]) == [1, 2]
    assert history[key][-1] == pytest.approx(mean_average_precision(*codes[0], *codes[1]))
    best_epoch, best = hooks.get_best_epoch_and_accuracy(tester, "query")
    assert best == max(history[key])
    assert (tmp_path / f"models/trunk_best{best_epoch}.pth").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"normalize_embeddings": True}, ValueError, "no `normalize_embeddings`, .* got True"),
        ({"pca": 4}, ValueError, "no `pca`, which changes the codes, got 4"),
        (
            {"accuracy_calculator": AccuracyCalculator(device=torch.device("cpu"))},
            TypeError,
            "to be a HammingAccuracyCalculator, .* got AccuracyCalculator",
        ),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        make_tester(**options)


def test_pml_default_options_are_admitted():
    tester = make_tester(normalize_embeddings=False, pca=None, data_and_label_getter=None)
    assert tester.accuracy_calculator.device == torch.device("cpu")


NAN = TensorDataset(torch.full((4, 6), torch.nan), torch.zeros(4, dtype=torch.long))
FRACTIONS = TensorDataset(torch.zeros(4, 6), torch.full((4, 3), 0.5))
IDS_IN_COLUMNS = TensorDataset(torch.zeros(4, 6), torch.arange(8).reshape(4, 2))


@pytest.mark.parametrize(
    ("val", "options", "message"),
    [
        (make_split(0), {}, "data set of at least one item"),
        (NAN, {}, "Expected finite values in `codes`, got NaN"),
        (FRACTIONS, {}, "class ids, or of zeros and ones, got fractions"),
        (IDS_IN_COLUMNS, {}, "multi-hot `query_labels` of zeros and ones"),
        (
            make_split(4, "multi_hot"),
            {"label_hierarchy_level": 0},
            '`label_hierarchy_level="all"` for multi-hot .* got 0 and .* columns: {.val.: 4}',
        ),
        (
            make_split(4, "multi_hot"),
            {
                "set_min_label_to_zero": True,
                "dataset_labels": torch.tensor([[0] * 4, [1] * 4]).numpy(),
            },
            "no `set_min_label_to_zero` for multi-hot labels",
        ),
    ],
    ids=["empty", "nan", "fractions", "ids", "level", "map"],
)
def test_bad_data_is_named(val, options, message):
    with pytest.raises(ValueError, match=message):
        make_tester(**options).test({"val": val}, 1, *make_network())


def test_splits_must_agree_on_the_kind_of_labels():
    splits = {"query": make_split(4), "database": make_split(4, "multi_hot")}
    with pytest.raises(ValueError, match=r"of one kind in all splits, .* 'database': 4"):
        make_tester().test(splits, 1, *make_network(), splits_to_eval=QUERY_VS_DATABASE)


@pytest.mark.parametrize(
    ("splits", "error", "message"),
    [
        ([("val", ["train"])], ValueError, "`splits_to_eval` to be one of 'val', got 'train'"),
        ([("queries", ["val"])], ValueError, "one of 'val', got 'queries'"),
        ([("val", "val")], TypeError, r"pairs such as .*, got \('val', 'val'\)"),
        (["val"], TypeError, "got 'val'"),
        (("val", ["val"]), TypeError, "got 'val'"),
    ],
)
def test_splits_that_there_are_not_are_named(splits, error, message):
    tester = HammingTester(dataloader_num_workers=0, data_device="cpu")
    data = {"val": TensorDataset(torch.randn(4, 8), torch.tensor([0, 0, 1, 1]))}
    with pytest.raises(error, match=f"^Expected .*{message}"):
        tester.test(data, 1, torch.nn.Identity(), splits_to_eval=splits)
    asked = [("val", ("val",))]
    tester.test(data, 1, torch.nn.Identity(), splits_to_eval=asked)
    assert asked == [("val", ("val",))]
