"""CSQLoss against its formula, sample by sample and bit by bit."""

import math

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.centers import hash_centers
from pml_hashing.losses import CSQLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]),
}


def csq_reference(codes, labels, centers, tie_code, weight):
    """The printed formula; of several labels, the sign of the sum of their centers."""
    total = 0.0
    for code, row in zip(codes, labels, strict=True):
        for k, u in enumerate(code):
            total += weight * (abs(u) - 1) ** 2
            if not any(row):
                continue
            votes = sum(center[k] for center, y in zip(centers, row, strict=True) if y)
            c = tie_code[k] if votes == 0 else math.copysign(1, votes)
            p, t = (u + 1) / 2, (c + 1) / 2
            total -= t * math.log(p) + (1 - t) * math.log(1 - p)
    return total / (len(codes) * len(codes[0]))


def reference_of(loss_func, codes, labels):
    rows = labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, 3)
    return csq_reference(
        codes.tolist(),
        rows.tolist(),
        loss_func.class_codes[:-1].tolist(),
        loss_func.class_codes[-1].tolist(),
        loss_func.quantization_weight,
    )


def make_codes(n=6, code_length=8, **kwargs):
    return torch.tanh(torch.randn(n, code_length, **kwargs))


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("weight", [0.0, 0.05, 2.0])
def test_value(labels, weight, device, dtype):
    for seed in range(4):
        loss_func = CSQLoss(3, 8, quantization_weight=weight, seed=seed).to(device)
        codes = make_codes(dtype=dtype, device=device)
        loss = loss_func(codes, labels)
        assert_close(loss.item(), reference_of(loss_func, codes, labels), rtol=1e-5, atol=1e-6)
        assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_a_second_network_adds_its_own_loss(labels):
    loss_func, codes, ref_codes = CSQLoss(3, 8), make_codes(), make_codes()
    both = loss_func(codes, labels, ref_emb=ref_codes, ref_labels=labels)
    assert_close(both, loss_func(codes, labels) + loss_func(ref_codes, labels))


def test_gradient(labels, device):
    loss_func = CSQLoss(3, 8).to(device)
    codes = make_codes(dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: loss_func(c, labels), codes)


def test_ties_take_one_fixed_code():
    loss_func = CSQLoss(3, 64, quantization_weight=0, seed=1)
    tied = loss_func.class_codes[:2].sum(dim=0) == 0
    best = torch.where(tied, loss_func.class_codes[-1], loss_func.class_codes[0])
    assert 0 < tied.sum() < 64
    assert (
        tied.sum() > loss_func.class_codes[-1][tied].sum().abs()
    )  # the code has bits of both kinds
    assert loss_func(best[None], torch.tensor([[1, 1, 0]])) == 0


def test_centers_are_the_hash_centers():
    assert_close(CSQLoss(3, 12, seed=5).class_codes[:-1], hash_centers(3, 12, seed=5))
    own = torch.tensor([[1, 1], [1, -1], [-1, -1]])
    assert_close(CSQLoss(3, 2, class_codes=own).class_codes[:-1], own.float())


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e4])
def test_the_wrong_bit_is_always_corrected(scale):
    loss_func = CSQLoss(3, 8, quantization_weight=0)
    codes = (-scale * loss_func.class_codes[:-1]).half().requires_grad_()
    loss = loss_func(codes, torch.arange(3))
    loss.backward()
    assert loss.isfinite()
    assert codes.grad.isfinite().all()
    assert (codes.grad * loss_func.class_codes[:-1] < 0).all()


@pytest.mark.parametrize("value", [1.0, 1.5, 3.0, 100.0])
def test_a_bit_far_on_the_wrong_side_does_not_explode(value):
    loss_func = CSQLoss(3, 8, quantization_weight=0)
    codes = (-value * loss_func.class_codes[:-1]).requires_grad_()
    loss = loss_func(codes, torch.arange(3))
    loss.backward()
    at_the_pole = 1 - math.log(1e-4 / 2)
    assert_close(loss.item(), at_the_pole + value - 1, rtol=1e-4, atol=1e-4)
    if value > 1:  # one over bits and samples, as for a bit at 0
        assert_close(codes.grad, -loss_func.class_codes[:-1] / 24)


def test_codes_without_a_tanh_learn():
    torch.manual_seed(0)
    loss_func, labels = CSQLoss(4, 16), torch.arange(200) % 4
    features = 3 * torch.randn(4, 8)[labels] + torch.randn(200, 8)
    network = torch.nn.Linear(8, 16)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = loss_func(network(features), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) < 20
    assert losses[-1] < 0.3 * losses[0]
    assert ((network(features) > 0) == (loss_func.class_codes[labels] > 0)).double().mean() > 0.9


def test_a_code_beyond_its_center_is_right():
    loss_func = CSQLoss(3, 8, quantization_weight=0)
    codes = (3 * loss_func.class_codes[:-1]).requires_grad_()
    loss = loss_func(codes, torch.arange(3))
    loss.backward()
    assert loss == 0
    assert (codes.grad == 0).all()


def test_a_sample_without_labels_is_only_quantized():
    codes, none = make_codes(), torch.zeros(6, 3)
    assert CSQLoss(3, 8, quantization_weight=0)(codes, none) == 0
    expected = 0.5 * (codes.abs() - 1).square().mean()
    assert_close(CSQLoss(3, 8, quantization_weight=0.5)(codes, none), expected)


def test_saved_centers_are_those_that_load():
    saved, loaded = CSQLoss(3, 8, seed=1), CSQLoss(3, 8, seed=2)
    codes, labels = make_codes(), LABELS["multi_hot"]
    assert loaded(codes, labels) != saved(codes, labels)
    loaded.load_state_dict(saved.state_dict())
    assert_close(loaded(codes, labels), saved(codes, labels), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"code_length": 0}, "`code_length` of at least 1, got 0"),
        ({"quantization_weight": -1}, "`quantization_weight` of at least 0, got -1"),
        ({"class_codes": torch.ones(3, 7)}, r"`class_codes` of shape \(3, 8\) .* got .*\(3, 7\)"),
        ({"class_codes": torch.zeros(3, 8)}, r"values -1 and 1, got .* values \[0\.0\]"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CSQLoss(**{"num_classes": 3, "code_length": 8, **options})


def test_wrong_arguments_are_named():
    labels = LABELS["class_ids"]
    with pytest.raises(ValueError, match=r"`embeddings` of shape \(6, 8\), .* got \(6, 4\)"):
        CSQLoss(3, 8)(make_codes(6, 4), labels)
    with pytest.raises(ValueError, match=r"`ref_emb` of shape \(6, 8\), .* got \(5, 8\)"):
        CSQLoss(3, 8)(make_codes(), labels, ref_emb=make_codes(5))
