"""Every loss in every trainer of PML and in ours: keys, records, files, early stopping."""

import pytest
import torch
from compatibility import NAMES, make_loss
from pytorch_metric_learning import samplers, trainers
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils import logging_presets
from torch import nn
from torch.utils.data import TensorDataset

from pml_hashing import CodeBank, losses
from pml_hashing.miners import AffinityGraphMiner
from pml_hashing.testers import HammingTester
from pml_hashing.trainers import AsymmetricTrainer

LABELS = torch.arange(32) % 4
METRIC = "hamming_mean_average_precision"
COMMON = {"data_device": torch.device("cpu"), "dataloader_num_workers": 0}
DISCRETE = [n for n in NAMES if issubclass(getattr(losses, n), losses.DiscreteLoss)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


def make_data(*others):
    torch.manual_seed(0)
    images = torch.randn(32, 6)
    images[:, :4] += 4 * nn.functional.one_hot(LABELS, 4)
    return TensorDataset(images, *(images + other for other in others), LABELS)


def make_trainer(kind, loss_func, *, data=None, others=None, **options):
    """Return a trainer of a network, its loss, and other losses, each with an optimizer."""
    models = {"trunk": nn.Linear(6, 8), "embedder": nn.Sequential(nn.Linear(8, 16), nn.Tanh())}
    if getattr(loss_func, "code_bank", None) is not None:
        models["code_bank"] = loss_func.code_bank
    if kind is trainers.TrainWithClassifier:
        models["classifier"] = nn.Linear(16, 4)
    loss_funcs = {"metric_loss": loss_func} | (others or {})
    optimizers = {
        f"{name}_optimizer": torch.optim.SGD(module.parameters(), 0.05)
        for name, module in (models | loss_funcs).items()
        if [*module.parameters()]
    }
    arguments = models, optimizers, 16, loss_funcs, data or make_data()
    return kind(*arguments, **COMMON, **options)


def weights_of(trainer):
    modules = nn.ModuleDict(trainer.models | trainer.loss_funcs)
    return {name: p.detach().clone() for name, p in modules.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_trains_in_every_trainer(name):
    made = [
        make_trainer(trainers.MetricLossOnly, make_loss(name)),
        make_trainer(
            trainers.TrainWithClassifier,
            make_loss(name),
            others={"classifier_loss": nn.CrossEntropyLoss()},
        ),
        make_trainer(
            trainers.TwoStreamMetricLoss,
            make_loss(name),
            data=make_data(0.1),
            mining_funcs={"tuple_miner": AffinityGraphMiner(num_neighbors=2)},
        ),
        make_trainer(
            AsymmetricTrainer,
            make_loss(name),
            sampler=samplers.MPerClassSampler(LABELS, 4, 16, 32),
        ),
    ]
    for trainer in made:
        before = weights_of(trainer)
        trainer.train(num_epochs=1)
        after = weights_of(trainer)
        assert all(p.isfinite().all() for p in after.values())
        changed = {key for key, p in after.items() if not torch.equal(p, before[key])}
        assert changed >= {key for key in before if key.startswith(("trunk", "embedder"))}
        assert changed & {key for key in before if key.startswith("metric_loss")} or not [
            *trainer.loss_funcs["metric_loss"].parameters()
        ]


@pytest.mark.parametrize("kind", [trainers.MetricLossOnly, AsymmetricTrainer])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mining_funcs", {"cat": AffinityGraphMiner()}),
        ("freeze_these", ["branch"]),
        ("lr_schedulers", {"trunk_scheduler": None}),
        ("gradient_clippers", {"trunk": None}),
        ("loss_weights", {"cat": 1}),
    ],
)
def test_unknown_keys_are_refused(kind, argument, value):
    with pytest.raises(AssertionError, match=f"^{argument} keys must be one of"):
        make_trainer(kind, losses.DPSHLoss(), **{argument: value})


