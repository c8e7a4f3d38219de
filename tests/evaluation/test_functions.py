"""Scores against loops, against every order inside ties, and against other libraries."""

import decimal
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalMAP

from pml_hashing.codes import binarize, pack
from pml_hashing.evaluation import (
    average_precision,
    mean_average_precision,
    precision_at_k,
    precision_within_radius,
)
from pml_hashing.evaluation._hypergeometric import half_width, hypergeometric
from pml_hashing.evaluation._rankings import TieGroups
from pml_hashing.evaluation._scores import ScoresOfBlock
from pml_hashing.evaluation.ranking import TIES


def ap_reference(relevant, top_k):
    """The printed formula, for the relevance of a ranking."""
    hits, total = 0, 0.0
    for rank, is_relevant in enumerate(relevant[:top_k], start=1):
        if is_relevant:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


def precision_reference(relevant, top_k):
    return sum(relevant[:top_k]) / len(relevant[:top_k])


def distances_reference(query, database):
    return [
        sum((a >= 0) != (b >= 0) for a, b in zip(query, item, strict=True)) for item in database
    ]


def similar_reference(y, z):
    return any(a and b for a, b in zip(y, z, strict=True)) if isinstance(y, list) else y == z


def orders(distances, ties):
    """All orders by distance, or only the one that keeps equal distances in database order."""
    groups = [
        [i for i, d in enumerate(distances) if d == distance] for distance in sorted(set(distances))
    ]
    choices = [itertools.permutations(g) if ties != "stable" else [g] for g in groups]
    return [list(itertools.chain(*order)) for order in itertools.product(*choices)]


def score_reference(score, data, ties, top_k, query_in_database=False):
    """The mean, largest or smallest `score` over all orders, for each query."""
    queries, query_labels, database, labels = (x.tolist() for x in data)
    values = []
    for q, query in enumerate(queries):
        kept = [i for i in range(len(database)) if not (query_in_database and i == q)]
        distances = distances_reference(query, [database[i] for i in kept])
        relevant = [similar_reference(query_labels[q], labels[i]) for i in kept]
        each = [score([relevant[i] for i in o], top_k) for o in orders(distances, ties)]
        pick = {"optimistic": max, "pessimistic": min}.get(ties, lambda x: math.fsum(x) / len(x))
        values.append(pick(each))
    return values


def make_data(num_queries, num_database, code_length, kind="class_ids", device="cpu"):
    codes = torch.randn(num_queries + num_database, code_length, device=device)
    shape, high = ((len(codes),), 3) if kind == "class_ids" else ((len(codes), 3), 2)
    labels = torch.randint(high, shape, device=device)
    return codes[:num_queries], labels[:num_queries], codes[num_queries:], labels[num_queries:]


few = settings(max_examples=20)  # test_ranking.py tries many on every kernel
tiny = {
    "seed": st.integers(0, 2**32 - 1),
    "num_queries": st.integers(1, 3),
    "num_database": st.integers(1, 6),
    "code_length": st.integers(1, 3),  # most items tie
    "kind": st.sampled_from(["class_ids", "multi_hot"]),
    "top_k": st.none() | st.integers(1, 8),
}


@pytest.mark.parametrize("ties", TIES)
@few
@given(**tiny, block_size=st.none() | st.integers(1, 9))
def test_every_order_inside_ties(
    ties, seed, num_queries, num_database, code_length, kind, top_k, block_size
):
    torch.manual_seed(seed)
    data = make_data(num_queries, num_database, code_length, kind)
    options = {"ties": ties, "block_size": block_size}
    scores = average_precision(*data, top_k, **options)
    expected = score_reference(ap_reference, data, ties, top_k)
    assert scores.tolist() == pytest.approx(expected, abs=1e-12)
    mean = mean_average_precision(*data, top_k, **options)
    assert mean == pytest.approx(sum(expected) / num_queries, abs=1e-12)
    assert isinstance(mean, float)
    if top_k is not None:
        expected = score_reference(precision_reference, data, ties, top_k)
        precision = precision_at_k(*data, top_k, **options)
        assert precision == pytest.approx(sum(expected) / num_queries, abs=1e-12)


