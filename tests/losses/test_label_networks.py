"""Networks of labels: their fit, their place in a loss and in the trainers, and their cost."""

import copy

import pytest
import torch
from loops import LABELS, as_arguments, layers_of, make_codes, rows_of, terms_of
from pytorch_metric_learning.trainers import MetricLossOnly
from test_objectives import CASES
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pml_hashing import CodeBank, losses
from pml_hashing.codes import binarize
from pml_hashing.label_rows import LabelRows
from pml_hashing.losses.terms import LabelNetwork, label_network
from pml_hashing.losses.terms.label_network import codes_of_groups
from pml_hashing.trainers import AsymmetricTrainer

NAMES = ["ADSQLoss", "DSAHALoss"]


def make_network(num_classes, code_length, widths=(64, 32), fit_steps=30, seed=0):
    return LabelNetwork(
        num_classes,
        code_length,
        widths,
        fit_steps,
        seed,
        quantization=0.005,
        reconstruction=nn.functional.mse_loss,
    )


def mean_loss(network, labels, counts):
    values = network.losses(network(labels), labels, counts)
    return (values * counts).sum() / counts.sum()


def weights_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.fixture(params=NAMES)
def loss_class(request):
    return getattr(losses, request.param)


@pytest.mark.parametrize(
    ("num_classes", "code_length", "widths"),
    [(10, 12, (4096, 512)), (10, 48, (64, 32)), (100, 32, (64, 32)), (3, 4, (24, 12)), (2, 8, ())],
)
def test_fitted_networks_give_every_class_a_code_of_its_own(num_classes, code_length, widths):
    network, counts = make_network(num_classes, code_length, widths), torch.ones(num_classes)
    labels = torch.arange(num_classes)
    before = mean_loss(network, labels, counts)
    network.fit(labels, counts)
    assert mean_loss(network, labels, counts) < before
    assert len(binarize(network(labels)).unique(dim=0)) == num_classes


def test_class_ids_need_no_rows_of_zeros_and_ones():
    labels, network = torch.tensor([2, 0, 2]), make_network(3, 4, (6,)).double()
    nn.init.normal_(network.layers["layer_0"].bias)
    rows, counts = nn.functional.one_hot(labels, 3), torch.ones(3)
    for of_labels in (network.forward, lambda some: network.losses(network(some), some, counts)):
        values = of_labels(labels), of_labels(rows)
        slopes = [
            torch.autograd.grad(v.sum(), network.parameters(), allow_unused=True) for v in values
        ]
        assert torch.equal(*values)
        for of_ids, of_rows in zip(*slopes, strict=True):
            assert (of_ids is None) == (of_rows is None)
            if of_ids is not None:
                assert_close(of_ids, of_rows, rtol=0, atol=1e-15)
    many = make_network(2**20, 4, (2,))
    assert many(torch.arange(2**15)).shape == (2**15, 4)  # their rows would take 128 GiB


def test_fit_weighs_labels_by_how_many_samples_have_them():
    """Equal to a fit in which every sample is a label of its own."""
    labels, counts = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0]]), torch.tensor([1.0, 5.0, 2.0])
    by_count, one_by_one, unweighted = (make_network(3, 4) for _ in range(3))
    by_count.fit(labels, counts)
    one_by_one.fit(labels.repeat_interleave(counts.long(), dim=0), torch.ones(8))
    unweighted.fit(labels, torch.ones(3))
    assert_close(weights_of(by_count), weights_of(one_by_one), rtol=1e-3, atol=1e-4)
    assert (weights_of(by_count) - weights_of(unweighted)).abs().max() > 1e-3


def test_fit_draws_from_many_labels_by_how_many_samples_have_them(monkeypatch):
    monkeypatch.setattr(label_network, "LABELS_OF_A_STEP", 8)
    labels, counts = torch.arange(20), torch.ones(20)
    counts[3] = 1000.0
    batches = list(label_network._batches(labels, counts, 10, 0))
    drawn = torch.cat([some for some, _ in batches])
    assert [len(some) for some, _ in batches] == [8] * 10
    assert (drawn == 3).float().mean() > 0.9
    assert all((weights == 1).all() for _, weights in batches)
    first, second, other = make_network(20, 8), make_network(20, 8), make_network(20, 8)
    torch.manual_seed(1)
    first.fit(labels, counts)
    second.fit(labels, counts)
    other.seed = 1
    other.fit(labels, counts)
    assert torch.equal(weights_of(first), weights_of(second))
    assert not torch.equal(weights_of(first), weights_of(other))


