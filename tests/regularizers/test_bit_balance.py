"""BitBalanceRegularizer against its formula, bit by bit."""

import torch
from torch.testing import assert_close

from pml_hashing.regularizers import BitBalanceRegularizer


def bit_balance_reference(codes):
    """The formula, in Python floats."""
    n, code_length = len(codes), len(codes[0])
    return sum((sum(code[k] for code in codes) / n) ** 2 for k in range(code_length)) / code_length


def test_value(device, dtype):
    codes = torch.randn(6, 4, dtype=dtype, device=device)
    loss = BitBalanceRegularizer()(codes)
    assert_close(loss.item(), bit_balance_reference(codes.tolist()), rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_bounds_on_binary_codes():
    half = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    assert BitBalanceRegularizer()(half) == 0
    assert BitBalanceRegularizer()(half[:1].expand(5, 3)) == 1
