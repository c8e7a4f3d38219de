"""CRHLoss against its formula, class by class, and its discrete step against all assignments."""

import itertools
import math

import pytest
import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from pml_hashing.losses import CRHLoss, CRHSchedule, OrthoHashLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]),
}


def crh_reference(codes, labels, centers, scale, margin, weight):
    """The printed formula."""

    def cosine(x, z):
        inner = sum(a * b for a, b in zip(x, z, strict=True))
        return inner / math.sqrt(sum(a * a for a in x) * sum(b * b for b in z))

    total = 0.0
    for code, row in zip(codes, labels, strict=True):
        terms = [
            math.exp(scale * (cosine(code, center) - margin * y))
            for center, y in zip(centers, row, strict=True)
        ]
        for term, y in zip(terms, row, strict=True):
            total -= y * math.log(term / sum(terms)) / max(1, sum(row))
        total += weight * sum((abs(math.tanh(u)) - 1) ** 2 for u in code) / len(code)
    return total / len(codes)


def rows_of(labels, num_classes=3):
    return (labels if labels.ndim == 2 else nn.functional.one_hot(labels, num_classes)).tolist()


def make_codes(n=6, code_length=8, **kwargs):
    return torch.randn(n, code_length, **kwargs)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("code_length", [6, 8])