def test_fit_of_no_steps_and_of_frozen_networks(monkeypatch):
    network = make_network(300, 4, fit_steps=0)
    before = weights_of(network)
    network.fit(torch.arange(300), torch.ones(300))
    with monkeypatch.context() as patched:
        patched.setattr(LabelRows, "dense", None)  # no table of all labels is made
        network.fit(LabelRows.of(torch.eye(300).long()), torch.ones(300))
    assert torch.equal(weights_of(network), before)
    network.fit_steps = 1
    network.requires_grad_(False)
    with torch.no_grad():
        network.fit(torch.arange(300), torch.ones(300))
    assert not torch.equal(weights_of(network), before)
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


def test_seed_decides_the_network(loss_class):
    first, second, other = (
        loss_class(3, 4, label_widths=(6, 5), fit_steps=2, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(weights_of(first.label_network), weights_of(second.label_network))
    assert not torch.equal(weights_of(first.label_network), weights_of(other.label_network))


def test_learned_codes_start_from_the_codes_of_labels(loss_class):
    labels = LABELS["multi_hot"]
    bank = CodeBank(labels, 8)
    loss_func = loss_class(3, 8, label_widths=(24, 12), code_bank=bank)
    before = weights_of(loss_func.label_network)
    loss_func(torch.randn(2, 8), sample_indices=torch.tensor([0, 1]))
    after = weights_of(loss_func.label_network)
    assert not torch.equal(before, after)
    assert_close(bank.binary_codes.float(), binarize(loss_func.label_network(labels)).detach())
    loss_func(torch.randn(2, 8), sample_indices=torch.tensor([0, 1]))
    assert torch.equal(weights_of(loss_func.label_network), after)
    assert all(p.grad is None for p in loss_func.label_network.parameters())


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("paper", ["adsq", "dsaha"])
def test_batch_smaller_than_the_labels_is_held_against_its_own(paper, labels):
    case, rows = CASES[paper], torch.tensor([3, 5])
    loss_func, codes = case.make_bank(labels, **case.weights)
    found = terms_of(loss_func, [codes[0][rows]], None, sample_indices=rows)
    layers, learned = layers_of(loss_func.label_network), loss_func.code_bank.binary_codes[rows]
    some = rows_of(labels)[3], rows_of(labels)[5]
    expected = case.reference(
        [codes[0][rows].tolist()], learned.tolist(), layers, some, **case.weights
    )
    for name in ("guidance_loss", "agreement_loss", "label_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("paper", ["adsq", "dsaha"])
def test_gradient_of_the_network_of_labels(paper, labels):
    case = CASES[paper]
    loss_func = case.make_loss(**case.weights).double()
    codes = make_codes(num_networks=2, dtype=torch.float64)
    names, values = zip(*loss_func.named_parameters(), strict=True)
    values = [v.detach().clone().requires_grad_() for v in values]

    def loss_of(*values):
        arguments = (codes[0], labels, None, codes[1])
        return torch.func.functional_call(
            loss_func, dict(zip(names, values, strict=True)), arguments
        )

    assert torch.autograd.gradcheck(loss_of, values)
    assert all(v.abs().sum() > 0 for v in torch.autograd.grad(loss_of(*values), values))


def test_frozen_networks_of_labels_still_lead(loss_class):
    loss_func = loss_class(3, 4, label_widths=(6, 5))
    loss_func.label_network.requires_grad_(False)
    codes = make_codes()[0].requires_grad_()
    loss_func(codes, LABELS["class_ids"]).backward()
    assert codes.grad.abs().sum() > 0


def test_agreement_draws_learned_codes_to_those_of_labels(loss_class):
    """With a weight that outdoes all others, these are their signs."""
    labels = LABELS["class_ids"]
    for mu, equal in ((0.0, False), (1e4, True)):
        bank = CodeBank(labels, 8)
        loss_func = loss_class(
            3,
            8,
            label_widths=(24, 12),
            quantization_weight=5.0,
            agreement_weight=mu,
            code_bank=bank,
        )
        loss_func(4 * torch.randn(6, 8), sample_indices=torch.arange(6))
        loss_func.update_codes()
        wanted = binarize(codes_of_groups(loss_func.label_network, bank))[bank.groups]
        assert torch.equal(bank.binary_codes.float(), wanted) == equal


def make_training(loss_func, images, labels):
    torch.manual_seed(0)
    models = {
        "trunk": nn.Sequential(nn.Linear(images.shape[1], 12), nn.ReLU()),
        "embedder": nn.Sequential(nn.Linear(12, 8), nn.Tanh()),
    }
    optimizers = {
        f"{k}_optimizer": torch.optim.Adam(m.parameters(), 0.01) for k, m in models.items()
    }
    # --8<-- [start:optimizer]
    optimizers["metric_loss_optimizer"] = torch.optim.Adam(loss_func.parameters(), 1e-3)
    # --8<-- [end:optimizer]
    trainer_class = MetricLossOnly
    if loss_func.code_bank is not None:
        models["code_bank"], trainer_class = loss_func.code_bank, AsymmetricTrainer
    return trainer_class(
        models=models,
        optimizers=optimizers,
        batch_size=17,
        loss_funcs={"metric_loss": loss_func},
        dataset=TensorDataset(images, labels),
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
    )


CLASS_IDS = torch.arange(34) % 3
TRAINED = {
    "class_ids": CLASS_IDS,
    "multi_hot": torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]])[CLASS_IDS],
}


