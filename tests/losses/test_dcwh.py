"""DCWHLoss against its formula, class by class, and its schedule against means in loops."""

import math

import pytest
import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from pml_hashing.losses import DCWHLoss, DCWHSchedule

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]),
}
OPTIONS = [
    {},
    {"inverse_variance": 2.0, "cube_weight": 0.3, "vertex_weight": 1.5},
    {"learn_centers": True, "vertex_weight": 0},
]


def dcwh_reference(
    codes, labels, centers, inverse_variance=0.5, cube_weight=10.0, vertex_weight=0.1
):
    """The printed formula."""
    total = 0.0
    for r, row in zip(codes, labels, strict=True):
        squares = [sum((a - b) ** 2 for a, b in zip(r, mu, strict=True)) for mu in centers]
        terms = [math.exp(-inverse_variance * square / 2) for square in squares]
        for term, y in zip(terms, row, strict=True):
            total -= y * math.log(term / sum(terms)) / max(1, sum(row))
        cube = sum(max(0, -1.1 - x) + max(0, x - 1.1) for x in r)
        vertex = sum((x - (1 if x >= 0 else -1)) ** 2 for x in r)
        total += (cube_weight * cube + vertex_weight * vertex) / len(r)
    return total / len(codes)


def rows_of(labels):
    return (labels if labels.ndim == 2 else nn.functional.one_hot(labels, 3)).tolist()


def make_codes(n=6, code_length=8, **kwargs):
    return 1.5 * torch.randn(n, code_length, **kwargs)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("options", OPTIONS)
def test_value(labels, options, device, dtype):
    loss_func = DCWHLoss(3, 8, **options).to(device)
    codes = make_codes(dtype=dtype, device=device)
    centers = loss_func.centers.tolist()
    weights = {k: v for k, v in options.items() if k != "learn_centers"}
    expected = dcwh_reference(codes.tolist(), rows_of(labels), centers, **weights)
    loss = loss_func(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_a_second_network_adds_its_own_loss(labels):
    loss_func, codes, ref_codes = DCWHLoss(3, 8), make_codes(), make_codes()
    both = loss_func(codes, labels, ref_emb=ref_codes, ref_labels=labels)
    assert_close(both, loss_func(codes, labels) + loss_func(ref_codes, labels))


@pytest.mark.parametrize("options", OPTIONS)
def test_gradient(labels, options, device):
    loss_func = DCWHLoss(3, 8, **options).to(device, torch.float64)
    codes = make_codes(dtype=torch.float64, device=device).requires_grad_()
    centers = loss_func.centers.detach().clone().requires_grad_()

    def loss_of(codes, centers):
        return torch.func.functional_call(loss_func, {"centers": centers}, (codes, labels))

    assert torch.autograd.gradcheck(loss_of, (codes, centers))


def test_only_learned_centers_are_a_parameter():
    assert list(DCWHLoss(3, 8).parameters()) == []
    assert [p.shape for p in DCWHLoss(3, 8, learn_centers=True).parameters()] == [(3, 8)]
    assert DCWHLoss(3, 8).state_dict().keys() == {"centers"}


def test_a_sample_without_labels_has_no_class():
    loss_func = DCWHLoss(3, 8, cube_weight=0, vertex_weight=0)
    assert loss_func(make_codes(), torch.zeros(6, 3)) == 0


def make_model():
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))


def make_batches(labels, n=40):
    rows = torch.randint(len(labels), (n,))
    return DataLoader(TensorDataset(torch.randn(n, 4), labels[rows]), batch_size=6)


def test_refreshed_centers_are_the_means_of_their_classes(labels, device):
    loss_func, model = DCWHLoss(3, 8).to(device), make_model().to(device)
    batches = make_batches(labels)
    schedule = DCWHSchedule(loss_func, 0, model, batches)
    model[2].eval()  # a part that is frozen stays so
    schedule.step()
    assert [module.training for module in model.modules()] == [True, True, True, False]
    with torch.no_grad():
        codes = model.eval()(batches.dataset.tensors[0].to(device))
    rows = rows_of(batches.dataset.tensors[1])
    for c in range(3):
        members = [code for code, row in zip(codes, rows, strict=True) if row[c]]
        assert len(members) > 1
        assert_close(loss_func.centers[c], torch.stack(members).mean(dim=0))


def test_a_class_without_samples_keeps_its_center():
    loss_func = DCWHLoss(3, 8)
    before = loss_func.centers.clone()
    batches = [(torch.randn(2, 8), torch.tensor([0, 2]))]
    DCWHSchedule(loss_func, 0, nn.Identity(), batches).refresh_centers()
    assert_close(loss_func.centers, torch.stack([batches[0][0][0], before[1], batches[0][0][1]]))


