"""Every score and rule for ties against all orders inside ties, on every kernel."""

import itertools
import math
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score
from waits import no_waits

from pml_hashing import evaluation
from pml_hashing.codes import binarize, pack
from pml_hashing.evaluation import HammingRanking, _cpu, _gpu, _rankings
from pml_hashing.evaluation._asymmetric import whole_numbers
from pml_hashing.evaluation.metrics import (
    AveragePrecision,
    Metric,
    PrecisionWithinRadius,
    RecallWithinRadius,
)
from pml_hashing.evaluation.ranking import TIES

PICK = {
    "expected": lambda values: math.fsum(values) / len(values),
    "stable": lambda values: values[0],  # the order of the database is the first permutation
    "optimistic": max,
    "pessimistic": min,
}


def precision(grades, r):
    return sum(g > 0 for g in grades[:r]) / len(grades[:r])


def mean_grade(grades, r):
    return sum(grades[:r]) / r


def ap(grades, k, *, over_all=False, at=precision):
    found = [r for r in range(1, len(grades[:k]) + 1) if grades[r - 1]]
    divisor = sum(g > 0 for g in grades) if over_all else len(found)
    return sum(at(grades, r) for r in found) / divisor if divisor else 0.0


def dcg(grades, k):
    return sum((2**g - 1) / math.log2(r + 1) for r, g in enumerate(grades[:k], start=1))


def ndcg(grades, k):
    best = dcg(sorted(grades, reverse=True), k)
    return dcg(grades, k) / best if best else 0.0


def recall(grades, k):
    relevant = sum(g > 0 for g in grades)
    return sum(g > 0 for g in grades[:k]) / relevant if relevant else 0.0


def num_relevant(grades):
    return max(1, sum(g > 0 for g in grades))


METRICS = {
    "ap": (lambda s, k: s.average_precision(k), ap),
    "ap_over_all": (
        lambda s, k: s.average_precision(k, divisor="relevant"),
        lambda g, k: ap(g, k, over_all=True),
    ),
    "weighted": (
        lambda s, k: s.average_precision(k, weighted=True),
        lambda g, k: ap(g, k, at=mean_grade),
    ),
    "weighted_over_all": (
        lambda s, k: s.average_precision(k, divisor="relevant", weighted=True),
        lambda g, k: ap(g, k, over_all=True, at=mean_grade),
    ),
    "precision": (lambda s, k: s.precision(k), precision),
    "recall": (lambda s, k: s.recall(k), recall),
    "ndcg": (lambda s, k: s.ndcg(k), ndcg),
    "r_precision": (lambda s, k: s.r_precision(), lambda g, k: precision(g, num_relevant(g))),
    "ap_over_found_at_r": (
        lambda s, k: s.evaluate(AveragePrecision("relevant")),
        lambda g, k: ap(g, num_relevant(g)),
    ),
    "ap_at_r": (
        lambda s, k: s.average_precision_at_r(),
        lambda g, k: ap(g, num_relevant(g), over_all=True),
    ),
    "reciprocal_rank": (
        lambda s, k: s.reciprocal_rank(),
        lambda g, k: next((1 / r for r, x in enumerate(g, start=1) if x), 0.0),
    ),
}


def all_grades(distances, grades):
    """The grades by rank of every order that keeps the distances ascending."""
    groups = [
        [g for g, d in zip(grades, distances, strict=True) if d == at]
        for at in sorted(set(distances))
    ]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    return [list(itertools.chain(*order)) for order in orders]


class References:
    """All scores of each query by every rule, from distances and grades in nested lists."""

    def __init__(self, distances, grades):
        self.orders = [all_grades(d, g) for d, g in zip(distances, grades, strict=True)]
        self.values = {}

    def score(self, name, top_k, ties):
        if (name, top_k) not in self.values:
            of_order = METRICS[name][1]
            self.values[name, top_k] = [[of_order(g, top_k) for g in each] for each in self.orders]
        return [PICK[ties](values) for values in self.values[name, top_k]]

    def scores(self, top_k, ties):
        return {name: self.score(name, top_k, ties) for name in METRICS}


def shared_labels(query_labels, database_labels):
    if query_labels.ndim == 1:
        return (query_labels[:, None] == database_labels).int().tolist()
    return [
        [sum(a and b for a, b in zip(y, z, strict=True)) for z in database_labels.tolist()]
        for y in query_labels.tolist()
    ]


