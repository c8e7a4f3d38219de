"""The engine: fit, hooks, resume, and the same training as PML's face over it."""

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, MultipleLosses
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pml_hashing import CodeBank, DSAHLoss
from pml_hashing.codes import hamming_distance
from pml_hashing.losses import ADSHLoss, CSQLoss
from pml_hashing.miners import AffinityGraphMiner
from pml_hashing.trainers import AsymmetricTrainer, Engine

CLASS_IDS = torch.arange(34) % 3
MULTI_HOT = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]])[CLASS_IDS]


def make_data(labels=CLASS_IDS):
    images = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images + 3 * nn.functional.one_hot(CLASS_IDS, 5), labels)


def make_network():
    trunk = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Dropout(0.1))
    return nn.Sequential(trunk, nn.Sequential(nn.Linear(12, 8), nn.Tanh()))


def make_parts(loss=DSAHLoss, labels=CLASS_IDS, num_networks=1):
    """Return networks, a loss that has a code bank unless it is given whole, and optimizers."""
    torch.manual_seed(0)
    networks = [make_network() for _ in range(num_networks)]
    if not isinstance(loss, nn.Module):
        loss = loss(3, 8, code_bank=CodeBank(labels, 8, num_networks=num_networks))
    optimizers = [torch.optim.Adam(part.parameters(), 0.01) for n in networks for part in n]
    return networks, loss, optimizers


def make_engine(loss=DSAHLoss, labels=CLASS_IDS, num_networks=1, batch_size=16, **options):
    networks, loss, optimizers = make_parts(loss, labels, num_networks)
    networks = networks if num_networks > 1 else networks[0]
    dataset = options.pop("dataset", make_data(labels))
    return Engine(networks, loss, optimizers, dataset, batch_size, **options)


def make_trainer(loss=DSAHLoss, labels=CLASS_IDS, num_networks=1, batch_size=16, **options):
    networks, loss, optimizers = make_parts(loss, labels, num_networks)
    names = ("trunk", "embedder", "database_trunk", "database_embedder")
    models = dict(zip(names, (part for network in networks for part in network), strict=False))
    optimizers = {f"{name}_optimizer": o for name, o in zip(models, optimizers, strict=True)}
    if getattr(loss, "code_bank", None) is not None:
        models["code_bank"] = loss.code_bank
    return AsymmetricTrainer(
        models,
        optimizers,
        batch_size,
        {"metric_loss": loss},
        make_data(labels),
        **{"dataloader_num_workers": 0, "data_device": "cpu"} | options,
    )


def values(parts):
    """Return all parameters and buffers of networks, code bank and loss."""
    tensors = [[*module.parameters(), *module.buffers()] for module in parts.modules()]
    return sorted((t.detach().clone() for ts in tensors for t in ts), key=lambda t: str(t.shape))


