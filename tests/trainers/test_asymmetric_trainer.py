"""Rounds of the asymmetric trainer: samples, networks, discrete steps, hooks, errors."""

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pml_hashing import CodeBank, DSAHLoss
from pml_hashing.codes import hamming_distance
from pml_hashing.losses import ADSHLoss
from pml_hashing.miners import AffinityGraphMiner
from pml_hashing.trainers import AsymmetricTrainer

CLASS_IDS = torch.arange(34) % 3
MULTI_HOT = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]])[CLASS_IDS]


def make_data(labels=CLASS_IDS):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(labels), 5, generator=generator)
    return TensorDataset(images + 3 * nn.functional.one_hot(CLASS_IDS, 5), labels)


def make_network(code_length=8):
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Dropout(0.1)), nn.Sequential(
        nn.Linear(12, code_length), nn.Tanh()
    )


def make_trainer(
    labels=CLASS_IDS, num_networks=1, with_bank=True, loss=None, device="cpu", models=(), **kwargs
):
    torch.manual_seed(0)
    trunk, embedder = make_network()
    networks = {"trunk": trunk, "embedder": embedder}
    if num_networks == 2:
        networks["database_trunk"], networks["database_embedder"] = make_network()
    for model in networks.values():
        model.to(device)
    bank = CodeBank(labels, 8, num_networks=num_networks).to(device) if with_bank else None
    loss = loss or DSAHLoss(3, 8, code_bank=bank)
    optimizers = {
        f"{k}_optimizer": torch.optim.Adam(m.parameters(), 0.01) for k, m in networks.items()
    }
    networks |= {"code_bank": bank} if with_bank else {}
    return AsymmetricTrainer(
        models=networks | dict(models),
        optimizers=optimizers,
        loss_funcs={"metric_loss": loss.to(device)},
        **{"batch_size": 16, "dataset": make_data(labels), "data_device": torch.device(device)}
        | {"dataloader_num_workers": 0}
        | kwargs,
    )


def weights(trainer):
    return torch.cat([p.flatten() for m in trainer.models.values() for p in m.parameters()])


@pytest.mark.parametrize("passes", [1, 2])
def test_every_sample_once_a_pass_with_its_place(passes):
    seen, data = [], make_data()

    def getter(batch):
        seen.append(batch)
        return batch

    def check(trainer):
        assert_close(data[trainer.sample_indices], tuple(seen[-1]))
        assert len(trainer.sample_indices) in (11, 12)  # 34 samples in 3 nearly equal batches
        seen[-1] = trainer.sample_indices.tolist()

    loss = ADSHLoss(3, 8, code_bank=(bank := CodeBank(CLASS_IDS, 8)))
    make_trainer(
        loss=loss,
        models={"code_bank": bank},
        passes_per_round=passes,
        data_and_label_getter=getter,
        end_of_iteration_hook=check,
    ).train()
    seen = [index for batch in seen for index in batch]
    assert sorted(seen) == sorted([*range(34)] * passes)
    assert seen != sorted(seen)


@pytest.mark.parametrize("labels", [CLASS_IDS, MULTI_HOT], ids=["class_ids", "multi_hot"])
@pytest.mark.parametrize("num_networks", [1, 2])
def test_learns_codes(labels, num_networks, device):
    trainer = make_trainer(labels, num_networks, device=device)
    trainer.train(num_epochs=30)
    bank = trainer.models["code_bank"]
    data = make_data(labels).tensors[0].to(device)
    for name in ("", "database_")[:num_networks]:
        trunk, embedder = trainer.models[f"{name}trunk"].eval(), trainer.models[f"{name}embedder"]
        distances = hamming_distance(embedder.eval()(trunk(data)), bank.binary_codes.float())
        same_row = (CLASS_IDS[:, None] == CLASS_IDS).to(device)
        within, between = distances[same_row].float().mean(), distances[~same_row].float().mean()
        assert within < 1
        assert between > 2.5 * within


def test_discrete_step_comes_before_the_hook_and_never_raises_the_objective():
    updates = []

    def check(trainer):
        assert trainer.loss_funcs["metric_loss"].objective_value == trainer.code_update.after
        updates.append(trainer.code_update)

    make_trainer(loss=None, end_of_epoch_hook=check).train(num_epochs=4)
    assert len(updates) == 4
    assert all(update.after <= update.before * (1 + 1e-6) for update in updates)
    assert updates[-1].after < updates[0].before


