"""DHNLoss against the printed objective of Zhu et al., AAAI 2016."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from loops import weighted_mean
from torch.testing import assert_close

from pml_hashing.losses import DHNLoss, HashNetLoss

PAGE = Path(__file__).parents[2] / "docs/losses/csq.md"

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}


def share_a_label(y, z):
    return y == z if isinstance(y, int) else any(a and b for a, b in zip(y, z, strict=True))


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def dhn_reference(codes, labels, lambda_, alpha=1.0, similar_weight="balanced"):
    """The printed objective over the number of pairs: the paper's with `similar_weight=1`."""
    losses, kinds, objective = [], [], 0.0
    for i, z in enumerate(codes):
        for j, w in enumerate(codes):
            if i == j:
                continue
            inner = alpha * dot(z, w)
            s = share_a_label(labels[i], labels[j])
            losses.append(math.log(1 + math.exp(inner)) - s * inner)
            kinds.append(s)
            objective += lambda_ * sum(math.log(math.cosh(abs(x) - 1)) for x in (*z, *w))
    return weighted_mean(losses, kinds, similar_weight) + objective / len(losses)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize(("lambda_", "weight"), [(0.0, 1), (0.7, 1), (0.7, "balanced"), (0.0, 3)])
def test_value(labels, lambda_, weight, alpha, device, dtype):
    codes = torch.randn(6, 4, dtype=dtype, device=device)
    expected = dhn_reference(codes.tolist(), labels.tolist(), lambda_, alpha, weight)
    options = {"quantization_weight": 2 * 4 * lambda_, "alpha": alpha}  # 2 K lambda
    loss = DHNLoss(similar_weight=weight, **options)(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_gradient(labels, device):
    codes = torch.randn(6, 4, dtype=torch.float64, device=device).requires_grad_()
    loss_func = DHNLoss(quantization_weight=1.0)
    assert torch.autograd.gradcheck(lambda c: loss_func(c, labels), codes)


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1, 2]], ids=["one", "all_same", "all_diff"])
def test_missing_kind_of_pair_counts_zero(labels):
    codes = torch.randn(len(labels), 4).requires_grad_()
    loss = DHNLoss(quantization_weight=0)(codes, torch.tensor(labels))
    loss.backward()
    assert codes.grad.isfinite().all()
    if len(labels) == 1:
        assert loss == 0
    else:
        assert_close(loss.item(), dhn_reference(codes.tolist(), labels, 0.0))


def test_binary_codes_have_no_quantization_loss():
    codes = torch.randint(2, (6, 4)) * 2.0 - 1
    labels = LABELS["class_ids"]
    assert_close(DHNLoss()(codes, labels), DHNLoss(quantization_weight=0)(codes, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization_weight": -1.0}, "`quantization_weight` of at least 0, got -1.0"),
        ({"alpha": 0.0}, "positive `alpha`, got 0.0"),
        ({"alpha": math.nan}, "positive `alpha`, got nan"),
        ({"similar_weight": 0}, "`similar_weight` to be 'balanced' or a positive number, got 0"),
        ({"similar_weight": "half"}, "`similar_weight` to be 'balanced' .* got 'half'"),
        ({"similar_weight": math.nan}, "`similar_weight` to be 'balanced' .* got nan"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        DHNLoss(**options)


def test_pairwise_term_of_csq_is_a_loss_of_the_library():
    """The mean over all pairs of two halves of a batch: none counts more than another."""
    labels, codes = torch.randint(5, (12,)), torch.randn(12, 32).tanh()
    total = 0.0
    for i, j in itertools.product(range(6), range(6, 12)):
        x = 10 / 32 * sum(a * b for a, b in zip(codes[i].tolist(), codes[j].tolist(), strict=True))
        total += math.log(1 + math.exp(-abs(x))) + max(x, 0) - (x if labels[i] == labels[j] else 0)
    halves = {"ref_emb": codes[6:], "ref_labels": labels[6:]}
    named = DHNLoss(alpha=10 / 32, quantization_weight=0, similar_weight=1)
    found = named(codes[:6], labels[:6], **halves).item()
    assert found == pytest.approx(total / 36, rel=1e-5)
    assert HashNetLoss()(codes[:6], labels[:6], **halves).item() > 1.3 * found
    assert "DHNLoss(alpha=10 / K, quantization_weight=0, similar_weight=1)" in PAGE.read_text()
