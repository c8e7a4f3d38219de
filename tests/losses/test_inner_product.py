"""Soft similarity where counts are large: DSAHLoss tests the rest of the term by loops."""

import torch
from torch.testing import assert_close

from pml_hashing import CodeBank
from pml_hashing.losses.terms.inner_product import similarity_sums


def test_all_samples_similar():
    """No pair is dissimilar, so that their weight, 9,000,000, must not enter rounding errors."""
    labels = torch.randint(2, (3000, 8))
    labels[:, 3] = 1
    values = torch.randn(3000, 2)
    sums = similarity_sums(CodeBank(labels, 2), values)
    assert_close(sums, torch.tensor([[*values.sum(dim=0), 3000.0]]).expand(len(sums), -1))


def test_few_dissimilar_pairs_are_counted():
    """Float32 counts no further than 16,777,216 pairs, which 4096 samples have."""
    labels = torch.zeros(6000, dtype=torch.long)
    labels[7] = 1
    sums = similarity_sums(CodeBank(labels, 2), torch.ones(6000, 2))
    ratio = (5999**2 + 1) / (2 * 5999)
    expected = torch.tensor(
        [
            [5999 - ratio, 5999 - ratio, 5999 + ratio**2],
            [1 - 5999 * ratio, 1 - 5999 * ratio, 1 + 5999 * ratio**2],
        ]
    )
    assert_close(sums, expected, rtol=1e-5, atol=0)


def test_no_similar_pair():
    sums = similarity_sums(CodeBank(torch.zeros(4, 2), 2), torch.ones(4, 2))
    assert_close(sums, torch.zeros(1, 3))
