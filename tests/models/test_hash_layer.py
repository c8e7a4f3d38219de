"""HashLayer: what it computes, how it starts, what it refuses."""

import pytest
import torch
from torch.testing import assert_close

from pml_hashing.models import HashLayer


@pytest.mark.parametrize(
    ("bound", "function"),
    [("tanh", torch.tanh), ("scaled_tanh", torch.tanh), ("none", torch.clone)],
)
def test_linear_head(bound, function, device, dtype):
    layer = HashLayer(6, 4, bound=bound).to(device, dtype)
    features = torch.randn(3, 6, device=device, dtype=dtype)
    (linear,) = layer.head
    assert_close(layer(features), function(features @ linear.weight.T + linear.bias))


def test_mlp_head():
    layer = HashLayer(6, 4, head="mlp").eval()
    features = torch.randn(3, 6)
    first, last = layer.head[0], layer.head[-1]
    hidden = (features @ first.weight.T + first.bias).clamp(min=0)
    assert hidden.shape == (3, 6)
    assert_close(layer(features), torch.tanh(hidden @ last.weight.T + last.bias))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_batch_norm_is_of_every_bit(head):
    layer = HashLayer(6, 4, head=head, bound="none", batch_norm=True)
    features = 3 * torch.randn(50, 6) + 2
    codes, before = layer(features), layer.head[:-1](features)
    assert_close(codes.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    assert_close(codes.std(dim=0, correction=0), torch.ones(4), atol=1e-3, rtol=0)
    assert_close(
        codes, (before - before.mean(dim=0)) / before.std(dim=0, correction=0), atol=1e-3, rtol=0
    )
    layer.eval()
    assert_close(layer(features[:1]), layer(features)[:1])


def test_dropout_is_on_the_hidden_layer():
    layer = HashLayer(64, 8, head="mlp", drop_rate=0.5)
    features = torch.randn(3, 64)
    assert not torch.equal(layer(features), layer(features))
    layer.eval()
    assert torch.equal(layer(features), layer(features))


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("in_features", [16, 512, 2048])
def test_codes_start_at_the_scale_of_the_features_or_below(in_features, head):
    layer = HashLayer(in_features, 32, head=head, bound="none")
    features = torch.randn(200, in_features)
    assert 0.2 < layer(features).detach().square().mean().sqrt() < 1.1


def test_bits_start_orthogonal_and_without_bias():
    (linear,) = HashLayer(64, 8).head
    assert_close(linear.weight @ linear.weight.T, torch.eye(8))
    assert (linear.bias == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "`in_features` of at least 1, got 0"),
        ({"code_length": 0}, "`code_length` of at least 1, got 0"),
        ({"head": "deep"}, "`head` to be one of 'linear', 'mlp', got 'deep'"),
        ({"bound": "sign"}, "`bound` to be one of 'tanh', 'scaled_tanh', 'none', got 'sign'"),
        ({"drop_rate": 1.0}, "`drop_rate` of at least 0 and below 1, got 1.0"),
        ({"drop_rate": -0.1}, "`drop_rate` of at least 0 and below 1, got -0.1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        HashLayer(**{"in_features": 4, "code_length": 4} | arguments)


@pytest.mark.parametrize("shape", [(6,), (3, 5), (3, 6, 1, 1), (3, 1, 6)])
def test_wrong_features_are_named(shape):
    with pytest.raises(ValueError, match=r"`features` of shape \(batch_size, 6\), got \("):
        HashLayer(6, 4)(torch.zeros(shape))
