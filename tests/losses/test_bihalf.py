"""BiHalfLoss against its formula and its written-out gradient, pair by pair."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.reducers import DoNothingReducer
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import nn
from torch.testing import assert_close

from pml_hashing import HammingKNN
from pml_hashing.codes import hamming_distance
from pml_hashing.datasets import IndexedDataset
from pml_hashing.losses import BiHalfLoss
from pml_hashing.losses.bihalf import halves

FEATURES = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


def bihalf_bits(codes):
    """One bit at a time: the largest half is 1, the rest -1, the middle has its own sign."""
    n, bits = len(codes), [[0] * len(codes[0]) for _ in codes]
    for k in range(len(codes[0])):
        order = sorted(range(n), key=lambda i: codes[i][k])
        for rank, i in enumerate(order):
            middle = n % 2 == 1 and rank == n // 2
            up = codes[i][k] >= 0 if middle else rank >= (n + 1) // 2
            bits[i][k] = 1 if up else -1
    return bits


def cosine(x, y):
    inner, squares = sum(a * b for a, b in zip(x, y, strict=True)), [0.0, 0.0]
    for part, vector in enumerate((x, y)):
        squares[part] = math.sqrt(sum(a * a for a in vector))
    return inner / (squares[0] * squares[1])


def bihalf_reference(codes, features, gamma):
    """The loss, with that of the transport, and the gradient of every code by the printed rule."""
    n, length, bits = len(codes), len(codes[0]), bihalf_bits(codes)
    total, gradient = 0.0, [[0.0] * length for _ in codes]
    for i in range(n):
        for j in range(n):
            if i != j:
                found = cosine(bits[i], bits[j])
                error = found - cosine(features[i], features[j])
                total += error**2 / (n * (n - 1))
                for k in range(length):  # both orders of a pair move the code
                    slope = (bits[j][k] - found * bits[i][k]) / length
                    gradient[i][k] += 2 * 2 * error * slope / (n * (n - 1))
        for k in range(length):
            distance = codes[i][k] - bits[i][k]
            total += gamma / (2 * n * length) * distance**2
            gradient[i][k] += gamma / (n * length) * distance
    return total, gradient


def make_codes(n=6, code_length=8, **kwargs):
    return torch.randn(n, code_length, **kwargs)


@pytest.mark.parametrize("n", [2, 5, 6])
@pytest.mark.parametrize("gamma", [0.0, 6.0])
def test_value_and_gradient(n, gamma, device, dtype):
    rows = torch.randperm(9)[:n]
    codes = make_codes(n, dtype=dtype, device=device).requires_grad_()
    loss = BiHalfLoss(FEATURES.to(dtype), gamma=gamma).to(device)(codes, rows)
    loss.backward()
    features = FEATURES.to(dtype)[rows].tolist()
    expected, gradient = bihalf_reference(codes.tolist(), features, gamma)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    gradient = torch.tensor(gradient, dtype=dtype, device=device)
    assert_close(codes.grad, gradient, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_the_authors_loss_is_the_same_on_average():
    """They compare the first half of a batch with the second: here, over all ways to halve it."""
    rows, codes = torch.arange(6), make_codes()
    bits, found = halves(codes), []
    for _ in range(4000):
        one, two = torch.randperm(6).chunk(2)
        ours, theirs = (
            nn.functional.cosine_similarity(x[one], x[two]) for x in (bits, FEATURES[rows])
        )
        found.append((ours - theirs).square().mean())
    assert_close(
        BiHalfLoss(FEATURES, gamma=0)(codes, rows), torch.stack(found).mean(), rtol=0.03, atol=0
    )


@given(st.integers(1, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_bits_are_the_nearest_in_balance(n, code_length, random):
    codes = torch.tensor([[random.gauss(0, 1) for _ in range(code_length)] for _ in range(n)])
    bits = halves(codes)
    assert bits.tolist() == bihalf_bits(codes.tolist())
    assert (bits.sum(dim=0).abs() == n % 2).all()


def test_equal_codes_are_halved_too():
    assert halves(torch.zeros(4, 2)).sum(dim=0).tolist() == [0, 0]


def test_gradient_of_the_transport():
    loss_func = BiHalfLoss(FEATURES, reducer=DoNothingReducer())
    codes = make_codes(dtype=torch.float64).requires_grad_()

    def transport(codes):
        return loss_func(codes, torch.arange(6))["transport_loss"]["losses"]

    assert torch.autograd.gradcheck(transport, codes)


def test_a_second_network_is_compared_with_the_first():
    rows, codes, ref_codes = torch.arange(6), make_codes(), make_codes()
    loss_func = BiHalfLoss(FEATURES, reducer=DoNothingReducer())
    found = loss_func(codes, rows, ref_emb=ref_codes, ref_labels=rows)
    u, v = bihalf_bits(codes.tolist()), bihalf_bits(ref_codes.tolist())
    for i in range(6):
        errors = [cosine(u[i], v[j]) - cosine(*FEATURES[[i, j]].tolist()) for j in range(6)]
        expected = sum(e * e for e in errors) / 6
        assert found["similarity_loss"]["losses"][i].item() == pytest.approx(expected, rel=1e-5)
    single = [loss_func(c, rows)["transport_loss"]["losses"] for c in (codes, ref_codes)]
    assert_close(found["transport_loss"]["losses"], sum(single))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_may_be_of_any_dtype(dtype):
    codes, rows = make_codes(), torch.arange(6)
    expected = BiHalfLoss(FEATURES.to(dtype).float())(codes, rows)
    assert_close(BiHalfLoss(FEATURES.to(dtype))(codes, rows), expected)


def test_features_of_several_labels_are_added():
    codes, labels = make_codes(2), torch.zeros(2, 9)
    labels[0, [1, 4]], labels[1, 2] = 1, 1
    sums = torch.stack([FEATURES[1] + FEATURES[4], FEATURES[2]])
    assert_close(BiHalfLoss(FEATURES)(codes, labels), BiHalfLoss(sums)(codes, torch.arange(2)))


def test_features_are_no_state_and_no_parameter():
    loss_func = BiHalfLoss(FEATURES.clone().requires_grad_())
    assert not loss_func.state_dict()
    assert not list(loss_func.parameters())
    assert not loss_func.features.requires_grad


class Images(torch.utils.data.Dataset):
    """Items without labels, in 8 groups."""

    def __init__(self):
        self.images = (3 * torch.randn(8, 12)).repeat(16, 1) + 0.5 * torch.randn(128, 12)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.mark.parametrize("in_trainer", [False, True])
def test_learns_neighbours_and_balance_without_labels(in_trainer):
    data, network = Images(), nn.Linear(12, 16)
    features = data.images - data.images.mean(dim=0)
    loss_func, optimizer = BiHalfLoss(features), torch.optim.Adam(network.parameters(), 0.01)
    if in_trainer:
        MetricLossOnly(
            models={"trunk": network},
            optimizers={"trunk_optimizer": optimizer},
            batch_size=32,
            loss_funcs={"metric_loss": loss_func},
            dataset=IndexedDataset(data),
            data_device=torch.device("cpu"),
            dataloader_num_workers=0,
        ).train(num_epochs=60)
    else:
        for _ in range(60):
            for rows in torch.randperm(128).split(32):
                optimizer.zero_grad()
                loss_func(network(data.images[rows]), rows).backward()
                optimizer.step()
    codes = network(data.images).detach()
    groups = torch.arange(128) % 8
    _, nearest = HammingKNN()(codes, 5, codes, ref_includes_query=True)
    assert (groups[nearest] == groups[:, None]).float().mean() > 0.95
    assert (codes >= 0).float().mean(dim=0).sub(0.5).abs().mean() < 0.15
    distances = hamming_distance(codes, codes).double()
    alike = torch.corrcoef(torch.stack([distances.flatten(), -(features @ features.T).flatten()]))
    assert alike[0, 1] > 0.7


@pytest.mark.parametrize(
    ("features", "options", "error", "message"),
    [
        ([[1.0]], {}, TypeError, "`features` to be a torch.Tensor, got list"),
        (torch.ones(3), {}, ValueError, r"`features` of shape .*, got \(3,\)"),
        (torch.ones(3, 2).long(), {}, ValueError, "floating `features`, got torch.int64"),
        (FEATURES, {"gamma": -1}, ValueError, "`gamma` of at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(features, options, error, message):
    with pytest.raises(error, match=message):
        BiHalfLoss(features, **options)


def test_rows_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="from 0 to 8, got 0 to 9"):
        BiHalfLoss(FEATURES)(make_codes(2), torch.tensor([0, 9]))
    with pytest.raises(ValueError, match=r"`ref_emb` of shape \(6, 8\), .* got \(5, 8\)"):
        BiHalfLoss(FEATURES)(make_codes(), torch.arange(6), None, make_codes(5), torch.arange(5))