def hamming(queries, database):
    return [[int(((q >= 0) != (x >= 0)).sum()) for x in database] for q in queries]


def make_data(num_queries, num_database, code_length, kind="class_ids", num_classes=3):
    codes = torch.randn(num_queries + num_database, code_length)
    shape, high = (
        ((len(codes),), num_classes) if kind == "class_ids" else ((len(codes), num_classes), 2)
    )
    labels = torch.randint(high, shape)
    return codes[:num_queries], labels[:num_queries], codes[num_queries:], labels[num_queries:]


def ours(ranking, top_k, names=METRICS):
    scores = ranking.score({n: lambda s, n=n: METRICS[n][0](s, top_k) for n in names})
    return {name: values.tolist() for name, values in scores.items()}


def assert_same(scores, expected):
    assert set(scores) == set(expected)
    for name, values in scores.items():
        assert values == pytest.approx(expected[name], abs=1e-12), name


def use_numba(monkeypatch, is_used):
    """Let the kernel for the CPU count by numba or not, whatever other tests have imported."""
    if is_used:
        pytest.importorskip("numba")
    monkeypatch.setattr(_cpu, "PAIRS_THAT_PAY", 0 if is_used else 2**63)
    modules = {name: x for name, x in sys.modules.items() if is_used or name != _cpu.COMPILED}
    monkeypatch.setattr(_cpu, "sys", SimpleNamespace(modules=modules))


KERNELS = ["cpu", *(["numba"] if find_spec("numba") else []), "torch"]
"""The kernel for the CPU, without and with numba, and the one for GPUs on the CPU."""


@contextmanager
def kernel_of(name):
    with pytest.MonkeyPatch.context() as patch:
        use_numba(patch, name == "numba")
        if name == "torch":
            patch.setattr(HammingRanking, "_kernel", _gpu)
        yield


@pytest.fixture(params=KERNELS)
def kernel(request):
    with kernel_of(request.param):
        yield


@pytest.mark.parametrize("num_queries", [1, 4, 7])
@pytest.mark.parametrize(
    ("code_length", "convert"),
    [(1, binarize), (64, pack), (100, pack), (255, binarize), (256, pack)],
)
@pytest.mark.parametrize("options", [{}, {"query_in_database": True}, {"block_size": 700}])
def test_numba_counts_the_same(num_queries, code_length, convert, options, monkeypatch):
    _, _, codes, labels = make_data(1, 3000, code_length)
    codes[1500:] = codes[num_queries - 1]  # all at one distance
    codes = convert(codes)
    counts = []
    for is_used in (False, True):
        use_numba(monkeypatch, is_used)
        data = codes[:num_queries], labels[:num_queries], codes, labels
        counts.append(HammingRanking(*data, **options).counts)
    assert counts[0].dtype == counts[1].dtype
    assert counts[0].equal(counts[1])


def test_numba_is_imported_where_that_pays(monkeypatch):
    pytest.importorskip("numba")
    retrieval = HammingRanking(*make_data(2, 50, 8)).retrieval
    monkeypatch.setattr(_cpu, "sys", SimpleNamespace(modules={}))
    monkeypatch.setattr(_cpu, "PAIRS_THAT_PAY", 101)
    assert _cpu._compiled_count(retrieval) is None
    monkeypatch.setattr(_cpu, "PAIRS_THAT_PAY", 100)
    assert _cpu._compiled_count(retrieval) is not None
    monkeypatch.undo()
    assert _cpu.COMPILED in sys.modules
    assert _cpu._compiled_count(retrieval) is not None


def test_without_a_numba_that_can_be_imported(monkeypatch):
    data = make_data(2, 50, 8)
    use_numba(monkeypatch, False)
    expected = HammingRanking(*data).counts
    monkeypatch.setattr(_cpu, "PAIRS_THAT_PAY", 0)
    monkeypatch.setitem(sys.modules, _cpu.COMPILED, None)  # as numba does for a newer numpy
    monkeypatch.delattr(evaluation, "_numba", raising=False)
    assert _cpu._compiled_count(HammingRanking(*data).retrieval) is None
    assert HammingRanking(*data).counts.equal(expected)


