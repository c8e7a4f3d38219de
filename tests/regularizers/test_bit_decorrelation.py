"""BitDecorrelationRegularizer against its formula, pair of bits by pair."""

import torch
from torch.testing import assert_close

from pml_hashing.regularizers import BitDecorrelationRegularizer


def bit_decorrelation_reference(codes):
    """The formula, in Python floats."""
    n, code_length = len(codes), len(codes[0])
    total = 0.0
    for k in range(code_length):
        for m in range(code_length):
            total += (sum(code[k] * code[m] for code in codes) / n - (k == m)) ** 2
    return total / code_length**2


def test_value(device, dtype):
    codes = torch.randn(6, 4, dtype=dtype, device=device)
    loss = BitDecorrelationRegularizer()(codes)
    assert_close(loss.item(), bit_decorrelation_reference(codes.tolist()), rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_bounds_on_binary_codes():
    codes = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert BitDecorrelationRegularizer()(codes) == 0
    repeated = codes[:, :1].expand(4, 5)
    assert_close(BitDecorrelationRegularizer()(repeated), torch.tensor(4 / 5))


def test_zero_codes_are_no_solution():
    assert_close(BitDecorrelationRegularizer()(torch.zeros(3, 4)), torch.tensor(1 / 4))


def test_least_value_of_a_batch_of_fewer_samples_than_bits():
    n, code_length = 3, 5
    orthogonal = torch.linalg.qr(torch.randn(code_length, n)).Q.T
    loss = BitDecorrelationRegularizer()(orthogonal * n**0.5)
    assert_close(loss, torch.tensor((code_length - n) / code_length**2))


def test_autocast_does_not_round(device):
    codes = torch.tanh(torch.randn(40, 32, device=device))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = BitDecorrelationRegularizer()(codes)
    assert_close(loss, BitDecorrelationRegularizer()(codes), rtol=0, atol=0)
