"""Losses against one code a class train in PML's trainers, whatever of them is learned."""

import pytest
import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import nn
from torch.utils.data import TensorDataset

from pml_hashing import losses
from pml_hashing.codes import hamming_distance
from pml_hashing.pairs import similarity
from pml_hashing.trainers import AsymmetricTrainer

NAMES = ["CSQLoss", "DCWHLoss", "GreedyHashLoss", "HyP2Loss", "OrthoHashLoss"]
CLASS_IDS = torch.arange(96) % 4
LABELS = {
    "class_ids": CLASS_IDS,
    "multi_hot": torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])[CLASS_IDS],
}


def make_images():
    return torch.randn(96, 6) + 4 * nn.functional.one_hot(CLASS_IDS, 6)


def make_network():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU()), nn.Sequential(nn.Linear(16, 12), nn.Tanh())


def make_loss(name):
    options = {"learn_centers": True} if name == "DCWHLoss" else {}
    return getattr(losses, name)(num_classes=4, code_length=12, **options)


def precision(codes, labels):
    """Return the mean share of similar samples among the 10 nearest, ties counted in full."""
    similar = similarity(labels, labels).float()
    order = (hamming_distance(codes, codes) + 1e-3 * torch.rand(96, 96)).argsort(dim=1)
    return similar.gather(1, order[:, :10]).mean().item()


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("name", NAMES)
def test_trains_in_trainers(name, labels, num_networks):
    loss_func, images = make_loss(name), make_images()
    models = dict(zip(("trunk", "embedder"), make_network(), strict=True))
    if num_networks == 2:
        models |= zip(("database_trunk", "database_embedder"), make_network(), strict=True)
    trained = models | ({"metric_loss": loss_func} if list(loss_func.parameters()) else {})
    start = [p.detach().clone() for p in loss_func.parameters()]
    trainer = (MetricLossOnly if num_networks == 1 else AsymmetricTrainer)(
        models=models,
        optimizers={
            f"{k}_optimizer": torch.optim.Adam(m.parameters(), 0.02) for k, m in trained.items()
        },
        batch_size=32,
        loss_funcs={"metric_loss": loss_func},
        dataset=TensorDataset(images, labels),
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
        label_hierarchy_level="all",
    )

    def measure():
        with torch.no_grad():
            codes = [models["embedder"](models["trunk"](images))]
            if num_networks == 2:
                codes.append(models["database_embedder"](models["database_trunk"](images)))
            ref = {"ref_emb": codes[1], "ref_labels": labels} if num_networks == 2 else {}
            loss = loss_func(codes[0], labels, **ref).item()
        return loss, min(precision(c, labels) for c in codes)

    before, precision_before = measure()
    trainer.train(num_epochs=15)
    after, precision_after = measure()
    assert after < 0.8 * before
    assert precision_after > max(0.9, precision_before)
    moved = zip(start, loss_func.parameters(), strict=True)
    assert all((a != b).any() for a, b in moved)
