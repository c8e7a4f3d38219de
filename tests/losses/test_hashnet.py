"""HashNetLoss against Eq. (2) and (4) of Cao et al., ICCV 2017."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.losses import HashNetLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}


def classes_of(label):
    return {label} if isinstance(label, int) else {c for c, has in enumerate(label) if has}


def hashnet_reference(codes, labels, alpha, ref_codes=None, ref_labels=None, label_overlap=False):
    """The printed equations, pair by pair, in Python floats."""
    same_set = ref_codes is None
    if same_set:
        ref_codes, ref_labels = codes, labels
    pairs = [
        (i, j)
        for i in range(len(codes))
        for j in range(len(ref_codes))
        if not (same_set and i == j)
    ]
    sets = {(i, j): (classes_of(labels[i]), classes_of(ref_labels[j])) for i, j in pairs}
    s = {pair: bool(y & z) for pair, (y, z) in sets.items()}
    size = {1: sum(s.values()), 0: len(pairs) - sum(s.values())}
    total = 0.0
    for i, j in pairs:
        inner = sum(a * b for a, b in zip(codes[i], ref_codes[j], strict=True))
        weight = len(pairs) / size[s[i, j]]
        if label_overlap and s[i, j]:
            y, z = sets[i, j]
            weight *= len(y & z) / len(y | z)
        total += weight * (math.log(1 + math.exp(alpha * inner)) - alpha * s[i, j] * inner)
    return total / len(pairs)


def make_codes(n=6, code_length=4, **kwargs):
    return torch.tanh(torch.randn(n, code_length, **kwargs))


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("label_overlap", [False, True])
def test_value(labels, alpha, label_overlap, device, dtype):
    codes = make_codes(dtype=dtype, device=device)
    expected = hashnet_reference(
        codes.tolist(), labels.tolist(), alpha, label_overlap=label_overlap
    )
    loss = HashNetLoss(alpha=alpha, label_overlap=label_overlap)(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


@pytest.mark.parametrize("code_length", [4, 12])
def test_slope_follows_the_code_length(labels, code_length):
    codes = make_codes(code_length=code_length)
    expected = hashnet_reference(codes.tolist(), labels.tolist(), 10 / code_length)
    assert_close(HashNetLoss()(codes, labels).item(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label_overlap", [False, True])
def test_value_with_reference_set(labels, label_overlap):
    codes, ref_codes, ref_labels = make_codes(3), make_codes(), labels
    expected = hashnet_reference(
        codes.tolist(),
        labels[:3].tolist(),
        0.5,
        ref_codes.tolist(),
        ref_labels.tolist(),
        label_overlap,
    )
    loss_func = HashNetLoss(alpha=0.5, label_overlap=label_overlap)
    loss = loss_func(codes, labels[:3], ref_emb=ref_codes, ref_labels=ref_labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label_overlap", [False, True])
def test_gradient(labels, label_overlap, device):
    codes = make_codes(dtype=torch.float64, device=device).requires_grad_()
    loss_func = HashNetLoss(alpha=1.0, label_overlap=label_overlap)
    assert torch.autograd.gradcheck(lambda c: loss_func(c, labels), codes)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 8), code_length=st.integers(1, 8))
def test_symmetries(seed, n, code_length):
    torch.manual_seed(seed)
    codes, labels = make_codes(n, code_length, dtype=torch.float64), torch.randint(3, (n,))
    samples, bits = torch.randperm(n), torch.randperm(code_length)
    flip = torch.randint(2, (code_length,)) * 2 - 1
    loss = HashNetLoss()(codes, labels)
    assert loss >= 0
    assert_close(HashNetLoss()(codes[samples], labels[samples]), loss)
    assert_close(HashNetLoss()(codes[:, bits] * flip, labels), loss)


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1, 2]], ids=["one", "all_same", "all_diff"])
def test_missing_kind_of_pair_counts_zero(labels):
    codes = make_codes(len(labels)).requires_grad_()
    loss = HashNetLoss()(codes, torch.tensor(labels))
    loss.backward()
    assert codes.grad.isfinite().all()
    assert loss.isfinite()
    assert (loss == 0) == (len(labels) == 1)


def test_pairs_of_a_miner_replace_those_of_the_labels():
    codes = make_codes()
    a1, p, a2, n = (torch.tensor(x) for x in ([0, 1], [1, 5], [0, 2, 2], [3, 4, 5]))
    inner = codes @ codes.T
    similar, dissimilar = torch.exp(-inner[a1, p]), torch.exp(inner[a2, n])
    expected = torch.log(1 + similar).mean() + torch.log(1 + dissimilar).mean()
    assert_close(HashNetLoss(alpha=1.0)(codes, indices_tuple=(a1, p, a2, n)), expected)


def test_overlap_needs_labels():
    pairs = tuple(torch.tensor([x]) for x in (0, 1, 0, 2))
    with pytest.raises(ValueError, match="Expected `labels`, got None"):
        HashNetLoss(label_overlap=True)(make_codes(), indices_tuple=pairs)


@pytest.mark.parametrize("alpha", [0, -1, math.nan])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match=f"positive `alpha`, got {alpha}"):
        HashNetLoss(alpha=alpha)


def test_labels_or_pairs_are_required():
    with pytest.raises(ValueError, match="`labels` or `indices_tuple`, got neither"):
        HashNetLoss()(make_codes())