few = settings(max_examples=50)
tiny = {
    "seed": st.integers(0, 2**32 - 1),
    "num_queries": st.integers(1, 3),
    "num_database": st.integers(2, 6),
    "code_length": st.integers(1, 3),  # most items tie
    "kind": st.sampled_from(["class_ids", "multi_hot"]),
    "top_k": st.none() | st.integers(1, 8),
    "block_size": st.none() | st.integers(1, 9),
}


@few
@given(**tiny, query_in_database=st.booleans())
def test_every_order_inside_ties(
    seed, num_queries, num_database, code_length, kind, top_k, block_size, query_in_database
):
    torch.manual_seed(seed)
    data = make_data(num_queries, num_database, code_length, kind)
    if query_in_database:
        num_queries = min(num_queries, num_database)
        data = data[2][:num_queries], data[3][:num_queries], *data[2:]
    distances, grades = hamming(data[0], data[2]), shared_labels(data[1], data[3])
    if query_in_database:
        for query in range(num_queries):
            del distances[query][query], grades[query][query]
    options = {"query_in_database": query_in_database, "block_size": block_size}
    expected = References(distances, grades)
    for name, ties in itertools.product(KERNELS, TIES):
        with kernel_of(name):
            ranking = HammingRanking(*data, ties=ties, **options)
            check_ranks(ranking, expected, top_k)
            check_radii(ranking, distances, grades, code_length)


def check_ranks(ranking, expected, top_k):
    ties, num_queries = ranking.ties, len(expected.orders)
    assert_same(ours(ranking, top_k), expected.scores(top_k, ties))
    curve = ranking.precision_by_rank(top_k).tolist()
    for k, value in enumerate(curve, start=1):
        precisions = expected.score("precision", k, ties)
        assert value == pytest.approx(sum(precisions) / num_queries)
    recalled = sum(expected.score("recall", len(curve), ties)) / num_queries
    assert ranking.recall_by_rank(top_k)[-1].item() == pytest.approx(recalled)


def check_radii(ranking, distances, grades, code_length):
    relevant = [sum(g > 0 for g in row) for row in grades]
    assert ranking.num_relevant.tolist() == relevant
    assert ranking.num_queries_without_relevant_items == relevant.count(0)
    precision, recall = ranking.precision_by_radius(), ranking.recall_by_radius()
    for radius in range(code_length + 1):
        balls = [
            [g for g, d in zip(*pair, strict=True) if d <= radius]
            for pair in zip(grades, distances, strict=True)
        ]
        within = [sum(g > 0 for g in ball) for ball in balls]
        shares = [w / max(1, len(ball)) for w, ball in zip(within, balls, strict=True)]
        assert precision[:, radius].tolist() == pytest.approx(shares)
        found = [w / max(1, r) for w, r in zip(within, relevant, strict=True)]
        assert recall[:, radius].tolist() == pytest.approx(found)


@few
@given(**tiny, query_in_database=st.booleans(), packed=st.booleans())
def test_asymmetric(
    seed,
    num_queries,
    num_database,
    code_length,
    kind,
    top_k,
    block_size,
    query_in_database,
    packed,
):
    torch.manual_seed(seed)
    queries, query_labels, database, labels = make_data(
        num_queries, num_database, code_length, kind
    )
    if query_in_database:
        num_queries = min(num_queries, num_database)
        queries, query_labels = queries[:num_queries], labels[:num_queries]
    grades = shared_labels(query_labels, labels)
    products = queries.double() @ binarize(database).double().T
    distances = (-products).mul(2**40).round().tolist()
    if query_in_database:
        for query in range(num_queries):
            del distances[query][query], grades[query][query]
    data = queries, query_labels, pack(database) if packed else database, labels
    options = {"query_in_database": query_in_database, "block_size": block_size}
    expected = References(distances, grades)
    for ties in TIES:
        ranking = HammingRanking(*data, ties=ties, asymmetric=True, **options)
        assert_same(ours(ranking, top_k), expected.scores(top_k, ties))
        assert ranking.num_relevant.tolist() == [sum(g > 0 for g in row) for row in grades]


def test_asymmetric_distances_do_not_depend_on_the_order_of_summation(device):
    queries = torch.randn(20, 128, dtype=torch.float64, device=device)
    signs = binarize(torch.randn(300, 128, dtype=torch.float64, device=device))
    whole = whole_numbers(queries)
    bits = torch.randperm(128, device=device)
    assert torch.equal(whole @ signs.T, whole[:, bits] @ signs[:, bits].T)
    assert not torch.equal(queries @ signs.T, queries[:, bits] @ signs[:, bits].T)
    largest = queries.abs().amax(dim=1, keepdim=True)
    scaled = whole * (queries / whole).median(dim=1, keepdim=True).values
    assert ((scaled - queries).abs() / largest).max() < 2**-44
    assert torch.equal(whole_numbers(torch.zeros(1, 8)), torch.zeros(1, 8, dtype=torch.float64))


