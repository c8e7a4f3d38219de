"""HammingDistance against loops, and in what PML does with distances."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.utils.inference import CustomKNN, MatchFinder
from torch.testing import assert_close

from pml_hashing.codes import binarize, hamming_distance
from pml_hashing.distances import HammingDistance
from pml_hashing.regularizers import QuantizationRegularizer


def make_codes(n=6, code_length=5, **kwargs):
    return torch.tanh(torch.randn(n, code_length, **kwargs))


def relaxed_reference(queries, refs):
    """Half of the code length less the inner product, in Python floats."""
    return [
        [(len(u) - sum(a * b for a, b in zip(u, v, strict=True))) / 2 for v in refs.tolist()]
        for u in queries.tolist()
    ]


@given(
    codes=st.lists(st.tuples(*[st.sampled_from([-1.5, -0.1, 0.0, 0.1, 1.5])] * 4), min_size=2),
    split=st.integers(1, 10),
)
def test_counts_bits(codes, split):
    codes = torch.tensor(codes)
    split = min(split, len(codes) - 1)
    queries, refs = codes[:split], codes[split:]
    expected = [
        [sum((a >= 0) != (b >= 0) for a, b in zip(u, v, strict=True)) for v in refs.tolist()]
        for u in queries.tolist()
    ]
    assert_close(HammingDistance()(queries, refs), torch.tensor(expected, dtype=torch.float32))
    rows = min(len(queries), len(refs))
    assert_close(
        HammingDistance().pairwise_distance(queries[:rows], refs[:rows]),
        torch.tensor([expected[i][i] for i in range(rows)], dtype=torch.float32),
    )


def test_relaxed_value(device, dtype):
    queries, refs = (make_codes(n, dtype=dtype, device=device) for n in (3, 6))
    distance = HammingDistance(binarize=False)
    expected = torch.tensor(relaxed_reference(queries, refs), dtype=dtype, device=device)
    assert_close(distance(queries, refs), expected)
    assert_close(distance.pairwise_distance(queries, refs[:3]), expected.diagonal())
    assert_close(distance(queries), distance(queries, queries))


def test_relaxed_is_exact_on_binary_codes(device):
    codes = binarize(make_codes(code_length=33, device=device))
    exact = hamming_distance(codes, codes).float()
    assert_close(HammingDistance(binarize=False)(codes), exact, rtol=0, atol=0)
    assert_close(HammingDistance()(codes), exact, rtol=0, atol=0)
    assert_close(HammingDistance()(codes.long()), exact, rtol=0, atol=0)


def test_gradient(device):
    distance = HammingDistance(binarize=False)
    queries, refs = (
        make_codes(3, dtype=torch.float64, device=device).requires_grad_() for _ in range(2)
    )
    assert torch.autograd.gradcheck(distance, (queries, refs))
    assert torch.autograd.gradcheck(distance.pairwise_distance, (queries, refs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_every_bit(device, dtype):
    # Neither dtype holds every integer up to 5000, and bfloat16 not even 257.
    codes = binarize(make_codes(3, 5000, device=device))
    expected = hamming_distance(codes, codes).float()
    for distance in (HammingDistance(), HammingDistance(binarize=False)):
        assert_close(distance(codes.to(dtype)), expected, rtol=0, atol=0)
        assert_close(
            distance.pairwise_distance(codes[:1].to(dtype), codes[1:2].to(dtype)), expected[0, 1:2]
        )


def test_autocast_does_not_round(device):
    codes = make_codes(4, 700, device=device)
    distance = HammingDistance(binarize=False)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = distance(codes)
    assert_close(found, distance(codes), rtol=0, atol=0)


def test_match_finder():
    codes = binarize(make_codes(20, 6))
    finder = MatchFinder(HammingDistance(), threshold=2)
    expected = hamming_distance(codes, codes) <= 2
    assert 20 < expected.sum() < 400
    assert_close(torch.from_numpy(finder.get_matching_pairs(codes)), expected)
    assert (
        finder.is_match(codes[:5], codes[5:10]).tolist() == expected[:5, 5:10].diagonal().tolist()
    )


@pytest.mark.parametrize("batch_size", [None, 4])
def test_custom_knn(batch_size):
    queries, database = make_codes(9, 16), make_codes(30, 16)
    distances, indices = CustomKNN(HammingDistance(), batch_size=batch_size)(queries, 5, database)
    exact = hamming_distance(queries, database)
    assert_close(distances, exact.sort(dim=1).values[:, :5].float())
    assert_close(exact.gather(1, indices).float(), distances)


def test_batch_hard_miner():
    codes, labels = make_codes(12, 32), torch.arange(12) % 3
    anchors, positives, negatives = BatchHardMiner(distance=HammingDistance())(codes, labels)
    exact = hamming_distance(codes, codes)
    assert anchors.tolist() == list(range(12))
    for a, p, n in zip(anchors, positives, negatives, strict=True):
        others = torch.arange(12) != a
        assert exact[a, p] == exact[a, (labels == labels[a]) & others].max()
        assert exact[a, n] == exact[a, labels != labels[a]].min()


@pytest.mark.parametrize("miner", [None, BatchHardMiner(distance=HammingDistance())])
def test_triplet_margin_loss(miner):
    codes, labels = make_codes(8).requires_grad_(), torch.arange(8) % 2
    triplets = miner(codes, labels) if miner else None
    loss = TripletMarginLoss(
        distance=HammingDistance(binarize=False),
        margin=1.5,
        triplets_per_anchor="all",
        reducer=None,
        embedding_regularizer=QuantizationRegularizer(),
        embedding_reg_weight=0.5,
    )(codes, labels, triplets)
    loss.backward()
    d = relaxed_reference(codes, codes)
    chosen = (
        [(a, p, n) for a in range(8) for p in range(8) for n in range(8) if a != p]
        if triplets is None
        else torch.stack(triplets, dim=1).tolist()
    )
    violations = [
        d[a][p] - d[a][n] + 1.5 for a, p, n in chosen if labels[a] == labels[p] != labels[n]
    ]
    violations = [x for x in violations if x > 0]
    quantization = (codes.detach().abs() - 1).square().mean()
    assert_close(loss.item(), sum(violations) / len(violations) + 0.5 * quantization.item())
    assert codes.grad.abs().sum() > 0


def test_contrastive_loss():
    codes, labels = make_codes(6), torch.arange(6) % 2
    distance = HammingDistance(binarize=False)
    loss = ContrastiveLoss(pos_margin=0, neg_margin=4, distance=distance)(codes, labels)
    d = relaxed_reference(codes, codes)
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    similar = [d[i][j] for i, j in pairs if labels[i] == labels[j]]
    dissimilar = [max(4 - d[i][j], 0) for i, j in pairs if labels[i] != labels[j]]
    expected = sum(sum(terms) / sum(term > 0 for term in terms) for terms in (similar, dissimilar))
    assert_close(loss.item(), expected)


def test_bits_have_no_gradient():
    codes, labels = make_codes(6).requires_grad_(), torch.arange(6) % 2
    loss_func = TripletMarginLoss(
        distance=HammingDistance(), embedding_regularizer=QuantizationRegularizer()
    )
    with pytest.raises(ValueError, match=r"`query_emb` without gradient.*\(binarize=False\)"):
        loss_func(codes, labels)
    with torch.no_grad():
        assert not HammingDistance()(codes).requires_grad
    assert not HammingDistance()(codes.detach()).requires_grad


@pytest.mark.parametrize("name", ["normalize_embeddings", "is_inverted"])
def test_options_that_would_spoil_the_distance(name):
    with pytest.raises(ValueError, match=f"`{name}` to be False for a Hamming distance, got True"):
        HammingDistance(**{name: True})
    assert getattr(HammingDistance(**{name: False}), name) is False


@pytest.mark.parametrize("shape", [(4,), (0, 5), (4, 0), (2, 3, 4)])
def test_wrong_shapes(shape):
    codes = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"`query_emb` of shape \(batch_size, code_length\)"):
        HammingDistance()(codes)
    with pytest.raises(ValueError, match=r"`ref_emb` of shape \(batch_size, 5\), not empty, got"):
        HammingDistance()(make_codes(), codes)
    with pytest.raises(ValueError, match=r"one shape \(n, code_length\), got \(6, 5\) and"):
        HammingDistance().pairwise_distance(make_codes(), codes)
    if codes.ndim != 2:
        with pytest.raises(ValueError, match=r"one shape \(n, code_length\), got"):
            HammingDistance().pairwise_distance(codes, codes)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"`ref_emb` of shape \(batch_size, 5\), .* got \(6, 4\)"):
        HammingDistance()(make_codes(), make_codes(6, 4))


def test_packed_codes_are_refused():
    packed_codes = torch.zeros(2, 2, dtype=torch.uint8)
    for compute in (HammingDistance(), HammingDistance().pairwise_distance):
        with pytest.raises(TypeError, match="`query_emb`, got packed codes"):
            compute(packed_codes, packed_codes)


@pytest.mark.parametrize("values", [[torch.nan, -1.0], [torch.inf, 0.5], [0.0, 1.0]])
def test_bits_are_taken_of_codes_that_have_them(values):
    codes = torch.tensor([values, values])
    message = r"Expected .*`query_emb`.* (NaN|0 and 1 alone)"
    with pytest.raises(ValueError, match=message):
        HammingDistance()(codes)
    with pytest.raises(ValueError, match=message):
        HammingDistance().pairwise_distance(codes, codes)
    with pytest.raises(ValueError, match=message.replace("query", "ref")):
        HammingDistance()(-torch.ones(2, 2), codes)
    HammingDistance(binarize=False)(codes)


def test_booleans_are_bits():
    codes = torch.randn(5, 16)
    assert torch.equal(HammingDistance()(codes >= 0), HammingDistance()(codes))
