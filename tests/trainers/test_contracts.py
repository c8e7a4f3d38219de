"""What a training is given and cannot take is named, and what a user writes for it is called."""

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, Dataset, SubsetRandomSampler, TensorDataset

from pml_hashing import CodeBank, losses
from pml_hashing.trainers import AsymmetricTrainer, Engine

LABELS = torch.arange(24) % 4
IMAGES = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)) + F.one_hot(LABELS, 6)


def make_network(*others):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), *others)


def make_engine(loss_func=None, network=None, dataset=None, optimizer=torch.optim.SGD, **options):
    network = make_network() if network is None else network
    first = network[0] if isinstance(network, list) else network
    return Engine(
        network,
        losses.DPSHLoss() if loss_func is None else loss_func,
        optimizer(first.parameters(), lr=0.1),
        TensorDataset(IMAGES, LABELS) if dataset is None else dataset,
        8,
        progress=False,
        **options,
    )


def make_trainer(loss_func=None, network=None, dataset=None, **options):
    network, loss_func = network or make_network(), loss_func or losses.DPSHLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    models = {"trunk": network}
    if getattr(loss_func, "code_bank", None) is not None:
        models["code_bank"] = loss_func.code_bank
    options = {"dataloader_num_workers": 0, "data_device": torch.device("cpu"), **options}
    dataset = TensorDataset(IMAGES, LABELS) if dataset is None else dataset
    arguments = models, {"trunk_optimizer": optimizer}, 8, {"metric_loss": loss_func}, dataset
    return AsymmetricTrainer(*arguments, **options)


def train_by(make, **options):
    """Train two rounds by an engine or a trainer, and return what it is."""
    made = make(**options)
    made.fit(2) if isinstance(made, Engine) else made.train(num_epochs=2)
    return made


BOTH = pytest.mark.parametrize("make", [make_engine, make_trainer])


