"""Every method learns from features; what the recipes say is what happens."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from comparison import networks
from comparison.baselines import float_features
from comparison.cells import cosine_scores, hamming_scores
from comparison.fixed_codes import FixedCodesLoss
from comparison.methods import FLOAT_FEATURES, FROM_CLASS_CODES, METHODS, NETWORKS
from comparison.networks import Recipe, train_networks
from comparison.protocols import Split
from comparison.sources import Pixels
from comparison.task import Learned
from tasks import LABELS, make_task
from torch.testing import assert_close

from pml_hashing import baselines, losses
from pml_hashing.centers import assigned_codes
from pml_hashing.codes import unpack
from pml_hashing.evaluation import mean_average_precision, precision_within_radius


def test_all_losses_are_compared():
    terms = {"ClassStructureQuantization", "AffinityGraph", "DualSemanticRegression"}
    names = {name.removesuffix("Loss") for name in losses.__all__ if name.endswith("Loss")}
    without_labels = {"BiHalf", "CIBHash", "SelfSupervised"}  # benchmarks/unsupervised.py
    assert set(METHODS) == (names - terms - without_labels - {"BaseHashing", "Discrete"}) | {
        *baselines.__all__,
        "DSAH kappa=10 rho=0",
        "DSAH spread",
        "DSAH two networks",
        "DPSH memory",
        "fixed codes",
        *(f"{name} assigned" for name in FROM_CLASS_CODES),
        FLOAT_FEATURES,
    }
    assert set(METHODS) - set(NETWORKS) == {*baselines.__all__, FLOAT_FEATURES}


@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"DPSH memory"}))
def test_a_name_is_that_of_its_loss(name):
    expected = getattr(losses, f"{name.split()[0]}Loss", FixedCodesLoss)
    assert METHODS[name].loss is expected


def test_a_memory_is_of_batches_before():
    loss_func = METHODS["DPSH memory"].loss(code_length=8)
    assert isinstance(loss_func, losses.CrossBatchMemory)
    assert isinstance(loss_func.loss, losses.DPSHLoss)
    assert loss_func.memory_size == 1024


@pytest.mark.parametrize("labels", LABELS)
def test_rows_with_assigned_codes_have_the_same(labels, monkeypatch):
    made = spy_on_trainer(monkeypatch)
    task = make_task(LABELS[labels])
    num_classes = 4 if labels == "class_ids" else 5
    names = ["DSAH", *(f"{name} assigned" for name in FROM_CLASS_CODES)]
    for name in names:
        METHODS[name](task)
    training = task.split.training
    features, of_training = task.data.features[training].float(), task.data.labels[training]
    codes = assigned_codes(features, of_training, num_classes, 8, seed=task.seed)
    for trainer in made:
        loss_func = trainer.loss_funcs["metric_loss"]
        assert not loss_func.wants_features
        assert_close(loss_func.class_codes[:num_classes], codes)


def test_fixed_codes_are_a_squared_error():
    loss_func, codes = FixedCodesLoss(3, 8), torch.randn(4, 8)
    fixed = loss_func.class_codes
    expected = (codes - fixed[[0, 2, 1, 0]]).square().mean()
    assert_close(loss_func(codes, torch.tensor([0, 2, 1, 0])), expected)
    wanted = torch.stack([fixed[0], fixed[:2].sum(dim=0).sign(), fixed.sum(dim=0).sign()])
    rows = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    assert_close(loss_func(codes[:3], rows), (codes[:3] - wanted).square().mean())


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", sorted(set(METHODS) - {FLOAT_FEATURES}))
def test_every_method_learns(name, labels):
    task = make_task(LABELS[labels], epochs=8)
    learned = METHODS[name](task)
    scores = hamming_scores(learned, task.data.labels, task.split)
    assert scores["mean_average_precision"] > 0.6  # at random: about 0.25, multi-hot 0.3


@pytest.mark.parametrize("name", ["CSQ", "DADH"])
def test_a_seed_is_a_result(name):
    codes = [METHODS[name](task).query(task.split.query) for task in [make_task()] * 2]
    assert torch.equal(*codes)


def spy_on_trainer(monkeypatch):
    """Return the trainers of this test, as they are made."""
    made = []

    class Trainer(networks.AsymmetricTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(networks, "AsymmetricTrainer", Trainer)
    return made


def test_the_slope_of_hashnet_grows_to_that_of_its_authors(monkeypatch):
    made = spy_on_trainer(monkeypatch)
    METHODS["HashNet"](make_task(epochs=20))
    slope = made[0].models["embedder"].bound.slope
    assert slope.item() == pytest.approx(51**0.5, rel=0.02)


def test_dcwh_ends_in_its_second_stage_with_the_means_of_classes(monkeypatch):
    made = spy_on_trainer(monkeypatch)
    task = make_task(epochs=2)
    METHODS["DCWH"](task)
    loss_func = made[0].loss_funcs["metric_loss"]
    assert loss_func.refining
    model = torch.nn.Sequential(made[0].models["trunk"], made[0].models["embedder"]).eval()
    training = task.split.training
    codes, labels = model(task.data.features[training]), task.data.labels[training]
    means = [codes[labels == label].mean(dim=0) for label in range(4)]
    assert_close(loss_func.centers, torch.stack(means))


def test_centers_of_crh_are_where_their_classes_are(monkeypatch):
    made = spy_on_trainer(monkeypatch)
    task = make_task(epochs=2)
    METHODS["CRH"](task)
    loss_func = made[0].loss_funcs["metric_loss"]
    model = torch.nn.Sequential(made[0].models["trunk"], made[0].models["embedder"])
    training = task.split.training
    batches = [(task.data.features[training], task.data.labels[training])]
    centers = loss_func.class_codes.clone()
    losses.CRHSchedule(loss_func, model, batches).step()  # no class moves any more
    assert_close(loss_func.class_codes, centers)
    fresh = losses.CRHLoss(4, 8, seed=task.seed)
    assert (centers != fresh.class_codes).any()


@pytest.mark.parametrize(("sum_codes", "encoder"), [(True, "sum"), (False, "second")])
def test_what_encodes_with_two_networks(sum_codes, encoder, monkeypatch):
    made = spy_on_trainer(monkeypatch)
    task = make_task()
    learned = train_networks(Recipe(losses.DADHLoss, networks=2, sum_codes=sum_codes), task)
    models = {name: model.eval() for name, model in made[0].models.items()}
    features = task.data.features[task.split.query]
    first = models["embedder"](models["trunk"](features))
    second = models["database_embedder"](models["database_trunk"](features))
    of_database = {"sum": first + second, "second": second}[encoder]
    of_query = {"sum": first + second, "second": first}[encoder]
    for encode, codes in ((learned.query, of_query), (learned.database, of_database)):
        assert torch.equal(unpack(encode(task.split.query), 8) > 0, codes >= 0)


def test_rates_fall_by_epoch_or_by_step_after_a_warm_up(monkeypatch):
    made = spy_on_trainer(monkeypatch)
    monkeypatch.setattr(networks.AsymmetricTrainer, "train", lambda self, num_epochs: None)
    task = make_task()
    frozen = Recipe(losses.HashNetLoss, bound="scaled_tanh", schedules=networks.continuation)
    frozen(task)
    fine = replace(task.budget, epochs=4, warm_up=1, steps_per_epoch=5)
    frozen(task._replace(budget=fine))
    by_epoch, by_step = (trainer.lr_schedulers for trainer in made)
    growing = "metric_loss_scheduler_by_iteration"
    assert set(by_epoch) == {"embedder_scheduler_by_epoch", growing}
    assert set(by_step) == {"embedder_scheduler_by_iteration", growing}
    assert made[1].iterations_per_epoch == 5
    optimizer = made[1].optimizers["embedder_optimizer"]
    schedule = by_step["embedder_scheduler_by_iteration"]
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [1e-2 * (0.01 + 0.99 * step / 5) for step in range(5)]
    expected += [1e-2 * (1 + np.cos(np.pi * step / 15)) / 2 for step in range(15)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_parameters_of_a_loss_are_trained(monkeypatch):
    made = spy_on_trainer(monkeypatch)
    METHODS["HyP2"](make_task())
    optimizers, (proxies,) = made[0].optimizers, made[0].loss_funcs["metric_loss"].parameters()
    assert set(optimizers) == {"embedder_optimizer", "metric_loss_optimizer"}
    assert optimizers["metric_loss_optimizer"].state[proxies]["step"] == 5


@pytest.mark.parametrize("labels", LABELS)
def test_hamming_scores_are_those_of_the_library(labels):
    labels = LABELS[labels]
    codes = torch.randn(160, 8)
    split = Split(torch.arange(10), torch.arange(10, 160), torch.arange(10, 160))
    learned = Learned(codes.__getitem__, codes.__getitem__)
    scores = hamming_scores(learned, labels, split)
    given = (codes[:10], labels[:10], codes[10:], labels[10:])
    assert scores == {
        "mean_average_precision": pytest.approx(mean_average_precision(*given)),
        "mean_average_precision_at_5000": pytest.approx(mean_average_precision(*given, top_k=5000)),
        "precision_within_radius_2": pytest.approx(precision_within_radius(*given, radius=2)),
    }


def test_images_that_were_not_trained_on_are_scored_apart():
    labels, codes = LABELS["class_ids"], torch.randn(160, 8)
    split = Split(torch.arange(10), torch.arange(10, 160), torch.arange(60, 160))
    learned = Learned(codes.__getitem__, codes.__getitem__)
    found = hamming_scores(learned, labels, split)["mean_average_precision_of_unseen"]
    unseen = mean_average_precision(codes[:10], labels[:10], codes[10:60], labels[10:60])
    assert found == pytest.approx(unseen)
    found = cosine_scores(learned, labels, split)["mean_average_precision_of_unseen"]
    apart = split._replace(database=torch.arange(10, 60))
    scores = cosine_scores(learned, labels, apart)
    assert found == pytest.approx(scores["mean_average_precision"])
    assert "mean_average_precision_of_unseen" not in scores  # all are


def average_precision_reference(match, top_k):
    hits, total = 0, 0.0
    for rank, relevant in enumerate(match[:top_k], start=1):
        hits += relevant
        total += hits / rank if relevant else 0
    return total / hits if hits else 0.0


@pytest.mark.parametrize("labels", LABELS)
def test_cosine_scores_equal_loops(labels, monkeypatch):
    monkeypatch.setattr("comparison.cells.TOP_K", 20)
    task = make_task(LABELS[labels], noise=9.0)
    scores = cosine_scores(float_features(task), task.data.labels, task.split)
    training, labels = task.data.features[task.split.training].double(), LABELS[labels]
    vectors = (task.data.features.double() - training.mean(dim=0)) / training.std(dim=0)
    expected = []
    for query in task.split.query:
        ranking = sorted(
            task.split.database,
            key=lambda item, query=query: (
                -torch.cosine_similarity(vectors[query], vectors[item], dim=0)
            ),
        )
        rows = labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels)
        match = [bool((rows[query] & rows[item]).any()) for item in ranking]
        expected.append([average_precision_reference(match, top_k) for top_k in (None, 20)])
    assert [*scores.values()] == pytest.approx(np.mean(expected, axis=0).tolist())


def test_no_method_without_a_network_on_images():
    task = make_task()._replace(data=Pixels(None, None))
    for method in (METHODS[FLOAT_FEATURES], METHODS["ITQ"]):
        with pytest.raises(ValueError, match="frozen features for a `method` without a network"):
            partial(method, task)()
