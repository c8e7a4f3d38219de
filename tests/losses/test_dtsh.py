"""DTSHLoss against the printed objective of Wang et al., ACCV 2016."""

import math

import pytest
import torch
from pytorch_metric_learning.miners import TripletMarginMiner
from torch.testing import assert_close

from pml_hashing.losses import DTSHLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}


def share_a_label(y, z):
    return y == z if isinstance(y, int) else any(a and b for a, b in zip(y, z, strict=True))


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def triplets_of(labels, ref_labels=None):
    """All triplets, from loops."""
    same_set = ref_labels is None
    ref_labels = labels if same_set else ref_labels
    refs = range(len(ref_labels))
    return [
        (q, p, n)
        for q in range(len(labels))
        for p in refs
        for n in refs
        if not (same_set and q in {p, n})
        and share_a_label(labels[q], ref_labels[p])
        and not share_a_label(labels[q], ref_labels[n])
    ]


def dtsh_reference(codes, triplets, alpha, lambda_, ref_codes=None):
    """The printed objective, over the number of triplets."""
    ref_codes = codes if ref_codes is None else ref_codes
    objective = 0.0
    for q, p, n in triplets:
        difference = dot(codes[q], ref_codes[p]) / 2 - dot(codes[q], ref_codes[n]) / 2 - alpha
        objective -= difference - math.log(1 + math.exp(difference))
    for u in codes:
        b = [1 if x >= 0 else -1 for x in u]
        objective += lambda_ * sum((c - x) ** 2 for c, x in zip(b, u, strict=True))
    return objective / len(triplets)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("alpha", [0.0, 3.0, None])
@pytest.mark.parametrize("lambda_", [0.0, 2.0])
def test_value(labels, alpha, lambda_, device, dtype):
    codes = torch.randn(6, 4, dtype=dtype, device=device)
    triplets = triplets_of(labels.tolist())
    margin = 4 / 2 if alpha is None else alpha
    expected = dtsh_reference(codes.tolist(), triplets, margin, lambda_)
    weight = lambda_ * 6 * 4 / len(triplets)  # lambda N K / M
    loss = DTSHLoss(margin=alpha, quantization_weight=weight)(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_value_with_reference_set(labels):
    codes, refs = torch.randn(3, 4), torch.randn(6, 4)
    triplets = triplets_of(labels[:3].tolist(), labels.tolist())
    expected = dtsh_reference(codes.tolist(), triplets, 1.0, 0.0, refs.tolist())
    loss_func = DTSHLoss(margin=1.0, quantization_weight=0)
    loss = loss_func(codes, labels[:3], ref_emb=refs, ref_labels=labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)


def test_triplets_of_a_miner(labels):
    codes, loss_func = torch.randn(6, 4), DTSHLoss(margin=1.0, quantization_weight=0)
    triplets = triplets_of(labels.tolist())[::2]
    expected = dtsh_reference(codes.tolist(), triplets, 1.0, 0.0)
    loss = loss_func(codes, indices_tuple=tuple(torch.tensor(triplets).T))
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)


def test_pairs_of_a_miner_make_triplets_where_they_share_an_anchor():
    codes, loss_func = torch.randn(6, 4), DTSHLoss(margin=1.0, quantization_weight=0)
    pairs = tuple(torch.tensor(x) for x in ([0, 1, 4], [1, 5, 2], [1, 2, 1, 0], [3, 4, 2, 4]))
    expected = dtsh_reference(codes.tolist(), [(0, 1, 4), (1, 5, 3), (1, 5, 2)], 1.0, 0.0)
    assert_close(loss_func(codes, indices_tuple=pairs).item(), expected, rtol=1e-5, atol=1e-6)


def test_works_with_a_miner_of_pml():
    codes, labels = torch.randn(6, 4), LABELS["class_ids"]
    triplets = TripletMarginMiner(margin=0.2)(codes, labels)
    loss = DTSHLoss(quantization_weight=0)(codes, labels, triplets)
    rows = torch.stack(triplets, dim=1).tolist()
    assert_close(loss.item(), dtsh_reference(codes.tolist(), rows, 2.0, 0.0), rtol=1e-5, atol=1e-6)


def test_gradient(labels, device):
    codes = torch.randn(6, 4, dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: DTSHLoss()(c, labels), codes)


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1, 2]], ids=["one", "all_same", "all_diff"])
def test_no_triplet_counts_zero(labels):
    codes, none = torch.randn(len(labels), 4).requires_grad_(), torch.tensor([], dtype=torch.long)
    loss_func = DTSHLoss(quantization_weight=0)
    for loss in (
        loss_func(codes, torch.tensor(labels)),
        loss_func(codes, indices_tuple=(none, none, none)),
    ):
        loss.backward()
        assert loss == 0
        assert (codes.grad == 0).all()


@pytest.mark.parametrize("name", ["margin", "quantization_weight"])
def test_arguments_are_checked(name):
    with pytest.raises(ValueError, match=f"`{name}` of at least 0, got -1"):
        DTSHLoss(**{name: -1})
