"""HammingKNN against loops, and behind PML's interfaces."""

import faiss
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.utils.inference import FaissKNN, InferenceModel
from torch.testing import assert_close

from pml_hashing._compat import AccuracyCalculator
from pml_hashing.codes import binarize, pack
from pml_hashing.search import HNSW, IVF, HammingKNN, exact

KINDS = {"real": lambda codes: codes, "binary": binarize, "packed": pack}


def knn_reference(queries, database, k, ref_includes_query):
    """Ranks by counting differing bits one by one; ties stay in database order."""
    distances, indices = [], []
    for i, query in enumerate(queries.tolist()):
        found = [
            (sum((a >= 0) != (b >= 0) for a, b in zip(query, item, strict=True)), j)
            for j, item in enumerate(database.tolist())
            if not (ref_includes_query and i == j)
        ]
        found = sorted(found)[:k]
        distances.append([distance for distance, _ in found])
        indices.append([index for _, index in found])
    return torch.tensor(distances, dtype=torch.int32), torch.tensor(indices)


def make_codes(n=6, code_length=12, **kwargs):
    codes = torch.randn(n, code_length, **kwargs)
    return torch.where(codes.abs() < 0.2, 0.0, codes)  # some zeros, which are set bits


@given(
    seed=st.integers(0, 2**32 - 1),
    num_queries=st.integers(1, 5),
    num_database=st.integers(2, 40),
    code_length=st.integers(1, 18),  # short codes: most items tie
    kinds=st.tuples(*[st.sampled_from(sorted(KINDS))] * 2),
    stored=st.booleans(),
    ref_includes_query=st.booleans(),
    counting=st.booleans(),
    data=st.data(),
)
def test_neighbours(
    seed, num_queries, num_database, code_length, kinds, stored, ref_includes_query, counting, data
):
    torch.manual_seed(seed)
    database = make_codes(num_database, code_length)
    queries = database[:num_queries] if ref_includes_query else make_codes(num_queries, code_length)
    k = data.draw(st.integers(1, num_database - ref_includes_query))
    expected = knn_reference(queries, database, k, ref_includes_query)
    query_codes, database_codes = KINDS[kinds[0]](queries), KINDS[kinds[1]](database)
    knn = HammingKNN(code_length=code_length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_is_counted", lambda *_: counting)
        if stored:
            knn.train(database_codes[:1])
            knn.add(database_codes[1:])
            found = knn(query_codes, k, ref_includes_query=ref_includes_query)
        else:
            found = knn(query_codes, k, database_codes, ref_includes_query)
    assert_close(found, expected)
    assert (len(knn), knn.code_length) == (num_database if stored else 0, code_length)


def test_results_are_where_the_queries_are(make_knn, device):
    codes = make_codes(device=device)
    knn = make_knn()
    knn.train(codes)
    for found in (knn(codes, 3), knn(codes, 3, reference=codes.cpu())):
        assert_close([x.cpu() for x in found], list(knn_reference(codes, codes, 3, False)))
        assert [x.device.type for x in found] == [device.type] * 2


def test_many_duplicates_may_leave_the_query_itself_out_of_what_faiss_returns():
    codes = torch.ones(40, 8)
    _, indices = HammingKNN()(codes, 3, codes, ref_includes_query=True)
    assert_close(indices[[0, 1, 39]], torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 2]]))


@pytest.mark.parametrize("k", [1, 10, 300])
def test_equals_the_flat_index_of_faiss(k):
    codes = pack(make_codes(500, 8))
    index = faiss.IndexBinaryFlat(8)
    index.add(codes.numpy())
    expected = [torch.from_numpy(x) for x in index.search(codes[:70].numpy(), k)]
    assert_close(list(HammingKNN()(codes[:70], k, codes)), expected)


