"""HyP2Loss against its formula, pair by pair."""

import math

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.losses import HyP2Loss
from pml_hashing.losses.hyp2 import proxy_threshold

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor(
        [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]]
    ),
}


def hyp2_reference(codes, labels, proxies, threshold, beta):
    """The printed formula."""

    def cosine(x, z):
        inner = sum(a * b for a, b in zip(x, z, strict=True))
        return inner / math.sqrt(sum(a * a for a in x) * sum(b * b for b in z))

    def mean(values):
        return sum(values) / max(1, len(values))

    own, other, pairs = [], [], []
    for u, y in zip(codes, labels, strict=True):
        for proxy, is_own in zip(proxies, y, strict=True):
            if is_own:
                own.append(1 - cosine(u, proxy))
            else:
                other.append(max(0, cosine(u, proxy) - threshold))
        for v, z in zip(codes, labels, strict=True):
            if sum(y) > 1 and sum(z) > 1 and not any(a and b for a, b in zip(y, z, strict=True)):
                pairs.append(max(0, cosine(u, v) - threshold))
    return mean(own) + mean(other) + beta * mean(pairs)


def rows_of(labels):
    return (labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, 4)).tolist()


def make_codes(n=6, code_length=8, **kwargs):
    return torch.randn(n, code_length, **kwargs)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize(("threshold", "beta"), [(0.0, 0.5), (0.3, 2.0), (-0.4, 1.0), (0.0, 0.0)])
def test_value(labels, threshold, beta, device, dtype):
    loss_func = HyP2Loss(4, 8, threshold=threshold, beta=beta).to(device)
    codes = make_codes(dtype=dtype, device=device)
    proxies = loss_func.proxies.tolist()
    expected = hyp2_reference(codes.tolist(), rows_of(labels), proxies, threshold, beta)
    loss = loss_func(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_a_second_network_adds_its_own_loss(labels):
    loss_func, codes, ref_codes = HyP2Loss(4, 8), make_codes(), make_codes()
    both = loss_func(codes, labels, ref_emb=ref_codes, ref_labels=labels)
    assert_close(both, loss_func(codes, labels) + loss_func(ref_codes, labels))


def test_gradient(labels, device):
    loss_func = HyP2Loss(4, 8).to(device, torch.float64)
    codes = make_codes(dtype=torch.float64, device=device).requires_grad_()

    def loss_of(codes, proxies):
        return torch.func.functional_call(loss_func, {"proxies": proxies}, (codes, labels))

    assert torch.autograd.gradcheck(loss_of, (codes, loss_func.proxies))


def test_only_pairs_of_several_labels_without_a_common_one_count():
    codes = torch.ones(4, 8)
    labels = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 1]])

    def pair_loss(rows):
        loss_func = HyP2Loss(4, 8, beta=3.0, collect_stats=True)
        loss_func(codes[rows], labels[rows])
        return loss_func.pair_loss

    assert pair_loss([0, 1]) == pytest.approx(3)
    assert pair_loss([0, 2]) == 0  # a common label
    assert pair_loss([0, 3]) == 0  # a single one
    assert pair_loss([0, 0]) == 0


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_no_pair_of_a_kind(row):
    codes = make_codes().requires_grad_()
    loss = HyP2Loss(4, 8)(codes, torch.tensor([row] * 6))
    loss.backward()
    assert loss.isfinite()
    assert codes.grad.isfinite().all()


def test_codes_and_proxies_learn_the_classes_together():
    loss_func, labels = HyP2Loss(4, 8), torch.arange(40) % 4
    codes = make_codes(40).requires_grad_()
    optimizer = torch.optim.Adam([codes, *loss_func.parameters()], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = loss_func(codes, labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert ((codes @ loss_func.proxies.T).argmax(dim=1) == labels).all()


def test_training_goes_on_after_a_reload(labels):
    saved, loaded, codes = HyP2Loss(4, 8), HyP2Loss(4, 8), make_codes()
    assert loaded(codes, labels) != saved(codes, labels)
    loaded.load_state_dict(saved.state_dict())
    for loss_func in (saved, loaded):
        optimizer = torch.optim.SGD(loss_func.parameters(), 0.1)
        loss_func(codes, labels).backward()
        optimizer.step()
    assert_close(loaded.proxies, saved.proxies, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"code_length": 0}, "`code_length` of at least 1, got 0"),
        ({"threshold": 1}, "`threshold` of at least -1 and below 1, got 1"),
        ({"threshold": -2}, "`threshold` of at least -1 and below 1, got -2"),
        ({"beta": -1}, "`beta` of at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        HyP2Loss(**{"num_classes": 4, "code_length": 8, **options})


def test_wrong_arguments_are_named(labels):
    with pytest.raises(ValueError, match=r"`embeddings` of shape \(6, 8\), .* got \(6, 4\)"):
        HyP2Loss(4, 8)(make_codes(6, 4), labels)


AUTHORS = {  # what is known of their table, by bits and classes
    (32, 20): 0,
    (32, 21): 0,
    (32, 38): 0,
    (32, 80): 0.125,
    (32, 100): 0.125,
    (16, 38): 0.25,
    (12, 20): 1 / 3,
}


@pytest.mark.parametrize(("sizes", "expected"), AUTHORS.items())
def test_thresholds_are_those_of_the_authors(sizes, expected):
    code_length, num_classes = sizes
    assert proxy_threshold(num_classes, code_length) == pytest.approx(expected)
    assert HyP2Loss(num_classes, code_length).threshold == pytest.approx(expected)
    assert HyP2Loss(num_classes, code_length, threshold=0.5).threshold == 0.5


def test_no_linear_code_lies_farther_apart():
    for code_length in range(3, 9):
        for dimension in (2, 3):
            best = 0
            words = torch.cartesian_prod(*[torch.arange(2)] * dimension)[1:]
            columns = torch.combinations(
                torch.arange(1, 2**dimension), code_length, with_replacement=True
            )
            for column in columns:  # of every generator matrix, in some order
                generator = column[None] >> torch.arange(dimension)[:, None] & 1
                best = max(best, int((words @ generator % 2).sum(dim=1).min()))
            even = max(1, best - best % 2)
            expected = max(0.0, 1 - 2 * even / code_length)
            assert proxy_threshold(2**dimension, code_length) == pytest.approx(expected)


def test_there_is_a_threshold_for_more_classes_than_codes():
    for num_classes, code_length in ((4, 2), (100, 2), (2, 1)):
        assert 0 <= HyP2Loss(num_classes, code_length).threshold < 1


def test_thresholds_grow_with_the_classes_and_fall_with_the_bits():
    of_classes = [proxy_threshold(2**k, 32) for k in range(1, 15)]
    assert of_classes == sorted(of_classes)
    of_bits = [proxy_threshold(1000, bits) for bits in (16, 32, 48, 64, 128)]
    assert of_bits == sorted(of_bits, reverse=True)
