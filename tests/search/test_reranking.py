"""Re-ranking against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing._compat import AccuracyCalculator
from pml_hashing.codes import binarize, pack
from pml_hashing.search import HNSW, HammingKNN, _neighbors


def rerank_reference(query, database, k, num_candidates, rerank, own=None):
    """The distance of one query to every candidate, in Python floats."""

    def bits(code):
        return [1 if x >= 0 else -1 for x in code]

    by_bits = sorted(
        (sum(a != b for a, b in zip(bits(query), bits(item), strict=True)), row)
        for row, item in enumerate(database)
        if row != own
    )[: max(k, num_candidates)]
    found = sorted(
        (
            sum((u - v) ** 2 for u, v in zip(query, item, strict=True)) / 4,
            row,
        )
        for _, row in by_bits
        for item in [database[row] if rerank == "vectors" else bits(database[row])]
    )
    return found[:k]


@given(
    seed=st.integers(0, 2**32 - 1),
    num_database=st.integers(2, 20),
    code_length=st.integers(1, 10),
    num_candidates=st.integers(1, 25),
    rerank=st.sampled_from(["asymmetric", "vectors"]),
    stored=st.booleans(),
    ref_includes_query=st.booleans(),
    block=st.integers(1, 100),
    data=st.data(),
)
def test_reranking(
    make_knn,
    seed,
    num_database,
    code_length,
    num_candidates,
    rerank,
    stored,
    ref_includes_query,
    block,
    data,
):
    torch.manual_seed(seed)
    # Multiples of a quarter: sums are exact, and ties are real.
    database = torch.randint(-4, 5, (num_database, code_length)) / 4
    query = database[:3] if ref_includes_query else torch.randint(-4, 5, (3, code_length)) / 4
    k = data.draw(st.integers(1, num_database - ref_includes_query))
    knn = make_knn(rerank=rerank, num_candidates=num_candidates)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_neighbors, "BLOCK_ELEMENTS", block)
        if stored and (make_knn is HammingKNN or not ref_includes_query):
            knn.train(database)
            distances, rows = knn(query, k, ref_includes_query=ref_includes_query)
        else:
            distances, rows = knn(query, k, database, ref_includes_query)
    for i, code in enumerate(query.tolist()):
        own = i if ref_includes_query else None
        expected = rerank_reference(code, database.tolist(), k, num_candidates, rerank, own)
        assert list(zip(distances[i].tolist(), rows[i].tolist(), strict=True)) == expected


def test_binary_codes_keep_their_hamming_distance(make_knn, device):
    codes = binarize(torch.randn(30, 12)).to(device)
    expected = make_knn()(codes, 30, codes)
    for rerank in ("asymmetric", "vectors"):
        knn = make_knn(rerank=rerank)
        knn.train(codes)
        for found in (knn(codes, 30), knn(codes, 30, codes.cpu())):
            assert_close(found, (expected[0].float(), expected[1]))


def test_asymmetric_reranking_of_packed_codes():
    codes, query = torch.randn(30, 16), torch.randn(2, 16)
    knn = HammingKNN(rerank="asymmetric", index=HNSW())
    knn.train(pack(codes))
    distances = (query[:, None] - binarize(codes)).square().sum(dim=2) / 4
    found = knn(query, 5)
    assert_close(found[0], distances.sort().values[:, :5])
    assert_close(found[1], distances.argsort()[:, :5])
    with pytest.raises(TypeError, match="real codes in `query` to re-rank, got packed codes"):
        knn(pack(query), 5)


def test_gradients_and_half_precision_do_not_matter(make_knn):
    codes = torch.randint(-4, 5, (20, 8)) / 4
    for rerank in ("asymmetric", "vectors"):
        knn = make_knn(rerank=rerank)
        knn.train(codes)
        expected = knn(codes, 5)
        for passed in (codes.clone().requires_grad_(), codes.half(), codes.double()):
            knn.train(passed)
            assert_close(knn(passed, 5), expected)
            assert_close(knn(passed, 5, passed), expected)
            assert not knn(passed, 5)[0].requires_grad


def test_vectors_are_needed(make_knn):
    codes, knn = torch.randn(6, 16), make_knn(rerank="vectors")
    knn.train(codes)
    for use in (knn.train, knn.add, lambda x: knn.update(range(6), x)):
        with pytest.raises(TypeError, match="real codes in `codes` to re-rank, got packed"):
            use(pack(codes))
    with pytest.raises(TypeError, match="real codes in `reference` to re-rank, got packed"):
        knn(codes, 2, reference=pack(codes))
    assert_close(knn(codes, 1)[0], torch.zeros(6, 1))


def test_accuracy_calculator():
    # As many candidates as items: the ranking is that of the floats.
    codes, labels = torch.randn(60, 12), torch.randint(4, (60,))
    options = {"include": ("mean_average_precision",), "device": torch.device("cpu")}
    arguments = (codes[:20], labels[:20], codes, labels, True)
    knn = HammingKNN(rerank="vectors", num_candidates=60)
    found = AccuracyCalculator(knn_func=knn, **options).get_accuracy(*arguments)
    assert found == pytest.approx(AccuracyCalculator(**options).get_accuracy(*arguments))