@pytest.mark.parametrize("ties", TIES)
def test_asymmetric_ranks_are_those_of_the_cpu(device, ties):
    data, options = make_data(3, 40, 5), {"asymmetric": True, "ties": ties}
    expected = HammingRanking(*data, **options).average_precision()
    found = HammingRanking(*(part.to(device) for part in data), **options).average_precision()
    assert found.device.type == torch.device(device).type
    assert torch.equal(found.cpu(), expected)


def test_asymmetric_ranks_under_grades_of_any_size():
    queries, _, database, _ = make_data(3, 40, 5)
    grades = torch.randint(3, (3, 40))
    small, large = (
        HammingRanking(queries, None, database, None, relevance=g, asymmetric=True)
        for g in (grades, torch.tensor([0, 1, 5000])[grades])
    )
    assert torch.equal(small.average_precision(), large.average_precision())
    with pytest.raises(ValueError, match=r"grades of at most 960 for NDCG, .* got 5000"):
        large.ndcg()
    weighted = [r.average_precision(weighted=True) for r in (small, large)]
    assert (weighted[0] != weighted[1]).any()


@pytest.mark.parametrize("grade", [1, 511, 512, 1023, 1024])  # 1 to 10 digits; sorted apart
def test_asymmetric_queries_are_left_out_under_grades_of_any_size(grade):
    queries = torch.randn(4, 8)
    grades = (torch.rand(4, 30) < 0.3).long() * grade
    grades[:, 0] = grade
    database = torch.cat([-queries, torch.randn(26, 8)])  # each query itself would come last
    options = {"relevance": grades, "asymmetric": True, "query_in_database": True}
    scores = HammingRanking(queries, None, database, None, **options).average_precision()
    for query, score in enumerate(scores.tolist()):
        others = torch.arange(30) != query
        data = queries[[query]], None, database[others], None
        alone = HammingRanking(*data, relevance=grades[[query]][:, others], asymmetric=True)
        assert score == alone.average_precision().item()


def test_an_asymmetric_ranking_has_no_radius():
    ranking = HammingRanking(*make_data(2, 3, 4), asymmetric=True)
    with pytest.raises(ValueError, match="Hamming distances to count by, got `asymmetric=True`"):
        ranking.precision_by_radius()


@pytest.mark.parametrize("given", ["matrix", "numpy", "function", "uint8", "uint16"])
def test_given_relevance(given):
    _, _, database, _ = make_data(1, 9, 4)
    queries = database[:5]
    grades = torch.randint(4, (5, 9)).clamp(min=1) - 1  # grade 2 comes late in some blocks
    relevance = {
        "matrix": grades,
        "numpy": grades.numpy() > 0,
        "function": lambda rows, items: (grades > 0)[rows, items],
        "uint8": lambda rows, items: grades[rows, items].numpy().astype(np.uint8),
        "uint16": lambda rows, items: grades[rows, items].numpy().astype(np.uint16),
    }[given]
    if given in {"numpy", "function"}:
        grades = (grades > 0).int()
    for own in (False, True):
        distances, kept = hamming(queries, database), grades.tolist()
        for query in range(5 * own):
            del distances[query][query], kept[query][query]
        expected, options = References(distances, kept), {"query_in_database": own}
        for name, ties, block_size in itertools.product(KERNELS, TIES, (None, 7)):
            options |= {"relevance": relevance, "ties": ties, "block_size": block_size}
            with kernel_of(name):
                ranking = HammingRanking(queries, None, database, None, **options)
                for top_k in (3, None):
                    assert_same(ours(ranking, top_k), expected.scores(top_k, ties))


