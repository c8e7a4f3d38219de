"""What every loss with a code bank must do, checked on all in `pml_hashing.losses.__all__`."""

import inspect

import pytest
import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from pytorch_metric_learning.utils import common_functions
from record_keeper import RecordKeeper
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pml_hashing import CodeBank, losses
from pml_hashing.codes import hamming_distance
from pml_hashing.pairs import similarity
from pml_hashing.trainers import AsymmetricTrainer

NAMES = [
    name
    for name in losses.__all__
    if "code_bank" in inspect.signature(getattr(losses, name)).parameters and name != "DiscreteLoss"
]
LED_BY_LABELS = [
    name for name in NAMES if "label_widths" in inspect.signature(getattr(losses, name)).parameters
]
CLASS_IDS = torch.arange(34) % 3
LABELS = {
    "class_ids": CLASS_IDS,
    "multi_hot": torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]])[CLASS_IDS],
}


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


def make_loss(name, labels=None, num_networks=1):
    """Return a loss by its defaults, with a bank where there are labels."""
    loss_class, options = getattr(losses, name), {}
    if name in LED_BY_LABELS:
        options["label_widths"] = (24, 12)
    if labels is not None:
        options["code_bank"] = CodeBank(labels, 8, num_networks=num_networks)
    return loss_class(num_classes=3, code_length=8, **options)


def as_arguments(codes):
    return {"embeddings": codes[0], **({"ref_emb": codes[1]} if len(codes) == 2 else {})}


def make_codes(n, num_networks):
    return [torch.tanh(torch.randn(n, 8)) for _ in range(num_networks)]


def make_network(images):
    body = nn.Sequential(nn.Linear(images.shape[1], 12), nn.ReLU())
    return body, nn.Sequential(nn.Linear(12, 8), nn.Tanh())


def make_images():
    return torch.randn(34, 5) + 3 * nn.functional.one_hot(CLASS_IDS, 5)


def train(loss_func, labels, num_networks=1, num_epochs=12, **more_optimizers):
    images, bank = make_images(), loss_func.code_bank
    models = dict(zip(("trunk", "embedder"), make_network(images), strict=True))
    if num_networks == 2:
        models["database_trunk"], models["database_embedder"] = make_network(images)
    optimizers = {
        f"{name}_optimizer": torch.optim.Adam(model.parameters(), 0.01)
        for name, model in models.items()
    }
    AsymmetricTrainer(
        models=models | {"code_bank": bank},
        optimizers=optimizers | more_optimizers,
        loss_funcs={"metric_loss": loss_func},
        batch_size=17,
        dataset=TensorDataset(images, labels),
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
    ).train(num_epochs=num_epochs)
    trained = [[models["trunk"], models["embedder"]]]
    if num_networks == 2:
        trained.append([models["database_trunk"], models["database_embedder"]])
    return [embedder(trunk(images)).detach() for trunk, embedder in trained]


GAPS = {"DAPHLoss": 0.5}
"""Least gain in bits. DAPH's codes follow its networks, not labels: of few samples, few bits do."""


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_learns_codes_in_the_asymmetric_trainer(name, labels, num_networks):
    loss_func = make_loss(name, labels, num_networks)
    similar = similarity(labels, labels)
    for codes in train(loss_func, labels, num_networks):
        distances = hamming_distance(codes, loss_func.code_bank.binary_codes.float())
        within, between = distances[similar].float().mean(), distances[~similar].float().mean()
        assert between > within + GAPS.get(name, 2)


@pytest.mark.parametrize("name", NAMES)
def test_works_in_the_trainer_of_pml(name):
    images = make_images()
    loss_func = make_loss(name)
    trunk, embedder = make_network(images)
    first = loss_func(embedder(trunk(images)), CLASS_IDS).item()
    MetricLossOnly(
        models={"trunk": trunk, "embedder": embedder},
        optimizers={
            "trunk_optimizer": torch.optim.Adam(trunk.parameters(), 0.01),
            "embedder_optimizer": torch.optim.Adam(embedder.parameters(), 0.01),
        },
        batch_size=17,
        loss_funcs={"metric_loss": loss_func},
        dataset=TensorDataset(images, CLASS_IDS),
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
    ).train(num_epochs=10)
    assert loss_func(embedder(trunk(images)), CLASS_IDS).item() < first


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_restored_bank_goes_on_as_the_old_one(name, labels, num_networks):
    loss_func, other = (make_loss(name, labels, num_networks) for _ in range(2))
    codes = make_codes(34, num_networks)
    loss_func(**as_arguments(codes), sample_indices=torch.arange(34))
    loss_func.update_codes()
    other.code_bank.load_state_dict(loss_func.code_bank.state_dict())
    other.load_state_dict(loss_func.state_dict())
    rows, codes = torch.tensor([5, 0, 33]), make_codes(3, num_networks)
    values = [f(**as_arguments(codes), sample_indices=rows) for f in (loss_func, other)]
    assert_close(*values, rtol=0, atol=0)
    assert loss_func.update_codes() == other.update_codes()
    for key, value in loss_func.code_bank.state_dict().items():
        assert key.endswith("extra_state") or torch.equal(value, other.code_bank.state_dict()[key])


@pytest.mark.parametrize("name", NAMES)
def test_hooks_do_not_record_the_bank(name):
    """Record-keeper makes a list of every tensor it finds, at every logged step."""

    class Writer:
        def append(self, group_name, series_name, value, iteration):
            seen.append((group_name, getattr(value, "shape", ())))

    seen, loss_func = [], make_loss(name, CLASS_IDS)
    keeper = RecordKeeper(
        None, Writer(), common_functions.list_of_recordable_attributes_list_names()
    )
    keeper.update_records({"metric_loss": loss_func}, 0, recursive_types=[nn.Module, dict])
    assert [group for group, _ in seen if name in group]
    assert not [group for group, shape in seen if "CodeBank" in group or 34 in shape]


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_mode_remembers_nothing(name):
    loss_func, rows = make_loss(name, CLASS_IDS), torch.arange(34)
    (codes,) = make_codes(34, 1)
    loss_func(codes, sample_indices=rows)
    loss_func.eval()
    loss_func(torch.zeros(34, 8), sample_indices=rows)
    assert_close(loss_func.code_bank.query_codes, codes)


@pytest.mark.parametrize("name", NAMES)
def test_discrete_step_is_exact_under_autocast(name):
    codes, results = make_codes(34, 1)[0], []
    for enabled in (False, True):
        loss_func = make_loss(name, CLASS_IDS)
        loss_func(codes, sample_indices=torch.arange(34))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append((loss_func.update_codes(), loss_func.code_bank.binary_codes))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", NAMES)
def test_order_of_bank_and_batch_does_not_matter(name, labels):
    """Samples in another order give the same codes and losses: ties alone could break this."""
    codes, order = make_codes(34, 1)[0], torch.randperm(34)
    first, second = make_loss(name, labels), make_loss(name, labels[order])
    rows = torch.arange(34)
    first(codes, sample_indices=rows)
    second(codes[order], sample_indices=rows)
    assert list(first.update_codes()) == pytest.approx(list(second.update_codes()), rel=1e-5)
    assert_close(first.code_bank.binary_codes[order], second.code_bank.binary_codes)
    some, places = codes[:5] / 2, torch.arange(5)
    elsewhere = order.argsort()[:5]
    assert_close(
        first(some, sample_indices=places), second(some.flip(0), sample_indices=elsewhere.flip(0))
    )