def same(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


CASES = {
    "bank": {},
    "two_networks": {"num_networks": 2, "labels": MULTI_HOT},
    "accumulate": {"loss": ADSHLoss, "accumulate_steps": 2, "passes_per_round": 2},
    "bf16": {"amp": "bf16", "num_networks": 2},
    "fp16": {"amp": "fp16", "accumulate_steps": 3},
    "samples": {"loss": CSQLoss(3, 8)},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_trains_as_the_trainer_does(options):
    engine, trainer = make_engine(**options), make_trainer(**options)
    losses = []
    trainer.end_of_iteration_hook = lambda t: losses.append(t.losses["total_loss"])
    engine.fit(3, on_step=lambda e: losses.append(e.loss))
    trainer.train(num_epochs=3)
    assert torch.equal(*torch.stack(losses).view(2, -1))
    for trained in (engine, trainer):
        trained.update_codes()  # once more, as a user may
    assert same(values(engine.parts), values(trainer.engine.parts))
    assert engine.code_update == trainer.code_update


def test_a_miner_gives_the_pairs_of_the_loss():
    miner = AffinityGraphMiner(num_neighbors=2)
    engine = make_engine(ContrastiveLoss(), num_networks=2, miner=miner)
    trainer = make_trainer(ContrastiveLoss(), num_networks=2, mining_funcs={"tuple_miner": miner})
    other = make_engine(ContrastiveLoss(), num_networks=2)
    engine.fit(2)
    other.fit(2)
    trainer.train(num_epochs=2)
    assert same(values(engine.parts), values(trainer.engine.parts))
    assert not same(values(engine.parts), values(other.parts))


@pytest.mark.parametrize("num_networks", [1, 2])
def test_learns_codes(num_networks):
    engine = make_engine(num_networks=num_networks)
    engine.fit(30)
    codes = engine.parts.code_bank.binary_codes.float()
    for network in engine.parts.networks.values():
        distances = hamming_distance(network.eval()(make_data().tensors[0]), codes)
        same_class = CLASS_IDS[:, None] == CLASS_IDS
        assert distances[same_class].float().mean() < 1
        assert distances[~same_class].float().mean() > 2


def test_hooks_see_every_step_and_round():
    steps, rounds = [], []
    engine = make_engine()

    def on_step(engine):
        steps.append((engine.round, engine.step, engine.global_step, len(engine.sample_indices)))

    def on_round(engine):
        rounds.append(engine.code_update)
        return engine.round < 2

    engine.fit(9, on_step=on_step, on_round=on_round)
    sizes = iter([12, 11, 11] * 2)
    assert steps == [(r, s, 3 * (r - 1) + s, next(sizes)) for r in (1, 2) for s in range(3)]
    assert len(rounds) == engine.round == 2
    assert rounds[1].after <= rounds[1].before * (1 + 1e-6)


def test_goes_on_after_the_last_round():
    whole, parts = make_engine(), make_engine()
    whole.fit(3)
    parts.fit(1)
    parts.fit(3)
    assert parts.round == 3
    assert same(values(whole.parts), values(parts.parts))
    parts.fit(3)  # nothing is left to do
    assert same(values(whole.parts), values(parts.parts))


class Stop(Exception):  # noqa: N818
    pass


def stop_at(round_, step):
    def hook(engine):
        if (engine.round, engine.step) == (round_, step):
            raise Stop

    return hook


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_resumes_within_a_round_bit_for_bit(tmp_path, options):
    whole = make_engine(**options)
    whole.fit(3)
    options = options | {"checkpoint_folder": tmp_path, "checkpoint_every": 2}
    with pytest.raises(Stop):
        make_engine(**options).fit(3, on_step=stop_at(2, 2))
    resumed = make_engine(**options)
    assert resumed.resume() == 2
    assert (resumed.round, resumed.step) == (2, 1)
    resumed.fit(3)
    assert same(values(resumed.parts), values(whole.parts))
    assert resumed.code_update == whole.code_update


@pytest.mark.parametrize(("round_", "step"), [(2, 2), (3, 0)])
def test_what_a_hook_unfroze_is_so_after_a_resume(tmp_path, round_, step):
    def make(**options):
        engine = make_engine(**options)
        engine.parts.networks["network"][0].requires_grad_(False)
        return engine

    def unfreeze(engine):
        engine.parts.networks["network"][0].requires_grad_(True)

    whole, first = make(), make().parts.parameters()[0]
    whole.fit(3, on_round=unfreeze)
    options = {"checkpoint_folder": tmp_path, "checkpoint_every": 2}
    with pytest.raises(Stop):
        make(**options).fit(3, on_round=unfreeze, on_step=stop_at(round_, step))
    resumed = make(**options)
    resumed.resume()
    resumed.fit(3, on_round=unfreeze)
    assert same(values(resumed.parts), values(whole.parts))
    assert not torch.equal(whole.parts.parameters()[0], first)


@pytest.mark.parametrize("make", [make_engine, make_trainer])
def test_a_hook_after_a_resumed_round_sees_all_that_it_saw(tmp_path, make):
    def look(caller):
        engine = getattr(caller, "engine", caller)
        seen.append((engine.round, engine.step, engine.global_step, engine.loss.item()))
        seen.append((engine.sample_indices.tolist(), engine.code_update))
        if engine is not caller:  # as PML's hooks look at it
            seen.append((caller.epoch, caller.iteration, caller.get_global_iteration()))
            seen.append((caller.iterations_per_epoch, dict(caller.losses)))
            seen.append((caller.loss_tracker.losses, caller.sample_indices.tolist()))
        raise Stop

    def fit(caller):
        start = caller.resume()
        if isinstance(caller, Engine):
            caller.fit(2, on_round=look)
        else:
            caller.end_of_epoch_hook = look
            caller.train(start, 2)

    seen = []
    for _ in range(2):
        with pytest.raises(Stop):
            fit(make(checkpoint_folder=tmp_path))
    half = len(seen) // 2
    assert half >= 2
    assert seen[:half] == seen[half:]


@pytest.mark.parametrize(("by", "made"), [("step", 6), ("round", 2)])
def test_schedulers_are_stepped(tmp_path, by, made):
    def make():
        networks, loss, (first, second) = make_parts()
        halve = torch.optim.lr_scheduler.ExponentialLR(first, 0.5)
        options = {"lr_schedulers": halve, "schedule_by": by, "checkpoint_folder": tmp_path}
        engine = Engine(networks, loss, [first, second], make_data(), 16, **options)
        return engine, first, halve

    engine, optimizer, _ = make()
    engine.fit(2)
    assert optimizer.param_groups[0]["lr"] == 0.01 * 0.5**made
    resumed, optimizer, scheduler = make()
    resumed.resume()
    assert optimizer.param_groups[0]["lr"] == 0.01 * 0.5**made
    assert scheduler.last_epoch == made


def test_what_is_frozen_is_not_stepped():
    engine = make_engine(amp="fp16")
    network = engine.parts.networks["network"]
    network[0].requires_grad_(False)
    before = [p.clone() for p in network.parameters()]
    engine.fit(1)
    after = list(network.parameters())
    assert all(map(torch.equal, before[:2], after[:2]))
    assert not torch.equal(before[2], after[2])


class SecondAlone(nn.Module):
    """A loss on which neither its own parameter nor the first network has an influence."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, codes, labels, ref_emb=None, ref_labels=None):
        return ref_emb.square().mean()


@pytest.mark.parametrize("amp", [None, "fp16"])
def test_what_has_no_gradient_is_not_stepped(amp, caplog):
    (first, second), loss, optimizers = make_parts(SecondAlone(), num_networks=2)
    optimizers.append(torch.optim.Adam(loss.parameters()))
    before, moved = (network[0][0].weight.clone() for network in (first, second))
    Engine([first, second], loss, optimizers, make_data(), 16, amp=amp).fit(1)
    assert torch.equal(first[0][0].weight, before)
    assert not torch.equal(second[0][0].weight, moved)
    assert not caplog.text


def test_parameters_of_the_loss_without_an_optimizer_are_named(caplog):
    engine = make_engine(SecondAlone(), num_networks=2)
    engine.fit(1)
    assert "No optimizer has these parameters of the loss, which stay as they are: unused." in (
        caplog.text
    )
    caplog.clear()
    engine.parts.loss_funcs["metric_loss"].requires_grad_(False)
    engine.fit(2)
    assert not caplog.text


# --8<-- [start:clip]
class ClippedEngine(Engine):
    def clip_gradients(self):
        self.unscale_gradients()  # for amp="fp16"
        nn.utils.clip_grad_norm_(self.parts.parameters(), 1e-3)


# --8<-- [end:clip]


def test_gradients_are_clipped_at_their_own_scale():
    changes = []
    for amp in (None, "fp16"):
        (network,), loss, _ = make_parts(CSQLoss(3, 8))
        before = network[0][0].weight.clone()
        optimizer = torch.optim.SGD(network.parameters(), 1.0)
        ClippedEngine(network, loss, optimizer, make_data(), 34, amp=amp).fit(1)
        changes.append(network[0][0].weight - before)
    assert 1e-4 < changes[0].norm() < 1e-3
    assert_close(*changes, rtol=0.02, atol=1e-6)


def interrupt(_):
    raise KeyboardInterrupt


def test_an_interrupt_says_how_to_go_on(tmp_path):
    with pytest.raises(KeyboardInterrupt, match=r"round 1, step 0\. There is no `check"):
        make_engine().fit(1, on_step=interrupt)
    engine = make_engine(checkpoint_folder=tmp_path)
    with pytest.raises(KeyboardInterrupt, match=r"There is no checkpoint in .* yet\."):
        engine.fit(1, on_step=interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"is .*000001-000000003\.pt: `resume` goes on"):
        engine.fit(1, on_round=interrupt)


SMALLER = TensorDataset(torch.zeros(33, 5), CLASS_IDS[:33])
WRAPPED = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
nn.Module.__init__(WRAPPED)
ERRORS = {
    "batch": ({"batch_size": 0}, "`batch_size` of at least 1, got 0"),
    "small": ({"batch_size": 35}, "at least `batch_size` = 35 samples, got 34"),
    "passes": ({"passes_per_round": 0}, "`passes_per_round` of at least 1, got 0"),
    "steps": ({"steps_per_round": -1}, "`steps_per_round` of at least 1, got -1"),
    "no steps": ({"steps_per_round": 0}, "`steps_per_round` of at least 1, got 0"),
    "every": ({"checkpoint_every": -1}, "`checkpoint_every` of at least 1, got -1"),
    "never": ({"checkpoint_every": 0}, "`checkpoint_every` of at least 1, got 0"),
    "parts": ({"accumulate_steps": 17}, "at least 1 samples, one per process, got one of 0"),
    "schedule": ({"schedule_by": "epoch"}, "`schedule_by` to be one of 'step', 'round', got 'ep"),
    "amp": ({"amp": "fp8"}, "`amp` to be one of None, 'bf16', 'fp16', got 'fp8'"),
    "size": ({"dataset": SMALLER}, "of 34 samples, .* got 33"),
    "networks": (
        {"num_networks": 3, "loss": CSQLoss(3, 8)},
        "at most 2, network and database_network, got 3",
    ),
    "wrapped": ({"loss": MultipleLosses([WRAPPED])}, "as it is, .* in a DistributedDataParallel"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_engine(**arguments)