@pytest.mark.parametrize(
    ("scale", "margin", "weight"), [(8.0, 0.2, 0.1), (1.0, 0.0, 0.0), (20.0, 0.5, 3.0)]
)
def test_value(labels, scale, margin, weight, code_length, device, dtype):
    loss_func = CRHLoss(3, code_length, scale=scale, margin=margin, quantization_weight=weight)
    loss_func, codes = loss_func.to(device), make_codes(6, code_length, dtype=dtype, device=device)
    centers = loss_func.class_codes.tolist()
    expected = crh_reference(codes.tolist(), rows_of(labels), centers, scale, margin, weight)
    loss = loss_func(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_a_second_network_adds_its_own_loss(labels):
    loss_func, codes, ref_codes = CRHLoss(3, 8), make_codes(), make_codes()
    both = loss_func(codes, labels, ref_emb=ref_codes, ref_labels=labels)
    assert_close(both, loss_func(codes, labels) + loss_func(ref_codes, labels))


def test_gradient(labels, device):
    loss_func = CRHLoss(3, 8).to(device)
    codes = make_codes(dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: loss_func(c, labels), codes)


def test_without_quantization_it_is_orthohash_with_its_centers(labels):
    loss_func, codes = CRHLoss(3, 8, scale=8, quantization_weight=0), make_codes()
    other = OrthoHashLoss(3, 8, scale=8, class_codes=loss_func.class_codes)
    assert_close(loss_func(codes, labels), other(codes, labels))


@pytest.mark.parametrize(("num_classes", "scale"), [(2, 2), (3, 2), (4, 3), (100, 99)])
def test_the_scale_is_that_of_the_number_of_classes(num_classes, scale):
    assert CRHLoss(num_classes, 16).scale == pytest.approx(math.sqrt(2) * math.log(scale))


@pytest.mark.parametrize(
    ("num_classes", "code_length", "length"),
    [(2, 4, 2), (3, 16, 4), (3, 9, 3), (4, 12, 3), (100, 16, 8), (100, 48, 8), (128, 8, 8)],
)
def test_codebooks(num_classes, code_length, length):
    """Sub-codes of the least length that divides the codes and has twice as many as classes."""
    loss_func = CRHLoss(num_classes, code_length)
    assert loss_func.codebook.shape == (code_length // length, 2 * num_classes, length)
    for head in loss_func.codebook:
        assert set(head.unique().tolist()) == {-1.0, 1.0}
        assert len(head.unique(dim=0)) == len(head)
    assert_close(
        loss_func.class_codes, loss_func.codebook[:, :num_classes].permute(1, 0, 2).flatten(1)
    )
    assert_close(loss_func.codebook, CRHLoss(num_classes, code_length).codebook)


def test_a_seed_decides():
    assert (CRHLoss(3, 16, seed=1).codebook != CRHLoss(3, 16, seed=2).codebook).any()


def reassignment_reference(codebook, codes, labels, num_classes):
    """The least sum of mean squared distances, over all injections of classes, head by head."""
    total, length = 0.0, len(codebook[0][0])
    for h, head in enumerate(codebook):
        part = slice(h * length, (h + 1) * length)
        cost = [[0.0] * len(head) for _ in range(num_classes)]
        weights = [sum(row[c] / sum(row) for row in labels if row[c]) for c in range(num_classes)]
        for code, row in zip(codes, labels, strict=True):
            signs = [1 if u >= 0 else -1 for u in code[part]]
            for c, m in itertools.product(range(num_classes), range(len(head))):
                if row[c]:
                    distance = sum((a - b) ** 2 for a, b in zip(signs, head[m], strict=True))
                    cost[c][m] += distance / sum(row) / weights[c]
        total += min(
            sum(cost[c][m] for c, m in enumerate(chosen))
            for chosen in itertools.permutations(range(len(head)), num_classes)
        )
    return total


def cost_of_centers(centers, codes, labels):
    total = 0.0
    for c, center in enumerate(centers):
        weights = [row[c] / max(1, sum(row)) for row in labels]
        for weight, code in zip(weights, codes, strict=True):
            signs = [1 if u >= 0 else -1 for u in code]
            total += (
                weight
                * sum((a - b) ** 2 for a, b in zip(signs, center, strict=True))
                / sum(weights)
            )
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_discrete_step_is_the_best_of_all(labels, seed, device):
    loss_func, codes = CRHLoss(3, 8, seed=seed).to(device), make_codes(device=device)
    CRHSchedule(loss_func, nn.Identity(), [(codes[:4], labels[:4]), (codes[4:], labels[4:])]).step()
    best = reassignment_reference(
        loss_func.codebook.tolist(), codes.tolist(), rows_of(labels), num_classes=3
    )
    found = cost_of_centers(loss_func.class_codes.tolist(), codes.tolist(), rows_of(labels))
    assert found == pytest.approx(best)
    assert_centers_are_of_the_codebook(loss_func)


def assert_centers_are_of_the_codebook(loss_func):
    length = loss_func.codebook.shape[2]
    for head, part in zip(
        loss_func.codebook, loss_func.class_codes.split(length, dim=1), strict=True
    ):
        chosen = [head.tolist().index(sub_code) for sub_code in part.tolist()]
        assert len(set(chosen)) == len(chosen)


def test_greedy_classes_choose_in_turn():
    loss_func = CRHLoss(3, 3)
    sums, counts = torch.tensor([[2.0, 2, 2], [6, 6, 6], [1, 1, -3]]), torch.tensor([2.0, 6, 3])
    for seed in range(5):
        order = torch.randperm(3, generator=torch.Generator().manual_seed(seed)).tolist()
        loss_func.reassign(sums, counts, assignment="greedy", seed=seed)
        free = {tuple(code) for code in loss_func.codebook[0].tolist()}
        for c in order:
            mine = tuple(loss_func.class_codes[c].tolist())
            inner = {z: sum(a * b for a, b in zip(z, sums[c].tolist(), strict=True)) for z in free}
            assert inner[mine] == max(inner.values())
            free.remove(mine)


def test_an_absent_class_keeps_its_center_if_it_is_free():
    loss_func = CRHLoss(3, 8, seed=1)
    before = loss_func.class_codes.clone()
    sums, counts = 5 * before, torch.tensor([5.0, 5.0, 0.0])
    sums[2] = 0
    loss_func.reassign(sums, counts)
    assert_close(loss_func.class_codes, before)
    sums[0] = 5 * before[2]  # the first class takes it
    loss_func.reassign(sums, counts)
    assert_close(loss_func.class_codes[0], before[2])
    assert_centers_are_of_the_codebook(loss_func)


def test_centers_are_reassigned_in_their_epochs():
    loss_func, codes = CRHLoss(2, 2), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    schedule = CRHSchedule(
        loss_func, nn.Identity(), [(codes, torch.tensor([0, 1]))], every_epoch_until=2, then_every=3
    )
    seen = []
    for _ in range(7):
        loss_func.class_codes.zero_()
        schedule.step()
        seen.append(bool((loss_func.class_codes == codes).all()))
    assert seen == [True, True, True, False, False, True, False]


def test_a_pass_leaves_the_model_as_it_was(labels, device):
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8)).to(device)
    loss_func, inputs = CRHLoss(3, 8).to(device), torch.randn(6, 4)
    model[2].eval()
    CRHSchedule(loss_func, model, [(inputs, labels)]).step()
    assert [module.training for module in model.modules()] == [True, True, True, False]
    first = loss_func.class_codes.clone()
    CRHSchedule(loss_func, model.eval(), [(inputs, labels)]).step()
    assert_close(loss_func.class_codes, first)