def test_hook_that_returns_false_stops():
    trainer = make_trainer(end_of_epoch_hook=lambda trainer: trainer.epoch < 2)
    trainer.train(num_epochs=5)
    assert trainer.epoch == 2


def test_same_seed_same_weights():
    first, second, other = (make_trainer(seed=seed) for seed in (3, 3, 4))
    for trainer in (first, second, other):
        trainer.train(num_epochs=2)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_mini_batch_mode():
    trainer = make_trainer(with_bank=False)
    before = weights(trainer).clone()
    trainer.train()
    assert trainer.code_update is None
    assert not torch.equal(weights(trainer), before)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_any_pml_loss(num_networks):
    trainer = make_trainer(
        with_bank=False,
        num_networks=num_networks,
        loss=ContrastiveLoss(),
        mining_funcs={"tuple_miner": AffinityGraphMiner(num_neighbors=2)},
        sampler=MPerClassSampler(CLASS_IDS, 4, 12, 36),
    )
    before = {k: next(m.parameters()).clone() for k, m in trainer.models.items()}
    trainer.train(num_epochs=2)
    for name, model in trainer.models.items():
        assert not torch.equal(next(model.parameters()), before[name])


def test_second_network_is_the_reference():
    calls = []

    class Spy(ContrastiveLoss):
        def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
            calls.append((embeddings, labels, ref_emb, ref_labels))
            return super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    trainer = make_trainer(with_bank=False, num_networks=2, loss=Spy(distance=LpDistance()))
    trainer.train()
    codes, labels, ref_codes, ref_labels = calls[0]
    assert_close(ref_labels, labels)
    assert ref_labels is not labels
    assert not torch.equal(codes, ref_codes)


def test_default_second_embedder_is_the_identity():
    trainer = make_trainer(
        with_bank=False, models={"database_trunk": nn.Sequential(*make_network())}
    )
    assert isinstance(trainer.models["database_embedder"], nn.Identity)
    trainer.train()


def test_collate_fn_gets_the_items_of_the_data_set():
    def collate(items):
        assert all(len(item) == 2 for item in items)
        images, labels = zip(*items, strict=True)
        return {"images": torch.stack(images), "labels": torch.stack(labels)}

    trainer = make_trainer(
        collate_fn=collate, data_and_label_getter=lambda batch: (batch["images"], batch["labels"])
    )
    trainer.train()
    assert trainer.code_update is not None


def test_loss_that_is_not_finite_stops():
    data = make_data()
    data.tensors[0][5] = float("nan")
    with pytest.raises(FloatingPointError, match=r"finite loss, got nan in round 1, .*\b5\b"):
        make_trainer(dataset=data).train()


class Lengthless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(5), 0


SMALLER = TensorDataset(torch.zeros(33, 5), CLASS_IDS[:33])
ERRORS = {
    "small": ({"batch_size": 35}, ValueError, "at least `batch_size` = 35 samples, got 34"),
    "passes": ({"passes_per_round": 0}, ValueError, "`passes_per_round` of at least 1, got 0"),
    "batch": ({"batch_size": 0}, ValueError, "`batch_size` of at least 1, got 0"),
    "length": ({"dataset": Lengthless()}, TypeError, "with a length, got Lengthless"),
    "level": ({"label_hierarchy_level": 0}, ValueError, "to be 'all', .* got 0"),
    "key": ({"models": {"trunk_db": nn.Identity()}}, ValueError, "got .*'trunk_db'"),
    "bank": ({"models": {"code_bank": CodeBank(CLASS_IDS, 8)}}, ValueError, "`code_bank` of the"),
    "size": ({"dataset": SMALLER}, ValueError, "of 34 samples, .* got 33"),
    "subset": ({"mining_funcs": {"subset_batch_miner": 0}}, ValueError, "no `subset_batch_miner`"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        make_trainer(**arguments)


def test_code_bank_of_the_loss_must_be_saved_with_the_models():
    loss = DSAHLoss(3, 8, code_bank=CodeBank(CLASS_IDS, 8))
    with pytest.raises(
        ValueError, match=r'models\["code_bank"\] to be the `code_bank` of the loss'
    ):
        make_trainer(with_bank=False, loss=loss)