@pytest.mark.parametrize("ties", TIES)
@few
@given(**(tiny | {"num_database": st.integers(2, 6)}), block_size=st.none() | st.integers(1, 9))
def test_query_in_database_is_left_out(
    ties, seed, num_queries, num_database, code_length, kind, top_k, block_size
):
    torch.manual_seed(seed)
    num_queries = min(num_queries, num_database)
    _, _, codes, labels = make_data(1, num_database, code_length, kind)
    data = codes[:num_queries], labels[:num_queries], codes, labels
    options = {"query_in_database": True, "block_size": block_size}
    scores = average_precision(*data, top_k, ties=ties, **options)
    expected = score_reference(ap_reference, data, ties, top_k, query_in_database=True)
    assert scores.tolist() == pytest.approx(expected, abs=1e-12)
    within = precision_within_radius(*data, 1, **options)
    one_by_one = [
        precision_within_radius(
            codes[[q]],
            labels[[q]],
            codes[others := [i for i in range(num_database) if i != q]],
            labels[others],
            1,
        )
        for q in range(num_queries)
    ]
    assert within == pytest.approx(sum(one_by_one) / num_queries)


@few
@given(**tiny, radius=st.integers(0, 4))
def test_precision_within_radius(seed, num_queries, num_database, code_length, kind, top_k, radius):
    torch.manual_seed(seed)
    data = make_data(num_queries, num_database, code_length, kind)
    queries, query_labels, database, labels = (x.tolist() for x in data)
    expected = 0.0
    for query, label in zip(queries, query_labels, strict=True):
        ball = [
            similar_reference(label, labels[i])
            for i, distance in enumerate(distances_reference(query, database))
            if distance <= radius
        ]
        expected += sum(ball) / len(ball) / num_queries if ball else 0.0
    assert precision_within_radius(*data, radius) == pytest.approx(expected)


@few
@given(seed=st.integers(0, 2**32 - 1), num_database=st.integers(1, 60), top_k=st.integers(1, 70))
def test_symmetries(seed, num_database, top_k):
    torch.manual_seed(seed)
    queries, query_labels, codes, labels = make_data(4, num_database, 6)
    score = average_precision(queries, query_labels, codes, labels, top_k)
    order, bits = torch.randperm(num_database), torch.randperm(6)

    def agrees(*data, k=top_k):
        return average_precision(*data, k).tolist() == pytest.approx(score.tolist(), abs=1e-12)

    assert agrees(queries, query_labels, codes[order], labels[order])
    queries, codes = binarize(queries), binarize(codes)
    assert agrees(-queries, query_labels, -codes, labels)
    assert agrees(queries[:, bits], query_labels, codes[:, bits], labels)
    assert agrees(pack(queries), query_labels, pack(codes), labels)
    if top_k >= num_database:
        assert agrees(queries, query_labels, codes, labels, k=None)


@few
@given(seed=st.integers(0, 2**32 - 1), top_k=st.integers(1, 20))
def test_without_ties_all_libraries_agree(seed, top_k):
    torch.manual_seed(seed)
    size = 16
    query, thermometer = torch.ones(1, size), 1 - 2 * torch.ones(size, size).tril()
    codes = thermometer[torch.randperm(size)]  # at distances 1, 2, ..., 16
    label, labels = torch.tensor([1]), torch.randint(2, (size,))
    labels[0] = 1
    distances = (codes < 0).sum(1)
    ours = [average_precision(query, label, codes, labels, top_k, ties=t).item() for t in TIES]
    metric = RetrievalMAP(top_k=top_k, empty_target_action="neg")
    theirs = metric(
        (size + 1 - distances).float(), labels.bool(), indexes=torch.zeros(size, dtype=torch.long)
    )
    assert ours == pytest.approx([theirs.item()] * len(TIES), abs=1e-6)
    everything = mean_average_precision(query, label, codes, labels)
    assert everything == pytest.approx(average_precision_score(labels, -distances))