@pytest.mark.parametrize(
    ("ties", "kind", "query_in_database", "code_length"),
    [
        *itertools.product(TIES, ["class_ids", "multi_hot"], [False, True], [16]),
        # Of widths that faiss compares in ways of their own.
        *itertools.product(["expected"], ["class_ids"], [False], [64, 72, 300, 600]),
        *itertools.product(["stable"], ["multi_hot"], [True], [64, 72, 300, 600]),
    ],
)
def test_kernels_devices_blocks_and_kinds_of_codes_agree(
    ties, kind, query_in_database, code_length, device, monkeypatch
):
    data = make_data(30, 200, code_length, kind, num_classes=7)
    if query_in_database:
        data = data[2][:30], data[3][:30], *data[2:]
    options = {"ties": ties, "query_in_database": query_in_database}
    expected = ours(HammingRanking(*data, **options), 17)
    packed = (pack(data[0]), data[1], pack(data[2]), data[3])
    labels = data[1].bool() if kind == "multi_hot" else data[1].int()
    integers = (binarize(data[0]).to(torch.int8), labels, binarize(data[2]).int(), data[3])
    for variant, block_size in itertools.product((data, packed, integers), (None, 100, 1000)):
        moved = [x.to(device) for x in variant]
        ranking = HammingRanking(*moved, block_size=block_size, **options)
        assert_same(ours(ranking, 17), expected)
        assert ranking.average_precision().device.type == device.type
    counts = HammingRanking(*data, **options).counts
    monkeypatch.setattr(HammingRanking, "_kernel", _gpu)
    ranking = HammingRanking(*data, block_size=100, **options)
    assert torch.equal(ranking.counts, counts)  # to the last item
    assert_same(ours(ranking, 17), expected)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_database=st.integers(1, 60),
    kind=st.sampled_from(["class_ids", "multi_hot"]),
    top_k=st.integers(1, 70),
)
def test_symmetries(seed, num_database, kind, top_k):
    torch.manual_seed(seed)
    queries, query_labels, codes, labels = make_data(4, num_database, 6, kind)
    scores = {
        ties: ours(HammingRanking(queries, query_labels, codes, labels, ties=ties), top_k)
        for ties in TIES
    }
    order, bits = torch.randperm(num_database), torch.randperm(6)
    for ties in TIES:
        if ties != "stable":
            shuffled = HammingRanking(queries, query_labels, codes[order], labels[order], ties=ties)
            assert_same(ours(shuffled, top_k), scores[ties])
        signs = binarize(queries), binarize(codes)
        for q, x in ((-signs[0], -signs[1]), (signs[0][:, bits], signs[1][:, bits])):
            assert_same(
                ours(HammingRanking(q, query_labels, x, labels, ties=ties), top_k), scores[ties]
            )
        if top_k >= num_database:
            ranking = HammingRanking(queries, query_labels, codes, labels, ties=ties)
            assert_same(ours(ranking, None, set(METRICS) - {"precision", "recall"}), {
                n: v for n, v in scores[ties].items() if n not in {"precision", "recall"}
            })  # fmt: skip
    for name in METRICS:
        best, mean, stable, worst = (
            np.array(scores[ties][name])
            for ties in ("optimistic", "expected", "stable", "pessimistic")
        )
        assert (best >= mean - 1e-12).all()
        assert (mean >= worst - 1e-12).all()
        assert (best >= stable - 1e-12).all()
        assert (stable >= worst - 1e-12).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_without_ties_all_rules_and_scikit_learn_agree(seed):
    torch.manual_seed(seed)
    size = 16
    thermometer = 1 - 2 * torch.ones(size, size).tril()
    codes = thermometer[torch.randperm(size)]  # at distances 1, 2, ..., 16
    labels = torch.randint(2, (size, 3))
    query = torch.ones(1, size), torch.ones(1, 3, dtype=torch.long)
    labels[0] = 1
    closeness, grades = -(codes < 0).sum(1), labels.sum(1)
    for ties in TIES:
        ranking = HammingRanking(*query, codes, labels, ties=ties)
        expected = average_precision_score(grades > 0, closeness)
        assert ranking.average_precision().item() == pytest.approx(expected)
        gains = (2**grades - 1)[None].numpy()
        for k in (None, 5):
            expected = ndcg_score(gains, closeness[None].numpy(), k=k)
            assert ranking.ndcg(k).item() == pytest.approx(expected)


def script_hashnet(query, query_labels, database, labels, top_k):
    """The formula of the scripts of HashNet and those that copied it, with a stable sort."""
    scores = []
    for q, y in zip(query, query_labels, strict=True):
        order = np.argsort(-(database @ q), kind="stable")[:top_k]
        match = ((labels @ y) > 0)[order]
        precision = match.cumsum() / np.arange(1, len(match) + 1)
        scores.append((precision * match).sum() / match.sum() if match.sum() else 0)
    return np.mean(scores)


