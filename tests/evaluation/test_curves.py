"""Curves against the scores that they are made of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.codes import hamming_distance, pack
from pml_hashing.evaluation import (
    precision_at_k,
    precision_by_rank,
    precision_recall_by_radius,
    precision_within_radius,
)
from pml_hashing.pairs import similarity

few = settings(max_examples=20)  # test_ranking.py tries many on every kernel


def make_data(num_queries, num_database, code_length, device="cpu"):
    codes = torch.randn(num_queries + num_database, code_length, device=device)
    labels = torch.randint(3, (len(codes),), device=device)
    return codes[:num_queries], labels[:num_queries], codes[num_queries:], labels[num_queries:]


@few
@given(
    seed=st.integers(0, 2**32 - 1),
    num_queries=st.integers(1, 4),
    num_database=st.integers(1, 12),
    code_length=st.integers(1, 4),
)
def test_precision_and_recall_by_radius(seed, num_queries, num_database, code_length):
    torch.manual_seed(seed)
    data = make_data(num_queries, num_database, code_length)
    precision, recall = precision_recall_by_radius(*data)
    assert len(precision) == len(recall) == code_length + 1
    distances = hamming_distance(data[0], data[2])
    relevant = similarity(data[1], data[3])
    for radius in range(code_length + 1):
        expected = precision_within_radius(*data, radius)
        assert precision[radius].item() == pytest.approx(expected)
        hits = (relevant & (distances <= radius)).sum(1) / relevant.sum(1).clamp(min=1)
        assert recall[radius].item() == pytest.approx(hits.mean().item())


def test_padding_bits_leave_the_curve_as_it_is(device):
    queries, query_labels, codes, labels = make_data(5, 40, 12, device)
    curves = precision_recall_by_radius(queries, query_labels, codes, labels)
    padded = precision_recall_by_radius(pack(queries), query_labels, pack(codes), labels)
    for curve, longer in zip(curves, padded, strict=True):
        assert curve.device.type == device.type
        assert_close(longer[:13], curve)
        assert_close(longer[13:], curve[-1:].expand(4))


@pytest.mark.parametrize("query_in_database", [True, False])
@few
@given(
    seed=st.integers(0, 2**32 - 1),
    num_database=st.integers(4, 12),
    code_length=st.integers(1, 4),
    top_k=st.none() | st.integers(1, 15),
)
def test_precision_by_rank(query_in_database, seed, num_database, code_length, top_k):
    torch.manual_seed(seed)
    data = make_data(4, num_database, code_length)
    if query_in_database:
        data = data[2][:4], data[3][:4], *data[2:]
    curve = precision_by_rank(*data, top_k, query_in_database=query_in_database)
    total = num_database - query_in_database
    assert len(curve) == min(top_k or total, total)
    expected = [
        precision_at_k(*data, k + 1, query_in_database=query_in_database) for k in range(len(curve))
    ]
    assert curve.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("top_k", "error", "message"),
    [(0, ValueError, "`top_k` of at least 1, got 0"), (1.5, TypeError, "`top_k` .* got 1.5")],
)
def test_bad_top_k_is_named(top_k, error, message):
    with pytest.raises(error, match=message):
        precision_by_rank(*make_data(2, 3, 4), top_k)


@pytest.mark.parametrize("curve", [precision_by_rank, precision_recall_by_radius])
def test_bad_data_is_named(curve):
    queries, query_labels, codes, labels = make_data(2, 3, 4)
    with pytest.raises(ValueError, match=r"`database_codes` of shape \(batch_size, 4\)"):
        curve(queries, query_labels, codes[:, :3], labels)