@pytest.mark.parametrize("top_k", [1, 3, 10, 40, None])
def test_expected_is_the_mean_of_stable_over_shuffles(top_k, device):
    queries, query_labels, codes, labels = make_data(20, 50, 4, device=device)
    expected = mean_average_precision(queries, query_labels, codes, labels, top_k)
    shuffled = []
    for _ in range(300):
        order = torch.randperm(50, device=device)
        shuffled.append(
            mean_average_precision(
                queries, query_labels, codes[order], labels[order], top_k, ties="stable"
            )
        )
    error = torch.tensor(shuffled).std().item() / math.sqrt(300)
    assert sum(shuffled) / 300 == pytest.approx(expected, abs=5 * error + 1e-9)


@pytest.mark.parametrize("ties", TIES)
def test_perfect_and_hopeless_rankings_are_exact(ties):
    codes, labels = binarize(torch.randn(100, 4)), torch.zeros(100, dtype=torch.long)
    for top_k in (None, 1, 17, 100):
        assert mean_average_precision(codes, labels, codes, labels, top_k, ties=ties) == 1
        assert mean_average_precision(codes, labels, codes, labels + 1, top_k, ties=ties) == 0
        assert precision_at_k(codes, labels, codes, labels, top_k or 200, ties=ties) == 1


@pytest.mark.parametrize(
    ("top_k", "expected"), [(1, 1.0), (3, 5 / 6), (5, 5 / 6), (10, 28 / 45), (99, 28 / 45)]
)
def test_example_of_the_docs(top_k, expected):
    relevance = torch.tensor([1, 0, 1, 0, 0, 1, 0, 0, 1, 1])
    codes = 1 - 2 * torch.ones(10, 10).tril()  # the item of rank r is r bits away
    score = mean_average_precision(torch.ones(1, 10), torch.tensor([1]), codes, relevance, top_k)
    assert score == pytest.approx(expected)


def test_a_query_with_nothing_relevant_stays_in_the_mean():
    codes = torch.ones(2, 4)
    assert mean_average_precision(codes, torch.tensor([0, 5]), codes, torch.tensor([0, 0])) == 0.5


def test_multi_hot_row_without_a_label_is_similar_to_nothing():
    codes, labels = torch.ones(2, 4), torch.tensor([[0, 0], [0, 1]])
    assert average_precision(codes, labels, codes, labels).tolist() == pytest.approx([0, 0.75])


def test_class_ids_beyond_float32_stay_apart():
    codes = torch.ones(1, 4)
    ids = torch.tensor([2**24]), torch.tensor([2**24 + 1])
    assert mean_average_precision(codes, ids[0], codes, ids[1]) == 0


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_autocast_are_exact(ties, dtype, device):
    codes = torch.ones(5, 1001, device=device, dtype=dtype)
    for item in range(5):
        codes[item, item:4] = -1  # at distances 4, 3, 2, 1, 0: bfloat16 cannot tell 997 from 1001
    query, labels = codes[-1:], torch.tensor([0, 0, 1, 0, 1], device=device)
    with torch.autocast(device.type, torch.bfloat16):
        scores = average_precision(query, labels[-1:], codes, labels, ties=ties)
    assert scores.tolist() == pytest.approx([(1 + 2 / 3) / 2])


def test_queries_of_the_database_in_blocks_that_do_not_match():
    _, _, codes, labels = make_data(1, 220, 8)
    data = codes, labels, codes, labels
    one_by_one = []
    for query in range(220):
        others = torch.arange(220) != query
        one = codes[[query]], labels[[query]], codes[others], labels[others]
        one_by_one.append(mean_average_precision(*one))
    for block_size in (600, None):  # 600: blocks of 3 queries, blocks of 200 items
        scores = average_precision(*data, query_in_database=True, block_size=block_size)
        assert scores.tolist() == pytest.approx(one_by_one, abs=1e-12)


def make_scores(items, relevant):
    relevant = torch.tensor([relevant])
    counts = torch.stack([torch.tensor([items]) - relevant, relevant], dim=2)
    return ScoresOfBlock(TieGroups(counts))