def script_dpsh(query, query_labels, database, labels, top_k):
    """The formula of the scripts of DPSH and those that copied it, with a stable sort."""
    total = 0.0
    for q, y in zip(query, query_labels, strict=True):
        truth = (y @ labels.T > 0).astype(np.float32)
        distances = 0.5 * (len(q) - q @ database.T)
        truth = truth[np.argsort(distances, kind="stable")][:top_k]
        hits = int(truth.sum())
        if hits:
            total += np.mean(np.linspace(1, hits, hits) / (np.flatnonzero(truth == 1) + 1.0))
    return total / len(query)


@pytest.mark.parametrize("script", [script_hashnet, script_dpsh])
@pytest.mark.parametrize("top_k", [None, 7, 100])
@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
@pytest.mark.usefixtures("kernel")
def test_stable_ties_are_those_of_published_scripts(script, top_k, kind):
    data = make_data(20, 300, 8, kind, num_classes=9)
    rows = [x if x.ndim == 2 else torch.nn.functional.one_hot(x, 9) for x in (data[1], data[3])]
    arrays = [binarize(data[0]), rows[0], binarize(data[2]), rows[1]]
    expected = script(*(x.numpy() for x in arrays), top_k)
    score = HammingRanking(*data, ties="stable").average_precision(top_k).mean()
    assert score.item() == pytest.approx(expected)


@pytest.mark.parametrize("device_type", ["cpu", "torch"])
@few
@given(block_size=st.integers(1, 3000), num_queries=st.integers(1, 30))
def test_no_more_pairs_than_asked_for_are_held(device_type, block_size, num_queries):
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        if device_type == "cpu":
            original = _cpu.hamming_distances

            def spy(*arrays):
                distances = original(*arrays)
                sizes.append(distances.numel())
                return distances

            use_numba(patch, False)
            patch.setattr(_cpu, "hamming_distances", spy)
        else:
            blocks = _gpu._blocks

            def spy_blocks(*args):
                for block in blocks(*args):
                    sizes.append(block[2].numel())
                    yield block

            patch.setattr(_gpu, "_blocks", spy_blocks)
            patch.setattr(HammingRanking, "_kernel", _gpu)
        data = make_data(num_queries, 40, 4)
        counts = HammingRanking(*data, block_size=block_size).counts
        assert max(sizes) <= block_size
        assert counts.sum() == sum(sizes) == num_queries * 40
        sizes.clear()
        HammingRanking(*data, block_size=block_size, ties="stable").reciprocal_rank()
        assert max(sizes) <= max(block_size, 40)


@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
@pytest.mark.parametrize("block_size", [None, 100])
def test_counting_makes_no_gpu_wait(kind, block_size, accelerator, monkeypatch):
    data = [x.to(accelerator) for x in make_data(30, 50, 8, kind)]
    ranking = HammingRanking(*data, block_size=block_size)
    with no_waits(accelerator, monkeypatch):
        counts = ranking.counts
    assert counts.sum() == 30 * 50


def test_many_grades_need_large_keys(monkeypatch):
    monkeypatch.setattr(_gpu, "LARGEST_INT32", 100)
    monkeypatch.setattr(HammingRanking, "_kernel", _gpu)
    data = make_data(3, 40, 4)
    counts = HammingRanking(*data).counts
    stable = HammingRanking(*data, ties="stable").average_precision()
    monkeypatch.undo()
    assert counts.equal(HammingRanking(*data).counts)
    assert stable.equal(HammingRanking(*data, ties="stable").average_precision())


@pytest.mark.usefixtures("kernel")
def test_few_items_at_a_time(monkeypatch):
    data = make_data(3, 40, 4)
    expected = HammingRanking(*data).counts
    monkeypatch.setattr(_gpu, "SIGNS_AT_A_TIME", 20)
    assert HammingRanking(*data).counts.equal(expected)


def test_scores_in_blocks_of_queries(monkeypatch):
    data = make_data(7, 50, 4, "multi_hot")
    for ties in TIES:
        expected = ours(HammingRanking(*data, ties=ties), 9)
        with monkeypatch.context() as patch:
            patch.setattr("pml_hashing.evaluation.ranking.RANKED_AT_A_TIME", 20)
            patch.setattr(_rankings, "VALUES_AT_A_TIME", {"cpu": 20, "cuda": 20})
            assert_same(ours(HammingRanking(*data, ties=ties), 9), expected)