def test_our_trainer_names_what_it_needs():
    for models, loss_funcs, message in (
        ({}, {"metric_loss": losses.DPSHLoss()}, "`models` with the keys trunk"),
        ({"trunk": nn.Linear(6, 16)}, {}, "`loss_funcs` with the key metric_loss, got none"),
        ({"trunk": nn.Linear(6, 16)}, {"loss": losses.DPSHLoss()}, "key metric_loss, got 'loss'"),
    ):
        with pytest.raises(ValueError, match=message):
            AsymmetricTrainer(models, {}, 16, loss_funcs, make_data(), **COMMON)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return a record keeper in whose tables are two iterations of every loss."""
    folder = tmp_path_factory.mktemp("records")
    record_keeper, _, _ = logging_presets.get_record_keeper(str(folder))
    hooks = logging_presets.get_hook_container(record_keeper, log_freq=1)
    for name in NAMES:
        banks = [None, CodeBank(LABELS, 16)] if name in DISCRETE else [None]
        for bank in banks:
            options = {} if bank is None else {"code_bank": bank}
            loss_func = make_loss(name, collect_stats=True, **options)
            kind = trainers.MetricLossOnly if bank is None else AsymmetricTrainer
            hook = hooks.end_of_iteration_hook
            make_trainer(kind, loss_func, end_of_iteration_hook=hook).train(num_epochs=1)
            record_keeper.save_records()
    return record_keeper


@pytest.mark.parametrize("name", NAMES)
def test_sub_losses_are_recorded_in_a_table(name, recorded):
    """Its parameters and buffers too, each in a table of its own: PML makes one of each module."""
    table = recorded.query(f"SELECT * FROM metric_loss_{name}", return_dict=True)
    for sub_loss in make_loss(name).sub_loss_names():
        assert len(table[sub_loss]) == 4 if name in DISCRETE else 2
        assert all(isinstance(value, float) for value in table[sub_loss])
    if name in DISCRETE:
        assert table["objective_value"][:2] == [None, None]
        assert isinstance(table["objective_value"][-1], float)


def make_hooks(folder, **options):
    record_keeper, _, _ = logging_presets.get_record_keeper(str(folder / "logs"))
    hooks = logging_presets.get_hook_container(record_keeper, primary_metric=METRIC, **options)
    return hooks, HammingTester(end_of_testing_hook=hooks.end_of_testing_hook, **COMMON)


CASES = {
    "memory": lambda: losses.CrossBatchMemory(losses.DPSHLoss(), 16, 50),
    "bank": lambda: losses.DSAHLoss(4, 16, code_bank=CodeBank(LABELS, 16)),
    "weights": lambda: losses.GreedyHashLoss(4, 16),
    "label network": lambda: make_loss("ADSQLoss"),
}


@pytest.mark.parametrize(
    ("kind", "case"),  # PML's own trainers give no places of samples
    [(trainers.MetricLossOnly, case) for case in CASES if case != "bank"]
    + [(AsymmetricTrainer, case) for case in CASES],
)
def test_what_was_trained_is_saved_and_loaded(case, kind, tmp_path):
    hooks, tester = make_hooks(tmp_path)
    folder, splits = str(tmp_path / "models"), {"val": make_data()}

    def make():
        hook = hooks.end_of_epoch_hook(tester, splits, folder)
        return make_trainer(kind, CASES[case](), end_of_epoch_hook=hook)

    trained, loaded = make(), make()
    assert hooks.load_latest_saved_models(loaded, folder, device="cpu") == 1
    trained.train(num_epochs=2)
    assert hooks.load_latest_saved_models(loaded, folder, device="cpu") == 3
    for parts in ("models", "loss_funcs", "optimizers"):
        for name, part in getattr(trained, parts).items():
            expected, found = part.state_dict(), getattr(loaded, parts)[name].state_dict()
            assert str(found) == str(expected)
    history = hooks.get_accuracy_history(tester, "val")
    assert history["epoch"] == [1, 2]
    best_epoch, best = hooks.get_best_epoch_and_accuracy(tester, "val")
    assert best == max(history[f"{METRIC}_level0"])
    accuracies, key = hooks.get_accuracies_of_best_epoch(tester, "val")
    assert c_f.sqlite_obj_to_dict(accuracies)[key] == [best]
    assert hooks.load_latest_saved_models(loaded, folder, device="cpu", best=True) == best_epoch + 1
    assert hooks.record_group_name(tester, "val").endswith("HammingTester_level_all_VAL_vs_self")


@pytest.mark.parametrize("kind", [trainers.MetricLossOnly, AsymmetricTrainer])
def test_a_plateau_ends_the_training(kind, tmp_path):
    hooks, tester = make_hooks(tmp_path, save_models=False)
    options = {"patience": 2, "test_interval": 1}
    hook = hooks.end_of_epoch_hook(tester, {"val": make_data()}, str(tmp_path / "none"), **options)
    trainer = make_trainer(kind, losses.DPSHLoss(), end_of_epoch_hook=hook)
    for optimizer in trainer.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    trainer.train(num_epochs=9)
    assert trainer.epoch == 4
    assert len(hooks.get_accuracy_history(tester, "val")["epoch"]) == 4
    assert [*(tmp_path / "none").iterdir()] == []


def test_an_unknown_metric_is_refused(tmp_path):
    record_keeper, _, _ = logging_presets.get_record_keeper(str(tmp_path))
    hooks = logging_presets.get_hook_container(record_keeper, primary_metric="precision_at_1")
    with pytest.raises(ValueError, match=r"must be one of.*hamming_precision_at_1"):
        hooks.end_of_epoch_hook(HammingTester(**COMMON), {}, str(tmp_path))
