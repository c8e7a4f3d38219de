"""QuantizationRegularizer against its formula, element by element."""

import pytest
import torch
from pytorch_metric_learning.reducers import SumReducer
from torch.testing import assert_close

from pml_hashing.regularizers import QuantizationRegularizer


def quantization_reference(codes, p):
    """One loss for each sample, in Python floats."""
    return [sum(abs(abs(u) - 1) ** p for u in code) / len(code) for code in codes]


@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_value(p, device, dtype):
    codes = torch.randn(6, 4, dtype=dtype, device=device)
    expected = quantization_reference(codes.tolist(), p)
    loss = QuantizationRegularizer(p=p)(codes)
    assert_close(loss.item(), sum(expected) / 6, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)
    assert_close(
        QuantizationRegularizer(p=p).compute_loss(codes)["loss"]["losses"].tolist(),
        expected,
        rtol=1e-5,
        atol=1e-6,
    )
    summed = QuantizationRegularizer(p=p, reducer=SumReducer())(codes)
    assert_close(summed.item(), sum(expected), rtol=1e-5, atol=1e-6)


def test_zero_is_pulled_towards_one(device):
    codes = torch.tensor([[0.0, 1.0, -1.0, -0.5]], device=device, requires_grad=True)
    QuantizationRegularizer()(codes).backward()
    assert_close(codes.grad, torch.tensor([[-0.5, 0.0, 0.0, 0.25]], device=device))


@pytest.mark.parametrize("p", [1, 2])
def test_binary_codes_lose_nothing(p):
    codes = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], requires_grad=True)
    loss = QuantizationRegularizer(p=p)(codes)
    loss.backward()
    assert loss == 0
    assert_close(codes.grad, torch.zeros(2, 2))


def test_p_is_at_least_one():
    with pytest.raises(ValueError, match=r"`p` of at least 1, got 0\.5"):
        QuantizationRegularizer(p=0.5)