@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
@pytest.mark.parametrize("convert", [pack, binarize, lambda codes: codes], ids=["8", "1", "real"])
@pytest.mark.parametrize("ties", TIES)
def test_query_i_must_be_item_i(ties, convert, kind, device):
    _, _, codes, labels = make_data(1, 6, 12, kind)
    codes, labels = convert(codes.to(device)), labels.to(device)
    options = {"ties": ties, "query_in_database": True}
    assert HammingRanking(codes[:4], labels[:4], codes, labels, **options).counts.sum() == 4 * 5
    other = codes.flip(1) if codes.dtype == torch.uint8 else -codes
    message = r"first 4 items .* queries \(`query_in_database`\), got other codes for 2 .* item 1\."
    wrong = torch.stack([codes[0], other[1], codes[2], other[3]])
    for relevance in (None, torch.ones(4, 6, dtype=torch.bool)):
        given = (labels[:4], labels) if relevance is None else (None, None)
        with pytest.raises(ValueError, match=message):
            HammingRanking(wrong, given[0], codes, given[1], relevance=relevance, **options)
    wrong = labels[:4].clone()
    wrong[2] = 1 - wrong[2]
    for asymmetric in {False, codes.is_floating_point()}:
        with pytest.raises(ValueError, match=r"got other labels for 1 of them, .* item 2"):
            HammingRanking(codes[:4], wrong, codes, labels, asymmetric=asymmetric, **options)


def test_real_queries_may_come_from_another_network_than_their_items():
    queries, database = torch.ones(1, 8), torch.ones(3, 8)
    database[0] = -1
    labels = torch.tensor([0, 1, 0])
    data = queries, labels[:1], database, labels
    ranking = HammingRanking(*data, query_in_database=True, asymmetric=True)
    rest = HammingRanking(*data[:2], database[1:], labels[1:], asymmetric=True)
    assert ranking.average_precision() == rest.average_precision()


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("ties", TIES)
def test_class_ids_of_any_integer_type(ties):
    queries, query_labels, codes, labels = make_data(3, 30, 4)
    expected = ours(HammingRanking(queries, query_labels, codes, labels, ties=ties), 7)
    for kinds in itertools.product([torch.uint8, torch.int32, torch.int64], repeat=2):
        data = queries, query_labels.to(kinds[0]), codes, labels.to(kinds[1])
        assert ours(HammingRanking(*data, ties=ties), 7) == expected, kinds


@dataclass(frozen=True)
class HasHit(Metric):
    """Whether there is a relevant item among the first `top_k`: a metric from outside."""

    top_k: int

    def expected(self, groups):
        misses = []
        for items, relevant in zip(groups.items.tolist(), groups.relevant.tolist(), strict=True):
            left, chance = self.top_k, 1.0
            for n, r in zip(items, relevant, strict=True):
                drawn = min(left, n)
                chance *= math.comb(n - r, drawn) / math.comb(n, drawn)
                left -= drawn
            misses.append(chance)
        return 1 - torch.tensor(misses, dtype=torch.float64)

    def ordered(self, orders):
        return orders.map(lambda order, k: float(any(order.ranks <= k)), self.top_k)


@few
@given(**tiny)
def test_a_metric_of_ones_own(
    seed, num_queries, num_database, code_length, kind, top_k, block_size
):
    torch.manual_seed(seed)
    data, k = make_data(num_queries, num_database, code_length, kind), top_k or 1
    pairs = zip(hamming(data[0], data[2]), shared_labels(data[1], data[3]), strict=True)
    hits = [[float(any(g[:k])) for g in all_grades(*pair)] for pair in pairs]
    for ties in TIES:
        ranking = HammingRanking(*data, ties=ties, block_size=block_size)
        expected = [PICK[ties](values) for values in hits]
        assert ranking.evaluate(HasHit(k)).tolist() == pytest.approx(expected)
        scores = ranking.score({"hit": HasHit(k), "ap": lambda s: s.average_precision()})
        assert scores["hit"].tolist() == pytest.approx(expected)
        assert torch.equal(scores["ap"], ranking.average_precision())