@pytest.mark.parametrize(
    ("kind", "with_bank"), [("class_ids", 0), ("class_ids", 1), ("multi_hot", 1)]
)
def test_optimizer_of_the_loss_trains_the_network_of_labels(loss_class, kind, with_bank):
    images, labels = torch.randn(34, 5) + 3 * nn.functional.one_hot(CLASS_IDS, 5), TRAINED[kind]
    bank = CodeBank(labels, 8) if with_bank else None
    loss_func = loss_class(3, 8, label_widths=(24, 12), code_bank=bank)
    trainer = make_training(loss_func, images, labels)
    trainer.train(num_epochs=1)  # the fit is over
    before, weights = terms_after(loss_func, images, labels, trainer), weights_of(loss_func)
    trainer.train(2, 15)
    assert not torch.equal(weights_of(loss_func), weights)
    assert terms_after(loss_func, images, labels, trainer)["label_loss"] < before["label_loss"]


def terms_after(loss_func, images, labels, trainer):
    with torch.no_grad():
        codes = trainer.models["embedder"](trainer.models["trunk"](images))
    rows = None if loss_func.code_bank is None else torch.arange(34)
    return terms_of(loss_func, [codes], labels, sample_indices=rows)


def test_training_goes_on_from_saved_states_bit_for_bit(loss_class):
    images, labels = torch.randn(34, 5), TRAINED["multi_hot"]

    def start():
        bank = CodeBank(labels, 8)
        loss_func = loss_class(3, 8, label_widths=(24, 12), code_bank=bank)
        return make_training(loss_func, images, labels)

    whole, first, second = start(), start(), start()
    whole.train(num_epochs=4)
    first.train(num_epochs=2)
    for old, new in zip(parts_of(first), parts_of(second), strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    second.train(3, 4)
    for one, other in zip(parts_of(whole)[:4], parts_of(second)[:4], strict=True):
        for name, value in one.state_dict().items():
            assert name.endswith("extra_state") or torch.equal(value, other.state_dict()[name])


def parts_of(trainer):
    return [*trainer.models.values(), *trainer.loss_funcs.values(), *trainer.optimizers.values()]


def test_value_under_bfloat16(loss_class):
    codes, labels = make_codes(), LABELS["multi_hot"]
    loss_func = loss_class(3, 4, label_widths=(24, 12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_func(*codes, labels)
    assert_close(loss, loss_func(*codes, labels), rtol=0, atol=0)


def test_pairs_are_with_labels_and_not_with_samples(loss_class, monkeypatch):
    """Of 1,000 samples with three labels, three are coded, in one go."""
    seen, forward = [], LabelNetwork.forward
    monkeypatch.setattr(
        LabelNetwork, "forward", lambda self, x: seen.append(len(x)) or forward(self, x)
    )
    labels = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]])[torch.arange(1000) % 3]
    loss_func = loss_class(3, 8, label_widths=(6,), code_bank=CodeBank(labels, 8))
    loss_func(**as_arguments(make_codes(100, 8)), sample_indices=torch.arange(100))
    loss_func.update_codes()
    assert set(seen) == {3}
