"""GreedyHashLoss against its formula and its written-out gradient, class by class."""

import math

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.losses import GreedyHashLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]),
}


def greedyhash_reference(codes, labels, weights, alpha):
    """The printed formula, and the gradient of every code by the printed rule."""
    n, bits, classes = len(codes), range(len(codes[0])), range(len(weights))
    total, gradient = 0.0, [[0.0 for _ in bits] for _ in codes]
    for i, (u, row) in enumerate(zip(codes, labels, strict=True)):
        b = [1 if x >= 0 else -1 for x in u]
        terms = [math.exp(sum(w * x for w, x in zip(weights[c], b, strict=True))) for c in classes]
        size = max(1, sum(row))
        for c in classes:
            total -= row[c] / size * math.log(terms[c] / sum(terms))
            slope = sum(row) / size * terms[c] / sum(terms) - row[c] / size  # of the logit
            for k in bits:
                gradient[i][k] += slope * weights[c][k] / n
        for k in bits:
            distance = abs(u[k]) - 1
            total += alpha * abs(distance) ** 3 / len(u)
            slope = 3 * distance * abs(distance) * math.copysign(1, u[k])
            gradient[i][k] += alpha * slope / (len(u) * n)
    return total / n, gradient


def rows_of(labels):
    return (labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, 3)).tolist()


def make_codes(n=6, code_length=8, **kwargs):
    return torch.randn(n, code_length, **kwargs)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("alpha", [0.0, 0.1, 2.0])
def test_value_and_gradient_of_codes(labels, alpha, device, dtype):
    loss_func = GreedyHashLoss(3, 8, alpha=alpha).to(device)
    codes = make_codes(dtype=dtype, device=device).requires_grad_()
    loss = loss_func(codes, labels)
    loss.backward()
    expected, gradient = greedyhash_reference(
        codes.tolist(), rows_of(labels), loss_func.class_weights.tolist(), alpha
    )
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert_close(codes.grad, torch.tensor(gradient, dtype=dtype, device=device))
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_gradient_of_the_classifier(labels, device):
    loss_func = GreedyHashLoss(3, 8).to(device, torch.float64)
    codes = make_codes(dtype=torch.float64, device=device)

    def loss_of(weights):
        return torch.func.functional_call(loss_func, {"class_weights": weights}, (codes, labels))

    assert torch.autograd.gradcheck(loss_of, loss_func.class_weights)


def test_a_second_network_adds_its_own_loss(labels):
    loss_func, codes, ref_codes = GreedyHashLoss(3, 8), make_codes(), make_codes()
    both = loss_func(codes, labels, ref_emb=ref_codes, ref_labels=labels)
    assert_close(both, loss_func(codes, labels) + loss_func(ref_codes, labels))


def test_the_class_loss_is_of_bits_alone(labels):
    loss_func, codes = GreedyHashLoss(3, 8, alpha=0), make_codes()
    assert_close(loss_func(codes * 7, labels), loss_func(codes, labels), rtol=0, atol=0)


def test_a_sample_without_labels_is_only_quantized():
    codes = make_codes()
    expected = 0.1 * (codes.abs() - 1).abs().pow(3).mean()
    assert_close(GreedyHashLoss(3, 8)(codes, torch.zeros(6, 3)), expected)


def test_codes_and_classifier_learn_the_classes_together():
    loss_func, labels = GreedyHashLoss(3, 8), torch.arange(30) % 3
    codes = (0.1 * make_codes(30)).requires_grad_()
    optimizer = torch.optim.Adam([codes, *loss_func.parameters()], 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss_func(codes, labels).backward()
        optimizer.step()
    logits = torch.sign(codes.detach()) @ loss_func.class_weights.T
    assert (logits.argmax(dim=1) == labels).all()


def test_training_goes_on_after_a_reload(labels):
    saved, loaded, codes = GreedyHashLoss(3, 8), GreedyHashLoss(3, 8), make_codes()
    assert loaded(codes, labels) != saved(codes, labels)
    loaded.load_state_dict(saved.state_dict())
    for loss_func in (saved, loaded):
        optimizer = torch.optim.SGD(loss_func.parameters(), 0.1)
        loss_func(codes, labels).backward()
        optimizer.step()
    assert_close(loaded.class_weights, saved.class_weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"code_length": 0}, "`code_length` of at least 1, got 0"),
        ({"alpha": -1}, "`alpha` of at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GreedyHashLoss(**{"num_classes": 3, "code_length": 8, **options})


def test_wrong_arguments_are_named(labels):
    with pytest.raises(ValueError, match=r"`embeddings` of shape \(6, 8\), .* got \(6, 4\)"):
        GreedyHashLoss(3, 8)(make_codes(6, 4), labels)
