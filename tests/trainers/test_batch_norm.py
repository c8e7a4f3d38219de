"""Batch normalization of backbones that keeps its statistics while training."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pml_hashing import CodeBank
from pml_hashing.losses import ADSHLoss
from pml_hashing.trainers import AsymmetricTrainer, Engine

CLASS_IDS = torch.arange(34) % 3


def make_data():
    images = torch.randn(len(CLASS_IDS), 5, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images + 3 * nn.functional.one_hot(CLASS_IDS, 5), CLASS_IDS)


def with_batch_norm(num_networks):
    """Return networks that have batch normalization before and after their last linear layer."""
    torch.manual_seed(0)
    return [
        nn.Sequential(
            nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU()),
            nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh()),
        )
        for _ in range(num_networks)
    ]


def train_engine(networks, freeze):
    optimizer = torch.optim.SGD([p for n in networks for p in n.parameters()], 0.01)
    loss = ADSHLoss(3, 8, code_bank=CodeBank(CLASS_IDS, 8, num_networks=len(networks)))
    Engine(networks, loss, optimizer, make_data(), 16, freeze_batch_norm=freeze).fit(2)


def train_trainer(networks, freeze):
    names = ("trunk", "embedder", "database_trunk", "database_embedder")
    models = dict(zip(names, (part for network in networks for part in network), strict=False))
    optimizers = {
        f"{k}_optimizer": torch.optim.SGD(m.parameters(), 0.01) for k, m in models.items()
    }
    loss = ADSHLoss(3, 8, code_bank=CodeBank(CLASS_IDS, 8, num_networks=len(networks)))
    AsymmetricTrainer(
        models | {"code_bank": loss.code_bank},
        optimizers,
        16,
        {"metric_loss": loss},
        make_data(),
        dataloader_num_workers=0,
        freeze_trunk_batchnorm=freeze,
    ).train(num_epochs=2)


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("train", [train_engine, train_trainer])
def test_statistics_of_backbones_stay_where_they_are_frozen(train, num_networks):
    for freeze in (False, True):
        networks = with_batch_norm(num_networks)
        train(networks, freeze)
        for (before, after), fresh in zip(networks, with_batch_norm(1) * num_networks, strict=True):
            moved = (before[1].running_mean != fresh[0][1].running_mean).any()
            assert moved == (not freeze)
            assert (before[1].bias != 0).any()  # its weights learn all the same
            assert (after[1].running_mean != 0).any()  # a hash layer knows no statistics yet
