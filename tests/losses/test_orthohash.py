"""OrthoHashLoss against its formula, class by class."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.centers import hash_centers
from pml_hashing.losses import OrthoHashLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]),
}


def orthohash_reference(codes, labels, centers, scale, margin):
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
    return total / len(codes)


def rows_of(labels):
    return (labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, 3)).tolist()


def make_codes(n=6, code_length=8, **kwargs):
    return torch.randn(n, code_length, **kwargs)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("code_length", [8, 10])  # a Hadamard matrix, and none
@pytest.mark.parametrize(("scale", "margin"), [(8.0, 0.2), (1.0, 0.0), (20.0, 0.5)])
def test_value(labels, scale, margin, code_length, device, dtype):
    loss_func = OrthoHashLoss(3, code_length, scale=scale, margin=margin).to(device)
    codes = make_codes(6, code_length, dtype=dtype, device=device)
    centers = loss_func.class_codes.tolist()
    expected = orthohash_reference(codes.tolist(), rows_of(labels), centers, scale, margin)
    loss = loss_func(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_a_second_network_adds_its_own_loss(labels):
    loss_func, codes, ref_codes = OrthoHashLoss(3, 8), make_codes(), make_codes()
    both = loss_func(codes, labels, ref_emb=ref_codes, ref_labels=labels)
    assert_close(both, loss_func(codes, labels) + loss_func(ref_codes, labels))


def test_gradient(labels, device):
    loss_func = OrthoHashLoss(3, 8).to(device)
    codes = make_codes(dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: loss_func(c, labels), codes)


@given(seed=st.integers(0, 2**32 - 1), stretch=st.floats(0.1, 1e4))
def test_the_length_of_a_code_does_not_matter(seed, stretch):
    torch.manual_seed(seed)
    codes, labels = make_codes(dtype=torch.float64), LABELS["multi_hot"]
    loss_func = OrthoHashLoss(3, 8)
    assert_close(loss_func(codes * stretch, labels), loss_func(codes, labels))


def test_a_code_of_zeros_has_a_gradient_in_half_precision(labels):
    codes = torch.zeros(1, 1, dtype=torch.float16, requires_grad=True)
    centers = torch.tensor([[1.0], [-1.0], [1.0]])
    OrthoHashLoss(3, 1, class_codes=centers)(codes, labels[-1:]).backward()
    assert codes.grad.isfinite().all()


def test_the_center_of_a_class_is_its_best_code():
    centers = hash_centers(3, 12)
    losses = [OrthoHashLoss(3, 12)(codes, torch.arange(3)) for codes in (centers, -centers)]
    others = make_codes(20 * 3, 12).reshape(20, 3, 12)
    assert all(losses[0] < OrthoHashLoss(3, 12)(codes, torch.arange(3)) for codes in others)
    assert losses[1] > losses[0]


def test_a_sample_without_labels_adds_nothing():
    codes = make_codes().requires_grad_()
    loss = OrthoHashLoss(3, 8)(codes, torch.zeros(6, 3))
    loss.backward()
    assert loss == 0
    assert (codes.grad == 0).all()


def test_saved_centers_are_those_that_load(labels):
    saved, loaded, codes = OrthoHashLoss(3, 8, seed=1), OrthoHashLoss(3, 8, seed=2), make_codes()
    assert loaded(codes, labels) != saved(codes, labels)
    loaded.load_state_dict(saved.state_dict())
    assert_close(loaded(codes, labels), saved(codes, labels), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"code_length": 0}, "`code_length` of at least 1, got 0"),
        ({"scale": 0}, "positive `scale`, got 0"),
        ({"margin": -1}, "`margin` of at least 0, got -1"),
        ({"class_codes": torch.ones(2, 8)}, r"`class_codes` of shape \(3, 8\) .* got .*\(2, 8\)"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        OrthoHashLoss(**{"num_classes": 3, "code_length": 8, **options})


def test_wrong_arguments_are_named(labels):
    with pytest.raises(ValueError, match=r"`embeddings` of shape \(6, 8\), .* got \(6, 4\)"):
        OrthoHashLoss(3, 8)(make_codes(6, 4), labels)