@pytest.mark.parametrize(
    ("items", "relevant", "top_k"),
    [
        ([1000, 4000], [10, 3000], 2500),
        ([0, 5000], [0, 4999], 4000),
        ([300, 9000], [0, 5], 700),
        ([10, 2000, 50], [10, 2000, 0], 1500),
        ([100_000], [40_000], 30_000),
    ],
)
def test_cut_of_large_groups(items, relevant, top_k):
    """Against a sum over every number of relevant items, in 40 digits."""
    scores = make_scores(items, relevant)
    with decimal.localcontext(prec=40):
        score = average_precision_of_cut(items, relevant, top_k)
    assert scores.average_precision(top_k).item() == pytest.approx(float(score), abs=1e-12)
    _, hits, n, r, m = before_cut(items, relevant, top_k)
    assert scores.precision(top_k).item() == pytest.approx((hits + m * r / n) / top_k)


def before_cut(items, relevant, top_k):
    """Items and hits before the group that is cut; its items, hits, and places before the cut."""
    group, total, hits = 0, 0, 0
    while total + items[group] <= top_k:
        total, hits, group = total + items[group], hits + relevant[group], group + 1
    return total, hits, items[group], relevant[group], top_k - total


def average_precision_of_cut(items, relevant, top_k):
    """The mean AP@k over all orders inside ties, as it is defined, in decimals."""
    one, total, hits, sums = decimal.Decimal(1), 0, 0, decimal.Decimal(0)
    for n, r in zip(items, relevant, strict=True):
        if total + n > top_k:
            break
        for i in range(n):
            sums += one * r / n * (hits + 1 + one * i * (r - 1) / (n - 1)) / (total + i + 1)
        total, hits = total + n, hits + r
    total, hits, n, r, m = before_cut(items, relevant, top_k)
    first = sum(one / (total + i) for i in range(1, m + 1))
    second = sum(one * (i - 1) / (total + i) for i in range(1, m + 1))
    low, high = max(0, m + r - n), min(m, r)
    weights = {low: one}
    for h in range(low, high):
        weights[h + 1] = weights[h] * (r - h) * (m - h) / ((h + 1) * (n - r - m + h + 1))
    norm, score = sum(weights.values()), decimal.Decimal(0)
    for h, weight in weights.items():
        inside = one * h / m * ((hits + 1) * first + one * (h - 1) / max(m - 1, 1) * second)
        score += weight / norm * (sums + inside) / (hits + h) if hits + h else 0
    return score


@given(items=st.integers(1, 60), data=st.data())
def test_hypergeometric(items, data):
    relevant, places = data.draw(st.integers(0, items)), data.draw(st.integers(0, items))
    numbers = [torch.tensor([[float(x)]]).double() for x in (items, relevant, places)]
    width = int(half_width(*numbers))
    found = [x[0].tolist() for x in hypergeometric(*numbers, width + 1)]
    probabilities = dict(zip(*found, strict=True))
    assert math.fsum(probabilities.values()) == pytest.approx(1, abs=1e-15)
    for h in range(items + 1):
        ways = math.comb(relevant, h)
        ways *= math.comb(items - relevant, places - h) if h <= places else 0
        exact = ways / math.comb(items, places)
        assert probabilities.get(h, 0) == pytest.approx(exact, rel=1e-12, abs=1e-21)


@given(data=st.data())
def test_all_likely_numbers_are_within_the_half_width(data):
    items = data.draw(st.integers(1, 3000))
    relevant, places = data.draw(st.integers(0, items)), data.draw(st.integers(0, items - 1))
    numbers = [torch.tensor([[float(x)]]).double() for x in (items, relevant, places)]
    width = half_width(*numbers)
    assert width <= min(relevant, places, items - relevant, items - places)
    assert width == half_width(numbers[0], numbers[2], numbers[1])
    hits, _ = hypergeometric(*numbers, int(width))
    possible = range(max(0, places + relevant - items), min(places, relevant) + 1)
    left_out = [h for h in possible if not hits[0, 0] <= h <= hits[0, -1]]
    ways = sum(math.comb(relevant, h) * math.comb(items - relevant, places - h) for h in left_out)
    assert ways * 10**21 < math.comb(items, places)


