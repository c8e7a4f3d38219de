"""DPSHLoss against Eq. (4) of Li et al., IJCAI 2016."""

import math

import pytest
import torch
from loops import weighted_mean
from torch.testing import assert_close

from pml_hashing.losses import DPSHLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}


def share_a_label(y, z):
    return y == z if isinstance(y, int) else any(a and b for a, b in zip(y, z, strict=True))


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def dpsh_reference(codes, labels, eta, ref_codes=None, ref_labels=None, similar_weight="balanced"):
    """The printed objective over the number of pairs: the paper's with `similar_weight=1`."""
    same_set = ref_codes is None
    if same_set:
        ref_codes, ref_labels = codes, labels
    losses, kinds, objective = [], [], 0.0
    for i, u in enumerate(codes):
        for j, v in enumerate(ref_codes):
            if same_set and i == j:
                continue
            theta = dot(u, v) / 2
            s = share_a_label(labels[i], ref_labels[j])
            losses.append(math.log(1 + math.exp(theta)) - s * theta)
            kinds.append(s)
    for u in codes:
        b = [1 if x >= 0 else -1 for x in u]
        objective += eta * sum((c - x) ** 2 for c, x in zip(b, u, strict=True))
    return weighted_mean(losses, kinds, similar_weight) + objective / len(losses)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize(("eta", "weight"), [(0.0, 1), (10.0, 1), (10.0, "balanced"), (0.0, 2.5)])
def test_value(labels, eta, weight, device, dtype):
    codes = torch.randn(6, 4, dtype=dtype, device=device)
    expected = dpsh_reference(codes.tolist(), labels.tolist(), eta, similar_weight=weight)
    scaled = eta * 6 * 4 / 30  # eta n K / |S|
    loss = DPSHLoss(quantization_weight=scaled, similar_weight=weight)(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_value_against_the_training_set(labels):
    codes, bank = torch.randn(2, 4), torch.randn(6, 4)
    eta = 3.0
    expected = dpsh_reference(
        codes.tolist(), labels[:2].tolist(), eta, bank.tolist(), labels.tolist()
    )
    loss_func = DPSHLoss(quantization_weight=eta * 2 * 4 / 12)
    loss = loss_func(codes, labels[:2], ref_emb=bank, ref_labels=labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)


def test_gradient(labels, device):
    codes = torch.randn(6, 4, dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: DPSHLoss()(c, labels), codes)


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1, 2]], ids=["one", "all_same", "all_diff"])
def test_missing_kind_of_pair_counts_zero(labels):
    codes = torch.randn(len(labels), 4).requires_grad_()
    loss = DPSHLoss(quantization_weight=0)(codes, torch.tensor(labels))
    loss.backward()
    assert codes.grad.isfinite().all()
    if len(labels) == 1:
        assert loss == 0
    else:
        assert_close(loss.item(), dpsh_reference(codes.tolist(), labels, 0.0))


def test_pairs_of_a_miner_replace_those_of_the_labels():
    codes = torch.randn(6, 4)
    a1, p, a2, n = (torch.tensor(x) for x in ([0, 1], [1, 5], [0, 2, 2], [3, 4, 5]))
    theta = codes @ codes.T / 2
    kinds = [torch.log(1 + torch.exp(x)) for x in (-theta[a1, p], theta[a2, n])]
    for weight, expected in (
        (1, torch.cat(kinds).mean()),
        ("balanced", (kinds[0].mean() + kinds[1].mean()) / 2),
        (4.0, (4 * kinds[0].sum() + kinds[1].sum()) / (4 * 2 + 3)),
    ):
        loss_func = DPSHLoss(quantization_weight=0, similar_weight=weight)
        assert_close(loss_func(codes, indices_tuple=(a1, p, a2, n)), expected)


def test_binary_codes_have_no_quantization_loss():
    codes = torch.randint(2, (6, 4)) * 2.0 - 1
    labels = LABELS["class_ids"]
    assert_close(DPSHLoss()(codes, labels), DPSHLoss(quantization_weight=0)(codes, labels))


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_weight_is_checked(weight):
    with pytest.raises(ValueError, match="`quantization_weight` of at least 0"):
        DPSHLoss(quantization_weight=weight)