@pytest.mark.parametrize("name", ["precision", "recall"])
@pytest.mark.parametrize("radius", [0, 2, 9])
def test_scores_within_a_radius(name, radius):
    ranking = HammingRanking(*make_data(5, 30, 4))
    kind = {"precision": PrecisionWithinRadius, "recall": RecallWithinRadius}[name]
    curve = getattr(ranking, f"{name}_by_radius")()
    assert torch.equal(ranking.evaluate(kind(radius)), curve[:, min(radius, 4)])
    with pytest.raises(ValueError, match="`radius` of at least 0, got -1"):
        kind(-1)


CODES, GRADES = torch.ones(4, 8), torch.zeros(4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("relevance", "error", "message"),
    [
        (GRADES[:3], ValueError, r"`relevance` of shape \(4, 4\), .* got \(3, 4\)"),
        (GRADES.float(), TypeError, "`relevance` of booleans or integers, got torch.float32"),
        (GRADES - 1, ValueError, "`relevance` of at least 0, got -1"),
        (lambda rows, items: GRADES[:1, :1], ValueError, r"`relevance` of shape \(4, 4\) for"),
    ],
)
@pytest.mark.usefixtures("kernel")
def test_bad_relevance_is_named(relevance, error, message):
    with pytest.raises(error, match=message):
        HammingRanking(CODES, None, CODES, None, relevance=relevance).average_precision()


def test_labels_and_relevance_exclude_each_other():
    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="labels or `relevance`, got both"):
        HammingRanking(CODES, labels, CODES, None, relevance=GRADES)
    with pytest.raises(TypeError, match=r"`query_labels` to be a .* got NoneType"):
        HammingRanking(CODES, None, CODES, labels)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query_codes": pack(CODES)}, TypeError, r"real numbers .* got torch.uint8"),
        ({"database_codes": pack(torch.ones(4, 9))}, ValueError, r"\(batch_size, 1\), .* \(4, 2\)"),
        ({"ties": "best"}, ValueError, "`ties` .* 'pessimistic', got 'best'"),
    ],
)
def test_bad_asymmetric_data_is_named(changes, error, message):
    data = {"query_codes": CODES, "database_codes": CODES, "relevance": GRADES}
    with pytest.raises(error, match=message):
        HammingRanking(**(data | changes), query_labels=None, database_labels=None, asymmetric=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.average_precision(0), ValueError, "`top_k` of at least 1, got 0"),
        (lambda r: r.average_precision(divisor="all"), ValueError, "`divisor` .* got 'all'"),
        (lambda r: r.precision("all"), TypeError, "`top_k` to be an integer, got 'all'"),
        (lambda r: r.recall(1.5), TypeError, "`top_k` to be an integer, got 1.5"),
        (lambda r: r.ndcg(-1), ValueError, "`top_k` of at least 1, got -1"),
        (lambda r: r.precision_by_rank(0), ValueError, "`top_k` of at least 1, got 0"),
        (lambda r: r.recall_by_rank("1"), TypeError, "`top_k` to be an integer, got '1'"),
    ],
)
def test_bad_questions_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(HammingRanking(CODES, None, CODES, None, relevance=GRADES))


@pytest.mark.parametrize("first", [[1, 0, 1], [2, 2, 2, 2], [0, 0, 0, 0, 3], [1, 1, 1, 0, 0, 0]])
@pytest.mark.parametrize("top_k", [8, 11])
def test_cut_of_a_group_with_many_relevant_items(first, top_k):
    """Of 12 tied items 7 are relevant, so that many numbers of them can lie before the cut."""
    group = [1] * 7 + [0] * 5
    codes = torch.ones(len(first) + len(group), 16)
    for item in range(len(codes)):
        codes[item, : min(item, len(first))] = -1  # so many bits away from the query
    orders = [
        first + [int(place in chosen) for place in range(12)]
        for chosen in itertools.combinations(range(12), 7)
    ]
    grades = torch.tensor([first + group])
    values = {
        name: [reference(order, top_k) for order in orders]
        for name, (_, reference) in METRICS.items()
    }
    for ties in ("optimistic", "pessimistic", "expected"):
        ranking = HammingRanking(torch.ones(1, 16), None, codes, None, relevance=grades, ties=ties)
        expected = {name: [PICK[ties](of_orders)] for name, of_orders in values.items()}
        assert_same(ours(ranking, top_k), expected)