def test_stages_and_refreshes_come_in_their_epochs():
    loss_func, codes = DCWHLoss(2, 4, cube_weight=0), torch.full((1, 4), 0.5)
    schedule = DCWHSchedule(
        loss_func, 2, nn.Identity(), [(codes, torch.tensor([1]))], refresh_every=3
    )
    seen = []
    for _ in range(4):
        seen.append((loss_func.refining, bool((loss_func.centers[1] == 0.5).all())))
        schedule.step()
    assert seen == [(False, False), (False, False), (True, False), (True, True)]


def test_the_first_stage_has_no_vertices():
    loss_func, codes, labels = DCWHLoss(2, 4), make_codes(3, 4), torch.tensor([0, 1, 1])
    loss_func.centers.zero_()
    both = loss_func(codes, labels)
    DCWHSchedule(loss_func, 1, nn.Identity(), [])
    vertex = 0.1 * (codes - codes.sign()).square().mean()
    assert_close(loss_func(codes, labels), both - vertex)


def test_the_stage_is_resumed():
    loss_func, resumed = DCWHLoss(2, 4, learn_centers=True), DCWHLoss(2, 4, learn_centers=True)
    schedule, other = DCWHSchedule(loss_func, 2), DCWHSchedule(resumed, 2)
    for _ in range(2):
        schedule.step()
    other.load_state_dict(schedule.state_dict())
    resumed.load_state_dict(loss_func.state_dict())
    assert (other.epoch, resumed.refining) == (2, True)
    assert_close(resumed.centers, loss_func.centers, rtol=0, atol=0)


@pytest.mark.parametrize("learn_centers", [False, True])
def test_trains_in_two_stages_in_a_trainer_of_pml(learn_centers):
    classes = torch.arange(60) % 3
    data = TensorDataset(torch.randn(60, 4) + 3 * nn.functional.one_hot(classes, 4), classes)
    trunk, loss_func = nn.Linear(4, 8), DCWHLoss(3, 8, learn_centers=learn_centers)
    given = () if learn_centers else (trunk, DataLoader(data, batch_size=20))
    schedule = DCWHSchedule(loss_func, 5, *given)
    optimizers = {"trunk_optimizer": torch.optim.Adam(trunk.parameters(), 0.03)}
    if learn_centers:
        optimizers["metric_loss_optimizer"] = torch.optim.Adam(loss_func.parameters(), 0.03)
    trainer = MetricLossOnly(
        models={"trunk": trunk},
        optimizers=optimizers,
        batch_size=20,
        loss_funcs={"metric_loss": loss_func},
        dataset=data,
        lr_schedulers={"metric_loss_scheduler_by_epoch": schedule},
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
    )
    before = loss_func(trunk(data.tensors[0]), classes).item()
    trainer.train(num_epochs=20)
    assert (schedule.epoch, loss_func.refining) == (20, True)
    codes = trunk(data.tensors[0])
    assert loss_func(codes, classes) < 0.3 * before
    assert (torch.cdist(codes, loss_func.centers).argmin(dim=1) == classes).float().mean() > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"code_length": 0}, "`code_length` of at least 1, got 0"),
        ({"inverse_variance": 0}, "positive `inverse_variance`, got 0"),
        ({"cube_weight": -1}, "`cube_weight` of at least 0, got -1"),
        ({"vertex_weight": -1}, "`vertex_weight` of at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DCWHLoss(**{"num_classes": 3, "code_length": 8, **options})


def test_wrong_arguments_are_named(labels):
    with pytest.raises(ValueError, match=r"`embeddings` of shape \(6, 8\), .* got \(6, 4\)"):
        DCWHLoss(3, 8)(make_codes(6, 4), labels)


def test_wrong_schedules_are_named():
    fixed, learned, model = DCWHLoss(3, 8), DCWHLoss(3, 8, learn_centers=True), nn.Identity()
    for loss_func, given in ((fixed, ()), (fixed, (model,)), (learned, (model, []))):
        with pytest.raises(ValueError, match="Expected `model` and `batches`, both where"):
            DCWHSchedule(loss_func, 1, *given)
    with pytest.raises(ValueError, match="`refine_after` of at least 0, got -1"):
        DCWHSchedule(fixed, -1, model, [])
    with pytest.raises(ValueError, match="`refresh_every` of at least 1, got 0"):
        DCWHSchedule(fixed, 1, model, [], refresh_every=0)
    with pytest.raises(ValueError, match="a schedule with `model` and `batches`, got none"):
        DCWHSchedule(learned, 1).refresh_centers()
    with pytest.raises(ValueError, match="`labels` with class ids from 0 to 2, got 3 to 3"):
        DCWHSchedule(fixed, 1, model, [(torch.zeros(1, 8), torch.tensor([3]))]).step()