@pytest.mark.parametrize(
    ("k", "num_codes", "code_length", "counted"),
    [
        (10, 59_000, 64, False),
        (100, 59_000, 64, True),
        (50, 10**6, 64, False),
        (5000, 10**6, 64, True),
        (500, 10**6, 256, False),
        (10**6, 10**6, 64, False),  # it would set aside 16 GB
    ],
)
def test_the_faster_way_is_chosen(k, num_codes, code_length, counted):
    assert exact._is_counted(k, num_codes, code_length // 8) == counted


@pytest.mark.parametrize("rerank", [None, "asymmetric"])
def test_queries_that_are_not_in_the_reference(device, rerank):
    codes, knn = make_codes(9, device=device), HammingKNN(rerank=rerank)
    knn.train(codes)
    knn(codes[:4].abs() * codes[:4].sign(), 2, codes, ref_includes_query=True)
    message = (
        r"query i to be item i .* `ref_includes_query` says, got other codes for 2 of 4 .* 1\."
    )
    for reference in (None, codes, codes.cpu()):
        with pytest.raises(ValueError, match=message):
            knn(codes[[0, 2, 1, 3]], 2, reference, ref_includes_query=True)
    knn.remove([0])
    knn(codes[1:4], 2, ref_includes_query=True)
    with pytest.raises(ValueError, match="for 3 of 3 queries, the first of them query 0"):
        knn(codes[:3], 2, ref_includes_query=True)


def test_codes_may_be_views():
    codes = make_codes(20, 24)
    expected = HammingKNN()(codes, 20, codes)
    for passed in (codes.T.contiguous().T, pack(codes).T.contiguous().T):
        knn = HammingKNN()
        knn.train(passed)
        assert_close(knn(passed, 20), expected)
        assert_close(knn(passed, 20, passed), expected)


def test_a_reference_leaves_the_held_codes_alone():
    codes = make_codes()
    knn = HammingKNN()
    knn.train(codes)
    knn(make_codes(3, 20), 2, reference=make_codes(9, 20))
    assert_close(knn(codes, 2), knn_reference(codes, codes, 2, False))
    assert (len(knn), knn.code_length) == (6, 12)


def test_train_starts_anew_and_add_needs_no_train(make_knn):
    knn = make_knn()
    assert (len(knn), knn.code_length) == (0, None)
    knn.add(make_codes(4, 12))
    assert (len(knn), knn.code_length) == (4, 12)
    knn.train(make_codes(3, 20))
    assert (len(knn), knn.code_length) == (3, 20)
    knn.train(pack(make_codes(3, 12)))
    assert knn.code_length == 16  # a byte holds eight bits unless the constructor says otherwise


@pytest.mark.parametrize("ref_includes_query", [True, False])
def test_accuracy_calculator(ref_includes_query):
    # Squared Euclidean distance of binary codes ranks as Hamming distance does.
    codes, labels = binarize(make_codes(60, 12)), torch.randint(4, (60,))
    arguments = (codes[:20], labels[:20], codes, labels, ref_includes_query)
    options = {"exclude": ("NMI", "AMI"), "device": torch.device("cpu")}
    expected = AccuracyCalculator(knn_func=FaissKNN(), **options).get_accuracy(*arguments)
    assert AccuracyCalculator(knn_func=HammingKNN(), **options).get_accuracy(*arguments) == expected
    assert len(expected) == 5


def test_inference_model(tmp_path):
    def make_model():
        return InferenceModel(
            torch.nn.Identity(),
            knn_func=HammingKNN(),
            normalize_embeddings=False,
            data_device="cpu",
        )

    codes, model, loaded = make_codes(9), make_model(), make_model()
    model.train_knn(codes[:5], batch_size=2)
    model.add_to_knn(codes[5:])
    model.save_knn_func(tmp_path / "codes.safetensors")
    loaded.load_knn_func(str(tmp_path / "codes.safetensors"))
    for searched in (model, loaded):
        found = searched.get_nearest_neighbors(codes[:3], k=4)
        assert_close(found, knn_reference(codes[:3], codes, 4, False))


@pytest.mark.parametrize("make", [lambda: HammingKNN(code_length=16), HammingKNN])
def test_code_lengths_must_agree(make):
    knn = make()
    knn.add(make_codes(4, 16))
    with pytest.raises(ValueError, match=r"`codes` of shape \(batch_size, 16\), .* got \(2, 12\)"):
        knn.add(make_codes(2, 12))
    with pytest.raises(ValueError, match=r"`query` of shape \(batch_size, 16\), .* got \(2, 12\)"):
        knn(make_codes(2, 12), 1)
    with pytest.raises(ValueError, match=r"`query` of shape \(n, 2, for 16 bits\), .* \(2, 3\)"):
        knn(pack(make_codes(2, 24)), 1)
    with pytest.raises(ValueError, match=r"`query` of shape \(batch_size, 12\), .* got \(2, 16\)"):
        HammingKNN()(make_codes(2, 16), 1, reference=make_codes(2, 12))
    assert len(knn) == 4


def test_bits_behind_the_code_must_be_zero(make_knn):
    knn = make_knn(code_length=12)
    with pytest.raises(ValueError, match="zeros in `codes` after the 12 bits of each code"):
        knn.train(torch.tensor([[0, 16]], dtype=torch.uint8))
    knn.train(torch.tensor([[255, 15]], dtype=torch.uint8))
    assert_close(knn(-torch.ones(1, 12), 1)[0], torch.tensor([[12]], dtype=torch.int32))


EMPTY_USES = {
    "call": lambda knn: knn(make_codes(), 1),
    "search": lambda knn: knn.search(make_codes(), 1),
    "range_search": lambda knn: knn.range_search(make_codes(), 1),
    "update": lambda knn: knn.update([], make_codes()),
    "save": lambda knn: knn.save("never written"),
}


@pytest.mark.parametrize("use", EMPTY_USES.values(), ids=EMPTY_USES)
@pytest.mark.parametrize("index", [None, IVF(), HNSW()])
def test_nothing_to_search(use, index):
    emptied = HammingKNN(index=index)
    emptied.add(make_codes())
    emptied.remove(range(6))
    for knn in (HammingKNN(index=index), emptied):
        assert len(knn) == 0
        with pytest.raises(ValueError, match="got an empty index"):
            use(knn)


@pytest.mark.parametrize("k", [0, -1, 7])
def test_k_outside_of_the_index(k):
    knn = HammingKNN()
    knn.train(make_codes(6))
    with pytest.raises(ValueError, match=f"`k` from 1 to 6, as 6 codes are searched, got {k}"):
        knn(make_codes(2), k)
    with pytest.raises(ValueError, match="from 1 to 5, as 6 codes are searched, the query itself"):
        knn(make_codes(2), 6, ref_includes_query=True)
    with pytest.raises(ValueError, match=r"at most 6 rows of `query`, .* got 7"):
        knn(make_codes(7), 2, ref_includes_query=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_have_no_sign(make_knn, value):
    codes = make_codes()
    knn = make_knn()
    knn.train(codes)
    bad = codes.clone()
    bad[2, 3] = value
    with pytest.raises(ValueError, match=r"finite values in `query`, .* row 2"):
        knn(bad, 1)
    with pytest.raises(ValueError, match="finite values in `reference`"):
        knn(codes, 1, reference=bad)
    for hold in (knn.add, knn.train):
        with pytest.raises(ValueError, match="finite values in `codes`"):
            hold(bad)
    assert len(knn) == 6


@pytest.mark.parametrize("shape", [(4,), (0, 12), (4, 0), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_wrong_shapes(make_knn, shape, dtype):
    codes = torch.zeros(shape, dtype=dtype)
    with pytest.raises(ValueError, match=r"Expected `codes` of shape .* not empty, got \("):
        make_knn().train(codes)
    with pytest.raises(ValueError, match="Expected `query` of shape"):
        make_knn()(codes, 1, reference=make_codes())


def test_wrong_types():
    with pytest.raises(TypeError, match=r"`codes` to be a torch\.Tensor, got list"):
        HammingKNN().train(make_codes().tolist())
    with pytest.raises(ValueError, match="`code_length` of at least 1, got 0"):
        HammingKNN(code_length=0)
    with pytest.raises(ValueError, match="`num_candidates` of at least 1, got 0"):
        HammingKNN(num_candidates=0)
    with pytest.raises(
        ValueError, match="`rerank` to be one of None, 'asymmetric', 'vectors', got 'no'"
    ):
        HammingKNN(rerank="no")


@pytest.mark.parametrize("kind", ["real", "binary", "packed"])
def test_codes_as_arrays(kind):
    codes = torch.randn(9, 16)
    codes = {"real": codes, "binary": codes.sign().to(torch.int8), "packed": pack(codes)}[kind]
    rerank = "vectors" if kind == "real" else None
    of_tensors, of_arrays = (HammingKNN(rerank=rerank) for _ in range(2))
    of_tensors.train(codes)
    of_arrays.train(codes[:4].numpy())
    of_arrays.add(codes[4:].numpy())
    of_arrays.update([2], codes[2:3].numpy())
    distances, ids = of_arrays.search(codes.numpy(), k=9)
    assert ids == of_tensors.search(codes, k=9)[1]
    assert torch.equal(distances, of_tensors.search(codes, k=9)[0])
    assert of_arrays.range_search(codes.numpy(), 5)[1] == of_tensors.range_search(codes, 5)[1]
