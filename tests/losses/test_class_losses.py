"""Losses against one code per class: what they share, and that they train in PML's trainers."""

import pytest
import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pml_hashing import losses
from pml_hashing.centers import (
    assign_codes,
    class_similarity,
    gather_features,
    hash_centers,
    semantic_centers,
    separated_centers,
    spread_codes,
)
from pml_hashing.codes import hamming_distance
from pml_hashing.losses._classes import codes_with_tie_code
from pml_hashing.pairs import similarity
from pml_hashing.trainers import AsymmetricTrainer

NAMES = ["CRHLoss", "CSQLoss", "DCWHLoss", "GreedyHashLoss", "HyP2Loss", "OrthoHashLoss"]
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


@pytest.mark.parametrize(("num_classes", "code_length"), [(10, 32), (20, 32), (100, 16)])
def test_losses_with_fixed_centers_start_from_the_same_codes(num_classes, code_length):
    codes = hash_centers(num_classes, code_length, seed=2)
    csq = losses.CSQLoss(num_classes, code_length, seed=2)
    assert_close(csq.class_codes[:-1], codes)
    assert_close(losses.OrthoHashLoss(num_classes, code_length, seed=2).class_codes, codes)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("name", ["CSQLoss", "OrthoHashLoss"])
def test_codes_of_every_kind_are_taken(name, labels):
    features, of_samples = gather_features(nn.Identity(), [(make_images(), labels)])
    alike = class_similarity(features, of_samples, num_classes=4)
    for codes in (
        assign_codes(spread_codes(4, 12), alike),
        separated_centers(4, 12),
        semantic_centers(alike, 12),
    ):
        loss_func = getattr(losses, name)(4, 12, class_codes=codes)
        assert_close(loss_func.class_codes[:4], codes)
        before = [loss_func(make_images() @ torch.randn(6, 12), labels) for _ in range(2)]
        codes.zero_()  # the loss has its own
        assert all(loss.isfinite() for loss in before)
        assert (loss_func.class_codes[:4] != 0).all()


def test_codes_with_a_tie_code():
    assert_close(codes_with_tie_code("spread", 4, 12, seed=3), spread_codes(5, 12, seed=3))
    given = hash_centers(4, 12).to(torch.int8)
    codes = codes_with_tie_code(given, 4, 12, seed=3)
    assert (codes.shape, codes.dtype) == ((5, 12), torch.float32)
    assert_close(codes[:-1], given.float())
    assert set(codes[-1].tolist()) == {-1.0, 1.0}
    assert_close(codes_with_tie_code(given, 4, 12, seed=3), codes)
    with pytest.raises(
        ValueError, match=r"`class_codes` of shape \(4, 12\) .* got shape \(5, 12\)"
    ):
        codes_with_tie_code(codes, 4, 12, seed=3)
