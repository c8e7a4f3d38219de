"""DNNHLoss against the triplet ranking loss of Lai et al., CVPR 2015."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.codes import hamming_distance
from pml_hashing.losses import DNNHLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}


def share_a_label(y, z):
    return y == z if isinstance(y, int) else any(a and b for a, b in zip(y, z, strict=True))


def triplets_of(labels):
    """All triplets, from loops."""
    return [
        (i, p, n)
        for i, p, n in itertools.permutations(range(len(labels)), 3)
        if share_a_label(labels[i], labels[p]) and not share_a_label(labels[i], labels[n])
    ]


def dnnh_reference(codes, triplets, margin=1.0):
    """The mean of the printed loss, for the codes (u + 1) / 2 in [0, 1]."""
    b = [[(x + 1) / 2 for x in u] for u in codes]

    def distance(i, j):
        return sum((x - y) ** 2 for x, y in zip(b[i], b[j], strict=True))

    losses = [max(0.0, margin + distance(i, p) - distance(i, n)) for i, p, n in triplets]
    return sum(losses) / len(losses)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.5])
def test_value(labels, margin, device, dtype):
    codes = torch.tanh(torch.randn(6, 4, dtype=dtype, device=device))
    expected = dnnh_reference(codes.tolist(), triplets_of(labels.tolist()), margin)
    loss = DNNHLoss(margin=margin)(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_triplets_of_a_miner(labels):
    codes, triplets = torch.randn(6, 4), triplets_of(labels.tolist())[::2]
    loss = DNNHLoss()(codes, indices_tuple=tuple(torch.tensor(triplets).T))
    assert_close(loss.item(), dnnh_reference(codes.tolist(), triplets), rtol=1e-5, atol=1e-6)


def test_distances_of_binary_codes_are_of_bits(labels):
    codes = torch.randint(2, (6, 8)) * 2.0 - 1
    bits = hamming_distance(codes, codes)
    hinges = [max(0, 1 + bits[i, p] - bits[i, n]) for i, p, n in triplets_of(labels.tolist())]
    assert_close(DNNHLoss()(codes, labels).item(), float(sum(hinges)) / len(hinges))


def test_value_with_reference_set(labels):
    codes, refs = torch.randn(2, 4), torch.randn(6, 4)
    rows = labels.tolist()
    triplets = [
        (6 + i, p, n)
        for i, p, n in itertools.product(range(2), range(6), range(6))
        if share_a_label(rows[i], rows[p]) and not share_a_label(rows[i], rows[n])
    ]
    expected = dnnh_reference([*refs.tolist(), *codes.tolist()], triplets)
    loss = DNNHLoss()(codes, labels[:2], ref_emb=refs, ref_labels=labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)


def test_gradient(labels, device):
    codes = torch.randn(6, 4, dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: DNNHLoss()(c, labels), codes)


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1, 2]], ids=["one", "all_same", "all_diff"])
def test_no_triplet_counts_zero(labels):
    codes = torch.randn(len(labels), 4).requires_grad_()
    loss = DNNHLoss()(codes, torch.tensor(labels))
    loss.backward()
    assert loss == 0
    assert (codes.grad == 0).all()


def test_margin_is_checked():
    with pytest.raises(ValueError, match="`margin` of at least 0, got -1"):
        DNNHLoss(margin=-1)
