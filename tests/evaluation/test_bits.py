"""Balance and correlation of bits against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.codes import pack
from pml_hashing.evaluation import bit_balance, bit_correlation, mean_absolute_correlation


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 20), code_length=st.integers(2, 12))
def test_against_numpy(seed, n, code_length):
    codes = torch.randn(n, code_length, generator=torch.Generator().manual_seed(seed))
    codes[:, 0] = codes[0, 0]  # one bit is the same everywhere
    bits = (codes >= 0).numpy().astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.nan_to_num(np.corrcoef(bits.T))
    for given_codes in (codes, torch.where(codes >= 0, 1, -1), pack(codes)):
        assert_close(bit_balance(given_codes, code_length), torch.tensor(bits.mean(axis=0)))
        assert_close(bit_correlation(given_codes, code_length), torch.tensor(expected))
        off_diagonal = np.abs(expected)[~np.eye(code_length, dtype=bool)]
        mac = mean_absolute_correlation(given_codes, code_length)
        assert mac == pytest.approx(off_diagonal.mean())


def test_bits_that_repeat_or_oppose_each_other():
    bit = torch.tensor([1.0, -1.0, -1.0])
    codes = torch.stack([bit, bit, -bit], dim=1)
    assert mean_absolute_correlation(codes) == pytest.approx(1)


def test_bad_codes_are_named():
    with pytest.raises(ValueError, match="at least 2 bits, got 1"):
        mean_absolute_correlation(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="finite values in `codes`"):
        bit_balance(torch.tensor([[float("nan"), 1.0]]))
    with pytest.raises(ValueError, match=r"`codes` of shape \(batch_size, 3\), .* got \(2, 4\)"):
        bit_correlation(torch.zeros(2, 4), 3)
    with pytest.raises(ValueError, match=r"`codes` of shape \(n, 2, for 9 bits\)"):
        bit_correlation(torch.zeros(2, 1, dtype=torch.uint8), 9)
