"""Class codes that are assigned before the first round: one pass, which changes nothing else."""

import logging

import pytest
import torch
from pytorch_metric_learning.losses import MultipleLosses
from torch import nn
from torch.testing import assert_close
from torch.utils.data import Dataset

from pml_hashing import CodeBank, DSAHLoss, HashingModel, TwoNetworkHashingModel
from pml_hashing.centers import assigned_codes
from pml_hashing.losses import CSQLoss, DHNLoss
from pml_hashing.models import HashLayer
from pml_hashing.trainers import AsymmetricTrainer, Engine

CLASS_IDS = torch.arange(60) % 6
MULTI_HOT = torch.eye(6, dtype=torch.long)[CLASS_IDS] | (
    torch.eye(6, dtype=torch.long)[(CLASS_IDS + 1) % 6] * (torch.arange(60) % 3 == 0)[:, None]
)


class Data(Dataset):
    """Images of classes that come in pairs, with noise that is drawn anew in every access."""

    def __init__(self, labels=CLASS_IDS, noise=0.1):
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(3, 5, generator=generator).repeat_interleave(2, dim=0) * 3
        means += torch.randn(6, 5, generator=generator)
        self.images, self.labels, self.noise = means[CLASS_IDS], labels, noise
        self.seen = []

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.seen.append(index)
        return self.images[index] + self.noise * torch.randn(5), self.labels[index]