class Items(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return self.item(IMAGES[index], LABELS[index].item(), index)


TAKEN = {
    "three": lambda image, label, index: (image, label, index),
    "a name": lambda image, label, index: (image, label, f"image_{index}.png"),
    "lists": lambda image, label, index: [image, label],
    "arrays": lambda image, label, index: (image.numpy(), LABELS.numpy()[index]),
    "a list of bits": lambda image, label, index: (image, F.one_hot(LABELS[index], 4).tolist()),
    "one array": lambda image, label, index: (image.numpy(), F.one_hot(LABELS[index], 4).numpy()),
}
REFUSED = {
    "dicts": (lambda image, label, index: {"x": image, "y": label}, "got a dict of 2"),
    "no label": (lambda image, label, index: image, "got a Tensor"),
    "one": (lambda image, label, index: (image,), r"got a (list|tuple) of 1"),
    "names": (
        lambda image, label, index: (image, "abcd"[label]),
        r"`labels` that are a tensor, .* got a (list|tuple) of str\.",
    ),
    "dicts of labels": (lambda image, label, index: (image, {"fine": label}), "got dict"),
}


@BOTH
@pytest.mark.parametrize("item", TAKEN.values(), ids=TAKEN)
def test_items_may_go_on_and_labels_be_of_any_kind(make, item):
    with_ids = train_by(make)
    made = train_by(make, dataset=Items(item))
    steps = [m if isinstance(m, Engine) else m.engine for m in (made, with_ids)]
    torch.testing.assert_close(steps[0].loss, steps[1].loss)


@BOTH
@pytest.mark.parametrize(("item", "message"), REFUSED.values(), ids=REFUSED)
def test_items_of_other_kinds_are_named(make, item, message):
    with pytest.raises(TypeError, match=f"^Expected .*{message}"):
        train_by(make, dataset=Items(item))


class Output(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, codes):
        return self.change(codes)


class Returns(nn.Module):
    """A loss that returns what it is told to."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, codes, labels):
        return self.change(codes)


class Asks(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


def scheduler_that_asks(make):
    optimizer = torch.optim.SGD(make_network().parameters(), lr=0.1)
    return make(lr_schedulers=torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer))


def with_hidden_bank(make):
    hidden = losses.DSAHLoss(4, 16, code_bank=CodeBank(LABELS, 16))
    return make(loss_func=pml_losses.MultipleLosses([hidden, losses.DPSHLoss()]))


def network_that(change):
    return lambda make: make(network=make_network(Output(change)))


def loss_that(change):
    return lambda make: make(loss_func=Returns(change))


WRONG = {
    "codes in a dict": (
        network_that(lambda u: {"codes": u}),
        TypeError,
        "codes of the .* got dict",
    ),
    "codes in a vector": (
        network_that(lambda u: u.mean(1)),
        ValueError,
        r"network` of .*got \(8,\)",
    ),
    "integers": (network_that(lambda u: u.sign().char()), ValueError, "got one without a gradient"),
    "a dict": (
        loss_that(lambda u: {"loss": u.mean()}),
        TypeError,
        "the loss to return .* got dict",
    ),
    "a float": (loss_that(lambda u: u.mean().item()), TypeError, "the loss to return .* got float"),
    "losses": (loss_that(lambda u: u.mean(1)), ValueError, r"a number, got a tensor of shape"),
    "no gradient": (loss_that(lambda u: u.mean().detach()), ValueError, "without a gradient"),
    "no reduction": (
        lambda make: make(loss_func=losses.DPSHLoss(reducer=reducers.DoNothingReducer())),
        TypeError,
        "the loss to return .* got dict",
    ),
    "a hidden bank": (
        with_hidden_bank,
        ValueError,
        "as it is, .* got DSAHLoss in a MultipleLosses",
    ),
}
OF_THE_ENGINE = {
    "a function": (
        lambda make: make(loss_func=lambda codes, labels: codes.mean()),
        TypeError,
        "`loss_func` to be a torch.nn.Module, got function",
    ),
    "a closure": (
        lambda make: make(optimizer=Asks),
        ValueError,
        "got Asks, which asks for `closure`",
    ),
    "a score": (scheduler_that_asks, ValueError, "got ReduceLROnPlateau, .* `metrics`"),
    "a sampler without length": (
        lambda make: make(sampler=iter(range(24))),
        TypeError,
        "`sampler` with a length, got range_iterator",
    ),
    "batches": (
        lambda make: make(sampler=BatchSampler(range(24), 8, drop_last=False)),
        TypeError,
        "`sampler` of places of samples, got one of list",
    ),
    "a place that there is not": (
        lambda make: make(sampler=SubsetRandomSampler([*range(23), 24])),
        ValueError,
        "places from 0 to 23 in a `dataset` of 24 samples, got 24 at .* SubsetRandomSampler drew",
    ),
    "a place from the end": (
        lambda make: make(sampler=[*range(23), -1]),
        ValueError,
        "places from 0 to 23 .*, got -1 at position 23 of what list drew",
    ),
    "two networks and a loss of one": (
        lambda make: make(
            pml_losses.MultipleLosses([losses.DPSHLoss()]), [make_network() for _ in "ab"]
        ),
        TypeError,
        r"loss that takes `ref_emb` \(there is a second network\), .* got MultipleLosses",
    ),
    "two networks and a miner of one": (
        lambda make: make(None, [make_network() for _ in "ab"], miner=lambda codes, labels: None),
        TypeError,
        r"miner that takes `ref_emb` .* got function",
    ),
    "a miner and a loss without": (
        lambda make: make(nn.CrossEntropyLoss(), miner=lambda codes, labels: None),
        TypeError,
        r"loss that takes `indices_tuple` \(there is a miner\), got CrossEntropyLoss",
    ),
}


@BOTH
@pytest.mark.parametrize(("change", "error", "message"), WRONG.values(), ids=WRONG)
def test_networks_and_losses_that_do_not_fit_are_named(make, change, error, message):
    with pytest.raises(error, match=f"^Expected .*{message}"):
        train_by(lambda: change(make))


@pytest.mark.parametrize(("change", "error", "message"), OF_THE_ENGINE.values(), ids=OF_THE_ENGINE)
def test_parts_that_do_not_fit_are_named(change, error, message):
    with pytest.raises(error, match=f"^Expected .*{message}"):
        train_by(lambda: change(make_engine))


def test_an_error_of_the_loss_itself_is_its_own():
    def fail(codes):
        raise TypeError("of mine")

    with pytest.raises(TypeError, match=r"^of mine$"):
        train_by(make_engine, loss_func=Returns(fail))


# --8<-- [start:own_step]
class Alternating(nn.Module):
    """Draws codes to the binary codes of a data set, which follow them once per round."""

    def __init__(self, size, code_length):
        super().__init__()
        self.register_buffer("latest", torch.zeros(size, code_length))
        self.register_buffer("binary_codes", torch.ones(size, code_length))

    def forward(self, codes, labels, sample_indices):
        self.latest[sample_indices] = codes.detach()
        return (codes - self.binary_codes[sample_indices]).square().mean()

    def update_codes(self):
        self.binary_codes = torch.where(self.latest < 0, -1.0, 1.0)


# --8<-- [end:own_step]


@BOTH
def test_a_discrete_step_of_your_own_is_made_after_every_round(make, tmp_path):
    seen = []

    class Counting(Alternating):
        def update_codes(self):
            super().update_codes()
            seen.append(self.binary_codes.clone())
            return 2.0, 1.0

    made = train_by(make, loss_func=Counting(24, 16), checkpoint_folder=tmp_path)
    assert len(seen) == 2
    assert made.code_update == (2.0, 1.0)
    assert (seen[0] < 0).any()
    resumed = make(loss_func=Counting(24, 16), checkpoint_folder=tmp_path)
    assert resumed.resume() == 2
    engine = resumed if isinstance(resumed, Engine) else resumed.engine
    assert torch.equal(engine.parts.loss_func.binary_codes, seen[-1])
    assert train_by(make, loss_func=Alternating(24, 16)).code_update is None