def test_greedy_goes_on_alike_when_resumed():
    batches = [(torch.randn(40, 8), torch.arange(40) % 8)]
    losses = [CRHLoss(8, 8), CRHLoss(8, 8)]
    schedules = [CRHSchedule(x, nn.Identity(), batches, assignment="greedy") for x in losses]
    for _ in range(3):
        schedules[0].step()
    losses[1].load_state_dict(losses[0].state_dict())
    schedules[1].load_state_dict(schedules[0].state_dict())
    for schedule in schedules:
        schedule.step()
    assert schedules[1].epoch == 4
    assert_close(losses[1].class_codes, losses[0].class_codes, rtol=0, atol=0)


def test_classes_that_are_alike_get_near_centers_in_a_trainer_of_pml():
    classes = torch.arange(240) % 8
    means = 3 * torch.randn(4, 6).repeat_interleave(2, dim=0) + torch.randn(8, 6)
    data = TensorDataset(means[classes] + 0.5 * torch.randn(240, 6), classes)
    trunk, loss_func = nn.Linear(6, 16), CRHLoss(8, 16)
    schedule = CRHSchedule(loss_func, trunk, DataLoader(data, batch_size=60))
    MetricLossOnly(
        models={"trunk": trunk},
        optimizers={"trunk_optimizer": torch.optim.Adam(trunk.parameters(), 0.02)},
        batch_size=40,
        loss_funcs={"metric_loss": loss_func},
        dataset=data,
        lr_schedulers={"metric_loss_scheduler_by_epoch": schedule},
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
    ).train(num_epochs=25)
    assert schedule.epoch == 25
    inner = loss_func.class_codes @ loss_func.class_codes.T
    twins = inner[torch.arange(0, 8, 2), torch.arange(1, 8, 2)].mean()
    assert twins > (inner.sum() - 8 * 16 - 8 * twins) / 48 + 4  # two bits nearer than others


def test_a_sample_without_labels_is_only_quantized():
    codes, none = make_codes(), torch.zeros(6, 3)
    assert CRHLoss(3, 8, quantization_weight=0)(codes, none) == 0
    expected = 0.5 * (codes.tanh().abs() - 1).square().mean()
    assert_close(CRHLoss(3, 8, quantization_weight=0.5)(codes, none), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"code_length": 0}, "`code_length` of at least 1, got 0"),
        ({"code_length": 2}, r"`code_length` of at least 3, that .* = 6 codes .*, got 2"),
        ({"scale": 0}, "positive `scale`, got 0"),
        ({"margin": -1}, "`margin` of at least 0, got -1"),
        ({"quantization_weight": -1}, "`quantization_weight` of at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CRHLoss(**{"num_classes": 3, "code_length": 8, **options})


def test_wrong_arguments_are_named(labels):
    loss_func = CRHLoss(3, 8)
    with pytest.raises(ValueError, match=r"`embeddings` of shape \(6, 8\), .* got \(6, 4\)"):
        loss_func(make_codes(6, 4), labels)
    with pytest.raises(ValueError, match=r"`code_sums` of shape \(3, 8\) .* got \(3, 4\)"):
        loss_func.reassign(torch.zeros(3, 4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"`class_counts` of shape \(3,\), .* and \(2,\)"):
        loss_func.reassign(torch.zeros(3, 8), torch.zeros(2))
    with pytest.raises(ValueError, match="`assignment` to be one of 'hungarian', 'greedy'"):
        loss_func.reassign(torch.zeros(3, 8), torch.zeros(3), assignment="best")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_epoch_until": -1}, "`every_epoch_until` of at least 0, got -1"),
        ({"then_every": 0}, "`then_every` of at least 1, got 0"),
        ({"assignment": "best"}, "`assignment` to be one of 'hungarian', 'greedy'"),
    ],
)
def test_wrong_schedules_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CRHSchedule(CRHLoss(3, 8), nn.Identity(), [], **options)


def test_wrong_labels_of_a_pass_are_named():
    schedule = CRHSchedule(CRHLoss(3, 8), nn.Identity(), [(torch.zeros(1, 8), torch.tensor([3]))])
    with pytest.raises(ValueError, match="`labels` with class ids from 0 to 2, got 3 to 3"):
        schedule.step()