CODES, LABELS = torch.ones(4, 8), torch.zeros(4, dtype=torch.long)
MULTI_HOT = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({0: CODES[0]}, ValueError, r"`query_codes` of shape .* got \(8,\)"),
        ({0: CODES[:0]}, ValueError, r"`query_codes` of shape .* not empty, got \(0, 8\)"),
        ({2: CODES[:0]}, ValueError, r"`database_codes` of shape .* not empty, got \(0, 8\)"),
        ({2: CODES[:, :7]}, ValueError, r"`database_codes` .* \(batch_size, 8\), .* got \(4, 7\)"),
        ({0: CODES / 0 - CODES / 0}, ValueError, "finite values in `query_codes`"),
        ({2: CODES / 0}, ValueError, "finite values in `database_codes`, .* 4 of 4 rows"),
        ({0: CODES.byte()}, TypeError, "both packed .* got torch.uint8 and torch.float32"),
        (
            {2: CODES.to(torch.uint16)},
            TypeError,
            "`database_codes` with real codes.* got torch.uint16",
        ),
        ({0: CODES.cfloat()}, TypeError, "`query_codes` with real codes.* got torch.complex64"),
        ({0: CODES.tolist()}, TypeError, "`query_codes` to be a torch.Tensor, got list"),
        ({1: LABELS[:3]}, ValueError, r"`query_labels` of shape \(4,\) .* got \(3,\)"),
        ({3: LABELS[:3]}, ValueError, r"`database_labels` of shape \(4,\) .* got \(3,\)"),
        (
            {3: MULTI_HOT},
            ValueError,
            r"`query_labels` and `database_labels` .* got \(4,\) and \(4, 3",
        ),
        ({1: MULTI_HOT[:, :2], 3: MULTI_HOT}, ValueError, r"got \(4, 2\) and \(4, 3\)"),
        ({1: MULTI_HOT, 3: MULTI_HOT + 2}, ValueError, "multi-hot `database_labels` of zeros and"),
        (
            {1: LABELS.float()},
            TypeError,
            "`query_labels` with integer class ids, got torch.float32",
        ),
        ({3: LABELS.bool()}, TypeError, "`database_labels` with integer class ids, got torch.bool"),
    ],
)
@pytest.mark.parametrize(
    "function", [mean_average_precision, precision_within_radius, average_precision]
)
def test_bad_data_is_named(function, changes, error, message):
    data = [changes.get(i, x) for i, x in enumerate((CODES, LABELS, CODES, LABELS))]
    with pytest.raises(error, match=message):
        function(*data)


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        (average_precision, {"top_k": 0}, ValueError, "`top_k` of at least 1, got 0"),
        (average_precision, {"top_k": 2.0}, TypeError, "`top_k` to be an integer, got 2.0"),
        (precision_at_k, {"top_k": -1}, ValueError, "`top_k` of at least 1, got -1"),
        (average_precision, {"ties": "best"}, ValueError, "`ties` .* 'pessimistic', got 'best'"),
        (average_precision, {"block_size": 0}, ValueError, "`block_size` of at least 1, got 0"),
        (precision_within_radius, {"radius": -1}, ValueError, "`radius` of at least 0, got -1"),
        (precision_within_radius, {"radius": "2"}, TypeError, "`radius` to be an integer, got '2'"),
    ],
)
def test_bad_options_are_named(function, options, error, message):
    with pytest.raises(error, match=message):
        function(CODES, LABELS, CODES, LABELS, **options)


@pytest.mark.parametrize(("num_queries", "num_database"), [(4, 3), (1, 1)])
def test_queries_must_be_in_the_database(num_queries, num_database):
    queries, items = slice(num_queries), slice(num_database)
    with pytest.raises(ValueError, match=r"`database_codes` of at least .* got"):
        mean_average_precision(
            CODES[queries], LABELS[queries], CODES[items], LABELS[items], query_in_database=True
        )


@pytest.mark.parametrize("query_in_database", [False, True])
def test_bits_are_codes_and_numbers_0_and_1_are_not(query_in_database):
    _, _, codes, labels = make_data(1, 40, 12)
    options = {"query_in_database": query_in_database}

    def score(codes):
        return mean_average_precision(codes[:9], labels[:9], codes, labels, **options)

    assert score(codes >= 0) == score(codes)
    for bits in ((codes >= 0).float(), (codes >= 0).long()):
        with pytest.raises(ValueError, match=r"`query_codes` .* got 0 and 1 alone"):
            score(bits)