class Trunk(nn.Module):
    """Features, with dropout, that remembers in which mode it was called."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(0.2))
        self.modes = []

    def forward(self, images):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.layers(images)


def make_model():
    return HashingModel(Trunk(), 12, num_features=16)


def make_engine(loss_func=None, networks=None, dataset=None, **options):
    torch.manual_seed(0)
    networks = [make_model()] if networks is None else networks
    dataset = Data() if dataset is None else dataset
    if loss_func is None:
        bank = CodeBank(dataset.labels, 12, num_networks=len(networks))
        loss_func = DSAHLoss(6, 12, code_bank=bank)
    parameters = [p for network in networks for p in network.parameters()]
    return Engine(networks, loss_func, torch.optim.Adam(parameters), dataset, 16, **options)


def weights_of(engine):
    return torch.cat([p.detach().flatten() for p in engine.parts.parameters()])


def loss_of(engine):
    return engine.parts.loss_funcs["metric_loss"]


@pytest.mark.parametrize("labels", [CLASS_IDS, MULTI_HOT], ids=["class_ids", "multi_hot"])
@pytest.mark.parametrize("num_networks", [1, 2])
def test_one_pass_of_the_trunk_before_the_first_round(labels, num_networks):
    dataset = Data(labels, noise=0)
    torch.manual_seed(0)
    networks = [make_model() for _ in range(num_networks)]
    with torch.no_grad():
        features = networks[0].eval().trunk(dataset.images)
    networks[0].train()
    networks[0].trunk.modes.clear()
    engine = make_engine(networks=networks, dataset=dataset)
    engine.fit(1)
    assert sorted(dataset.seen[:60]) == [*range(60)]
    assert len(dataset.seen) == 120
    modes = networks[0].trunk.modes
    assert (modes[:4], modes[4:]) == ([(False, False)] * 4, [(True, True)] * 4)
    codes = assigned_codes(features, labels, 6, 12)
    assert_close(loss_of(engine).class_codes[:6], codes)
    engine.fit(2)
    assert len(dataset.seen) == 180


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_is_that_from_codes_given_by_hand(num_workers):
    engine = make_engine(num_workers=num_workers)
    engine.fit(2)
    codes = loss_of(engine).class_codes[:6]
    by_hand = DSAHLoss(6, 12, class_codes=codes, code_bank=CodeBank(CLASS_IDS, 12))
    with torch.no_grad():  # of several labels, which there are none of here
        by_hand.class_codes[6] = loss_of(engine).class_codes[6]
    expected = make_engine(by_hand, num_workers=num_workers)
    expected.fit(2)
    assert torch.equal(weights_of(engine), weights_of(expected))
    spread = make_engine(DSAHLoss(6, 12, class_codes="spread", code_bank=CodeBank(CLASS_IDS, 12)))
    spread.fit(2)
    assert not torch.equal(weights_of(engine), weights_of(spread))


def test_the_pass_leaves_random_numbers_and_modes_as_they_were():
    engine = make_engine()
    network = engine.parts.networks["network"]
    network.trunk.layers[2].eval()
    with engine._started(1, 1):
        before = torch.get_rng_state()
        engine._assign_class_codes()
        assert torch.equal(torch.get_rng_state(), before)
    loss_of(engine).assignment.is_made.fill_(False)
    with engine._loader.workers():
        modes = [module.training for module in network.modules()]
        before = torch.get_rng_state()
        engine._assign_class_codes()
        assert torch.equal(torch.get_rng_state(), before)
        assert [module.training for module in network.modules()] == modes


class KilledError(Exception):
    pass


@pytest.mark.parametrize("fatal_step", [1, 5])
def test_a_resumed_training_does_not_pass_again(tmp_path, fatal_step):
    whole = make_engine()
    whole.fit(3)

    def die(engine):
        if engine.global_step == fatal_step:
            raise KilledError

    killed = make_engine(checkpoint_folder=tmp_path, checkpoint_every=1)
    with pytest.raises(KilledError):
        killed.fit(3, on_step=die)
    resumed = make_engine(dataset=(dataset := Data()), checkpoint_folder=tmp_path)
    with torch.no_grad():  # from which a second pass would make other codes
        resumed.parts.parameters()[0].neg_()
    assert resumed.resume() == 1 + fatal_step // 4
    resumed.fit(3)
    assert len(dataset.seen) == 60 * 3 - 15 * fatal_step
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert torch.equal(loss_of(resumed).class_codes, loss_of(whole).class_codes)


@pytest.mark.parametrize(
    "network",
    [nn.Sequential(nn.Linear(5, 12), nn.Tanh()), nn.Linear(5, 12)],
    ids=["head alone", "layer"],
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_without_a_trunk_codes_stay_as_they_are(network, num_workers, caplog):
    engine = make_engine(networks=[network], num_workers=num_workers)
    before = loss_of(engine).class_codes.clone()
    with caplog.at_level(logging.INFO, "pml_hashing"):
        engine.fit(1)
    assert_close(loss_of(engine).class_codes, before)
    assert "Class codes were not assigned" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "pml_hashing"):
        make_engine(CSQLoss(6, 12), [make_model()]).fit(1)
    assert not caplog.text


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(
            nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Tanh()
        ),
        nn.Sequential(nn.Linear(5, 16), HashLayer(16, 12)),
        nn.Sequential(nn.Linear(5, 16), nn.Sequential(nn.Linear(16, 12), nn.Tanh())),
    ],
    ids=["layers", "hash layer", "embedder"],
)
def test_the_trunk_of_a_sequence(network):
    engine = make_engine(networks=[network])
    before = loss_of(engine).class_codes.clone()
    with torch.no_grad():
        assert engine.compute_features(torch.randn(3, 5)).shape == (3, 16)
    engine.fit(1)
    assert (loss_of(engine).class_codes != before).any()


def test_a_loss_within_others_and_one_of_ones_own():
    class Own(nn.Module):
        num_classes, wants_features = 6, True

        def use_features(self, features, labels):
            self.shapes, self.wants_features = (features.shape, labels.shape), False

        def forward(self, codes, labels, *others):
            return codes.square().mean()

    csq, own = CSQLoss(6, 12, class_codes="assigned"), Own()
    engine = make_engine(MultipleLosses([DHNLoss(), csq]))
    engine.fit(1)
    assert not csq.wants_features
    make_engine(own).fit(1)
    assert own.shapes == ((60, 16), (60,))


def test_a_sample_that_is_not_finite_is_named_by_the_step():
    dataset = Data()
    dataset.images[7] = float("nan")
    with pytest.raises(FloatingPointError, match=r"finite loss.*7"):
        make_engine(dataset=dataset).fit(1)


def test_unlabelled_samples_and_outputs_of_another_kind_are_no_features():
    class Strange(nn.Module):
        def __init__(self, output):
            super().__init__()
            self.trunk, self.embedder, self.output = nn.Identity(), nn.Linear(5, 12), output

        def forward(self, images):
            return self.embedder(images)

    labels = torch.zeros(60, 6, dtype=torch.long)
    make_engine(dataset=Data(labels)).fit(1)
    for output in (lambda x: (x,), lambda x: x[:2], lambda x: x.long(), lambda x: x[:, 0]):
        network = Strange(output)
        network.trunk.forward = output
        engine = make_engine(networks=[network])
        before = loss_of(engine).class_codes.clone()
        engine.fit(1)
        assert_close(loss_of(engine).class_codes, before)


def make_trainer(models, loss_func, dataset, **options):
    optimizers = {
        f"{name}_optimizer": torch.optim.Adam(model.parameters())
        for name, model in models.items()
        if any(True for _ in model.parameters())
    }
    if loss_func.code_bank is not None:
        models = models | {"code_bank": loss_func.code_bank}
    options = {"dataloader_num_workers": 0, "data_device": "cpu"} | options
    return AsymmetricTrainer(models, optimizers, 16, {"metric_loss": loss_func}, dataset, **options)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_the_trainer_of_pml_makes_the_same_pass(num_networks):
    dataset = Data(noise=0)
    torch.manual_seed(0)
    model = make_model()
    models = {"trunk": model.trunk, "embedder": model.embedder}
    if num_networks == 2:
        models = TwoNetworkHashingModel(model, make_model()).models
    bank = CodeBank(CLASS_IDS, 12, num_networks=num_networks)
    loss_func = DSAHLoss(6, 12, code_bank=bank)
    with torch.no_grad():
        features = model.eval().trunk(dataset.images)
    make_trainer(models, loss_func, dataset).train(num_epochs=1)
    assert_close(loss_func.class_codes[:6], assigned_codes(features, CLASS_IDS, 6, 12))
    assert len(dataset.seen) == 120


def test_a_trunk_without_an_embedder_is_a_whole_network():
    for trunk, is_known in ((make_model(), True), (nn.Linear(5, 12), False)):
        loss_func = DSAHLoss(6, 12)
        before = loss_func.class_codes.clone()
        make_trainer({"trunk": trunk}, loss_func, Data()).train(num_epochs=1)
        assert bool((loss_func.class_codes != before).any()) == is_known
