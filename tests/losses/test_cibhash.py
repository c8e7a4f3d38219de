"""CIBHashLoss against its formula, pair by pair, and against PML's NT-Xent."""

import math

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss
from pytorch_metric_learning.reducers import DoNothingReducer
from torch import nn
from torch.testing import assert_close

from pml_hashing.losses import CIBHashLoss
from pml_hashing.losses.cibhash import divergences


def kl(u, v):
    total = 0.0
    for a, b in zip(u, v, strict=True):
        p, q = (1 + a) / 2, (1 + b) / 2
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return total


def cibhash_reference(codes, labels, temperature, beta):
    """The printed formula: a list of views, each with the label of its image."""
    m, total = len(codes), 0.0
    bits = [[1 if x >= 0 else -1 for x in u] for u in codes]
    score = [
        [
            math.exp(sum(a * b for a, b in zip(x, y, strict=True)) / len(x) / temperature)
            for y in bits
        ]
        for x in bits
    ]
    for i in range(m):
        others = [j for j in range(m) if j != i and labels[j] == labels[i]]
        rest = sum(score[i][k] for k in range(m) if labels[k] != labels[i])
        for j in others:
            loss = -math.log(score[i][j] / (score[i][j] + rest))
            loss += beta / 2 * (kl(codes[i], codes[j]) + kl(codes[j], codes[i]))
            total += loss / len(others) / m
    return total


def make_codes(n=6, code_length=8, **kwargs):
    return torch.tanh(torch.randn(n, code_length, **kwargs))


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.001, 1.0])
def test_value(temperature, beta, device, dtype):
    labels, codes = torch.tensor([0, 1, 2, 1, 0, 1]), make_codes(dtype=dtype, device=device)
    loss = CIBHashLoss(temperature=temperature, beta=beta).to(device)(codes, labels)
    expected = cibhash_reference(codes.tolist(), labels.tolist(), temperature, beta)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_views_as_reference_are_views_of_one_batch():
    codes, others, loss_func = make_codes(), make_codes(), CIBHashLoss()
    both = loss_func(torch.cat([codes, others]), torch.arange(6).repeat(2))
    assert_close(loss_func(codes, ref_emb=others), both)
    rows = torch.arange(6) + 40
    assert_close(loss_func(codes, rows, ref_emb=others, ref_labels=rows), both)


def test_a_sample_without_labels_is_like_its_other_view():
    codes, others, loss_func = make_codes(), make_codes(), CIBHashLoss()
    none = torch.zeros(6, 3)
    expected = loss_func(codes, ref_emb=others)
    assert_close(loss_func(codes, none, ref_emb=others, ref_labels=none), expected)


def test_without_divergence_it_is_pmls_nt_xent_of_bits():
    codes, others = make_codes(), make_codes()
    expected = SelfSupervisedLoss(NTXentLoss(0.5))(codes.sign(), others.sign())
    loss = CIBHashLoss(temperature=0.5, beta=0)(codes, ref_emb=others)
    assert_close(loss, expected)


def test_gradient_passes_through_the_sign():
    codes, others = make_codes().requires_grad_(), make_codes()
    CIBHashLoss(beta=0)(codes, ref_emb=others).backward()
    bits = codes.detach().sign().requires_grad_()
    SelfSupervisedLoss(NTXentLoss(1.0))(bits, others.sign()).backward()
    assert_close(codes.grad, bits.grad)


def test_gradient_of_the_divergence():
    loss_func = CIBHashLoss(beta=1.0, reducer=DoNothingReducer())
    codes = (0.9 * make_codes(4, dtype=torch.float64)).requires_grad_()

    def divergence(codes):
        return loss_func(codes, torch.tensor([0, 0, 1, 1]))["divergence_loss"]["losses"]

    assert torch.autograd.gradcheck(divergence, codes)


def test_certain_bits_have_a_finite_divergence():
    found = divergences(torch.tensor([[1.0, -1.0], [-1.0, -1.0]]))
    assert found.isfinite().all()
    assert_close(found.diagonal(), torch.zeros(2))
    assert found[0, 1] > 5


def test_learns_groups_from_views():
    centers, network = 2 * torch.randn(8, 12), nn.Sequential(nn.Linear(12, 16), nn.Tanh())
    loss_func, optimizer = CIBHashLoss(), torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(100):
        views = [network(centers + 0.5 * torch.randn(8, 12)) for _ in range(2)]
        optimizer.zero_grad()
        loss_func(views[0], ref_emb=views[1]).backward()
        optimizer.step()
    one, two = (network(centers + 0.5 * torch.randn(8, 12)).detach().sign() for _ in range(2))
    assert ((one @ two.T).argmax(dim=1) == torch.arange(8)).float().mean() > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0}, "positive `temperature`, got 0"), ({"beta": -1}, "`beta` of at least 0")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CIBHashLoss(**options)


def test_a_view_of_each_is_wanted():
    with pytest.raises(ValueError, match=r"`ref_emb` of shape \(6, 8\), .* got \(5, 8\)"):
        CIBHashLoss()(make_codes(), ref_emb=make_codes(5))
