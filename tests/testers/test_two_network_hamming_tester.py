"""Asymmetric retrieval: who encodes which split."""

import pytest
import torch
from pytorch_metric_learning.utils import logging_presets
from torch import nn
from torch.utils.data import TensorDataset

from pml_hashing import AsymmetricTrainer, CodeBank, DSAHLoss
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.testers import TwoNetworkHammingTester

METRIC = "hamming_mean_average_precision"
CLASS_IDS = torch.arange(24) % 3
MULTI_HOT = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]])[CLASS_IDS]


def make_splits(labels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, len(labels), 5, generator=generator)
    return {"query": TensorDataset(images[0], labels), "database": TensorDataset(images[1], labels)}


def make_tester(*networks, **kwargs):
    return TwoNetworkHammingTester(
        *networks, dataloader_num_workers=0, data_device="cpu", batch_size=7, **kwargs
    )


def run(tester, splits, trunk, embedder=None, against=("database",)):
    scores = tester.test(splits, 1, trunk, embedder, splits_to_eval=[("query", list(against))])
    (score,) = [v for k, v in scores["query"].items() if k.startswith(f"{METRIC}_level")]
    return score


@pytest.mark.parametrize("labels", [CLASS_IDS, MULTI_HOT], ids=["class_ids", "multi_hot"])
@pytest.mark.parametrize("database", ["first", "second", "sum", "bank"])
@pytest.mark.parametrize("query", ["first", "second", "sum"])
@torch.no_grad()
def test_who_encodes_what(query, database, labels):
    first, second = (nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 9)) for _ in range(2))
    splits = make_splits(labels)
    bank = CodeBank(labels, 9)
    bank.binary_codes.copy_(torch.randn(24, 9).sign())
    tester = make_tester(*second, query=query, database=bank if database == "bank" else database)

    def codes(encoder, split):
        images = splits[split].tensors[0]
        outputs = {"first": first(images), "second": second(images)}
        outputs |= {"sum": first(images) + second(images), "bank": bank.binary_codes.float()}
        return outputs[encoder]

    expected = mean_average_precision(
        codes(query, "query"), labels, codes(database, "database"), labels
    )
    assert run(tester, splits, *first) == pytest.approx(expected)


def test_in_hooks_with_a_training_of_two_networks(tmp_path):
    torch.manual_seed(0)
    splits, bank = make_splits(CLASS_IDS), CodeBank(CLASS_IDS, 8, num_networks=2)
    splits["database"].tensors[0].add_(4 * nn.functional.one_hot(CLASS_IDS, 5))
    splits["query"].tensors[0].add_(4 * nn.functional.one_hot(CLASS_IDS, 5))
    names = ("trunk", "embedder", "database_trunk", "database_embedder")
    models = {
        name: nn.Sequential(nn.Linear(8, 8), nn.Tanh()) if "embedder" in name else nn.Linear(5, 8)
        for name in names
    }
    record_keeper, _, _ = logging_presets.get_record_keeper(tmp_path / "logs")
    hooks = logging_presets.get_hook_container(
        record_keeper, primary_metric=METRIC, validation_split_name="query"
    )
    tester = make_tester(
        models["database_trunk"],
        models["database_embedder"],
        database=bank,
        end_of_testing_hook=hooks.end_of_testing_hook,
    )
    trainer = AsymmetricTrainer(
        models | {"code_bank": bank},
        {f"{k}_optimizer": torch.optim.Adam(m.parameters(), 0.02) for k, m in models.items()},
        12,
        {"metric_loss": DSAHLoss(3, 8, code_bank=bank)},
        splits["database"],
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
        end_of_epoch_hook=hooks.end_of_epoch_hook(
            tester, splits, str(tmp_path / "models"), splits_to_eval=[("query", ["database"])]
        ),
    )
    trainer.train(num_epochs=8)
    history = hooks.get_accuracy_history(tester, "query")
    (scores,) = [v for k, v in history.items() if k.startswith(METRIC)]
    assert len(scores) == 8
    assert scores[-1] > 0.9


def test_bad_arguments_are_named():
    splits, network = make_splits(CLASS_IDS), nn.Identity()
    with pytest.raises(ValueError, match=r"`query` to be one of .* got 'third'"):
        make_tester(network, query="third")
    with pytest.raises(ValueError, match=r"`database` to be one of .* got 'third'"):
        make_tester(network, database="third")
    with pytest.raises(ValueError, match=r"split 'database' of 3 items, .* got 24"):
        run(make_tester(network, database=CodeBank(torch.arange(3), 5)), splits, network)
    with pytest.raises(ValueError, match=r"got 'query' against \['query', 'database'\]"):
        run(make_tester(network), splits, network, against=("query", "database"))
    with pytest.raises(ValueError, match="got 'query' against"):
        run(make_tester(network, database_splits="query"), splits, network)
    with pytest.raises(ValueError, match=r"got 'database' against \['database'\]"):
        make_tester(network).test(
            splits, 1, network, None, splits_to_eval=[("database", ["database"])]
        )


@torch.no_grad()
def test_databases_have_names():
    splits, network, other = make_splits(CLASS_IDS), nn.Linear(5, 9), nn.Linear(5, 9)
    scores = []
    for names in ("database", ("gallery",), ["database", "gallery"]):
        tester = make_tester(other, query="first", database="second", database_splits=names)
        name = names if isinstance(names, str) else names[-1]
        of_names = {"query": splits["query"], name: splits["database"]}
        scores.append(run(tester, of_names, network, against=(name,)))
    (queries, labels), (images, _) = (splits[name].tensors for name in ("query", "database"))
    expected = mean_average_precision(network(queries), labels, other(images), labels)
    assert scores == pytest.approx([expected] * 3)
