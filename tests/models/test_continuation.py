"""TanhContinuation: the slopes of the paper's code, in PML's trainer, saved and resumed."""

import copy

import pytest
import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pml_hashing.codes import binarize
from pml_hashing.losses import HashNetLoss
from pml_hashing.models import HashingModel, HashLayer, ScaledTanh, TanhContinuation


def test_slopes_of_the_authors_code():
    bound = ScaledTanh()
    continuation, slopes = TanhContinuation(bound), {}
    for iteration in range(1, 601):
        continuation.step()
        slopes[iteration] = bound.slope.item()
    expected = {1: 1, 199: 1, 200: 2**0.5, 399: 2**0.5, 400: 3**0.5, 600: 2}
    assert {t: slopes[t] for t in expected} == pytest.approx(expected)


def test_slopes_by_epoch():
    bound = ScaledTanh()
    continuation = TanhContinuation(bound, gamma=1, power=2, step_size=1)
    slopes = []
    for _ in range(3):
        slopes.append(bound.slope.item())
        continuation.step()
    assert slopes == [1, 4, 9]


def test_no_bit_changes(device, dtype):
    bound, values = ScaledTanh().to(device, dtype), torch.randn(5, 4, device=device, dtype=dtype)
    before = bound(values)
    bound.slope.fill_(3)
    assert_close(bound(values), torch.tanh(3 * values))
    assert torch.equal(binarize(bound(values)), binarize(before))


def test_goes_on_where_it_stopped():
    first = TanhContinuation(ScaledTanh(), step_size=3)
    for _ in range(7):
        first.step()
    state = copy.deepcopy(first.state_dict())
    second = TanhContinuation(ScaledTanh(), step_size=3)
    second.load_state_dict(state)
    assert_close(second.bound.slope, first.bound.slope)
    for continuation in (first, second):
        continuation.step()
        continuation.step()
    assert_close(second.bound.slope.item(), (1 + 0.005 * 9) ** 0.5)
    assert_close(second.bound.slope, first.bound.slope)


def test_slope_is_saved_with_the_model(tmp_path):
    model = HashingModel(nn.Identity(), 4, num_features=6, bound="scaled_tanh")
    continuation = TanhContinuation(model.embedder.bound, gamma=1, step_size=1)
    continuation.step()
    model.save_pretrained(tmp_path)
    loaded = HashingModel.from_pretrained(tmp_path, backbone=nn.Identity())
    features = torch.randn(3, 6)
    assert_close(loaded(features), model.eval()(features))
    assert "slope=1.41421" in repr(loaded)


def test_in_the_trainer_of_pml():
    labels = torch.arange(32) % 4
    dataset = TensorDataset(torch.eye(4)[labels] + 0.1 * torch.randn(32, 4), labels)
    layer = HashLayer(4, 8, bound="scaled_tanh")
    trainer = MetricLossOnly(
        models={"trunk": nn.Identity(), "embedder": layer},
        optimizers={"embedder_optimizer": torch.optim.Adam(layer.parameters(), lr=0.05)},
        batch_size=16,
        loss_funcs={"metric_loss": HashNetLoss()},
        dataset=dataset,
        lr_schedulers={"embedder_scheduler_by_epoch": TanhContinuation(layer.bound, step_size=1)},
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
    )
    before = HashNetLoss()(layer(dataset.tensors[0]), labels)
    trainer.train(num_epochs=5)
    assert HashNetLoss()(layer(dataset.tensors[0]), labels) < before / 2
    assert_close(layer.bound.slope.item(), (1 + 0.005 * 5) ** 0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bound": nn.Tanh()}, TypeError, "`bound` to be a ScaledTanh, .*, got Tanh"),
        ({"gamma": -1}, ValueError, "`gamma` of at least 0, got -1"),
        ({"power": -1}, ValueError, "`power` of at least 0, got -1"),
        ({"step_size": 0}, ValueError, "`step_size` of at least 1, got 0"),
    ],
)
def test_arguments_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        TanhContinuation(**{"bound": ScaledTanh()} | options)
