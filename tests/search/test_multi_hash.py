"""Hash tables for range search: exact by the pigeonhole principle, and in step with changes."""

import copy
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sqlite_store import SQLiteStore

from pml_hashing.codes import pack
from pml_hashing.search import HammingKNN, MemoryStore, MultiHash, exact, multi_hash
from pml_hashing.search.multi_hash import Plan, cheapest, plans


def range_reference(queries, database, radius, rows=None):
    """Distances and rows of all codes within a radius, by counting bits one by one."""
    found = []
    for query in queries.tolist():
        distances = [
            sum((a >= 0) != (b >= 0) for a, b in zip(query, item, strict=True))
            for item in database.tolist()
        ]
        near = sorted((d, row) for row, d in enumerate(distances) if d <= radius)
        found.append([pair for pair in near if rows is None or pair[1] in rows])
    return found


def found_by(knn, queries, radius, where=None):
    distances, ids = knn.range_search(queries, radius, where)
    return [list(zip(d.tolist(), row, strict=True)) for d, row in zip(distances, ids, strict=True)]


def at_distances(query, distances):
    """Codes at these distances of a query, whose bits are flipped evenly over the code."""
    codes = query.repeat(len(distances), 1)
    for code, distance in zip(codes, distances, strict=True):
        places = torch.linspace(0, len(code) - 1, distance).round().long()
        code[places] *= -1
    return codes


@pytest.fixture
def in_tables(monkeypatch):
    """Tables are built whatever they cost, and a scan is an error."""
    monkeypatch.setattr(multi_hash, "MIN_CODES", 2)
    monkeypatch.setattr(multi_hash, "WORTHWHILE", float("inf"))

    within = exact.within

    def no_scan(query, database, radius):
        assert not len(database), "Expected no scan."
        return within(query, database, radius)

    monkeypatch.setattr(exact, "within", no_scan)


@given(code_length=st.integers(1, 300), radius=st.integers(0, 40))
def test_tables_are_exact_within_the_radius(code_length, radius):
    radius = min(radius, code_length)
    for plan in plans(code_length, radius):
        assert plan.num_hashes * (plan.num_flips + 1) - 1 == plan.radius >= radius
        assert plan.num_hashes * plan.num_bits <= code_length
        assert 1 <= plan.num_bits <= 64
        assert 0 <= plan.num_flips <= plan.num_bits
    assert code_length > 64 or list(plans(code_length, radius))


@given(
    seed=st.integers(0, 2**32 - 1),
    code_length=st.integers(1, 34),
    radius=st.integers(0, 8),
    num_database=st.integers(2, 40),
    spread=st.sampled_from([0.05, 0.2, 0.5]),
    data=st.data(),
)
def test_every_plan_finds_what_a_loop_finds(seed, code_length, radius, num_database, spread, data):
    torch.manual_seed(seed)
    width = 8 * len(pack(torch.ones(1, code_length))[0])
    chosen = [plan for plan in plans(width, min(radius, width)) if plan.num_lookups < 20_000]
    plan = data.draw(st.sampled_from(chosen))
    centers = torch.randn(3, code_length)
    flips = 1 - 2 * (torch.rand(num_database, code_length) < spread).float()
    clustered = centers[torch.randint(3, (num_database,))] * flips
    boundary = [min(d, code_length) for d in (radius - 1, radius, radius, radius + 1) if d >= 0]
    database = torch.cat([clustered, at_distances(centers[0], boundary), clustered[:2]])
    knn = HammingKNN(code_length=code_length, index=MultiHash(max_radius=radius))
    knn.train(database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_hash, "cheapest", lambda *_: plan)
        for asked in range(radius + 1):
            expected = range_reference(centers, database, asked)
            assert found_by(knn, centers, asked) == expected
            assert found_by(knn, pack(centers), asked) == expected


@pytest.mark.parametrize("code_length", [7, 20, 60, 64, 100, 128, 520])
@pytest.mark.parametrize("max_radius", [0, 1, 3, 4])
def test_the_cheapest_plan_at_the_boundary(in_tables, code_length, max_radius):
    query = torch.randn(1, code_length)
    distances = [min(d, code_length) for d in range(max_radius + 3)] * 3
    database = torch.cat([torch.randn(200, code_length), at_distances(query[0], distances)])
    knn = HammingKNN(index=MultiHash(max_radius=max_radius))
    knn.train(database)
    for radius in range(max_radius + 1):
        assert found_by(knn, query, radius) == range_reference(query, database, radius)


@pytest.mark.parametrize("seed", range(5))
def test_follows_changes(in_tables, seed):
    torch.manual_seed(seed)
    centers = torch.randn(4, 24)

    def near(count):
        return centers[torch.randint(4, (count,))] * (1 - 2 * (torch.rand(count, 24) < 0.1).float())

    held = dict(enumerate(near(60)))
    knn = HammingKNN(index=MultiHash())
    knn.train(torch.stack(list(held.values())))
    for step in range(12):
        check_equal(knn, held, centers)
        kind = torch.randint(3, ()).item()
        some = [id_ for id_ in held if torch.rand(()) < 0.4]
        if kind == 0:
            new = near(1 + 30 * step)
            knn.add(new, range(1000 * (step + 1), 1000 * (step + 1) + len(new)))
            held |= {1000 * (step + 1) + i: code for i, code in enumerate(new)}
        elif kind == 1 and some:
            new = near(len(some))
            knn.update(some, new)
            held |= dict(zip(some, new, strict=True))
        elif len(some) < len(held):
            knn.remove(some)
            held = {id_: code for id_, code in held.items() if id_ not in some}
    check_equal(knn, held, centers)


def check_equal(knn, held, queries):
    names, codes = list(held), torch.stack(list(held.values()))
    for radius in (0, 2, 3):
        expected = range_reference(queries, codes, radius)
        expected = [[(d, names[row]) for d, row in found] for found in expected]
        assert found_by(knn, queries, radius) == expected


def test_emptied_and_filled_again(in_tables):
    knn, codes = HammingKNN(index=MultiHash()), torch.randn(9, 16)
    knn.add(codes)
    knn.range_search(codes, 2)
    knn.remove(range(9))
    with pytest.raises(ValueError, match="got an empty index"):
        knn.range_search(codes, 2)
    knn.add(codes, range(9))
    assert found_by(knn, codes, 2) == range_reference(codes, codes, 2)


def test_under_a_condition(in_tables):
    codes = torch.randn(5, 24).repeat_interleave(40, dim=0)
    codes *= 1 - 2 * (torch.rand(200, 24) < 0.05).float()
    knn = HammingKNN(index=MultiHash())
    knn.add(codes, label=torch.arange(200) % 3, shop=["a", None] * 100)
    knn.update([6], codes[6:7], label=[2])
    for where, rows in (
        ({"label": 1}, range(1, 200, 3)),
        ({"label": [0, 2], "shop": "a"}, {*range(0, 200, 6), *range(2, 200, 6)}),
        ({"shop": None, "label": 2}, range(5, 200, 6)),
        ({"label": []}, []),
    ):
        assert found_by(knn, codes[:20], 3, where) == range_reference(codes[:20], codes, 3, rows)


def test_neighbours_are_exact():
    codes, knn = torch.randn(300, 20), HammingKNN(index=MultiHash(), rerank="asymmetric")
    knn.train(codes)
    plain = HammingKNN(rerank="asymmetric")
    plain.train(codes)
    for left, right in zip(knn(codes, 9), plain(codes, 9), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(knn(codes, 9, codes)[1], plain(codes, 9)[1])


def test_a_radius_beyond_is_refused():
    codes, knn = torch.randn(9, 16), HammingKNN(index=MultiHash(max_radius=2))
    knn.train(codes)
    knn.range_search(codes, 2.9)
    message = r"`radius` of at most 2, as `index` is MultiHash\(max_radius=2\), .*, got 3: without"
    with pytest.raises(ValueError, match=message):
        knn.range_search(codes, 3)
    with pytest.raises(ValueError, match="got 16"):
        knn.range_search(codes, float("inf"))
    short = HammingKNN(index=MultiHash(max_radius=5))
    short.train(codes[:, :4])
    assert found_by(short, codes[:, :4], 99) == range_reference(codes[:, :4], codes[:, :4], 4)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`max_radius` of at least 0, got -1"):
        MultiHash(max_radius=-1)
    with pytest.raises(TypeError, match=r"`max_radius` to be an integer, got 1\.5"):
        MultiHash(max_radius=1.5)
    with pytest.raises(TypeError, match=r"no `index` with a SQLiteStore, got MultiHash: .*memory"):
        HammingKNN(index=MultiHash(), store=SQLiteStore())
    for index in ("multi_hash", MultiHash, 3):
        with pytest.raises(TypeError, match="`index` to be an IVF, HNSW or MultiHash object"):
            HammingKNN(index=index)


def test_results_are_where_the_queries_are(in_tables, device):
    codes, knn = torch.randn(50, 16), HammingKNN(index=MultiHash())
    knn.train(codes.to(device))
    distances, ids = knn.range_search(codes[:4].to(device), 3)
    assert [d.device.type for d in distances] == [device.type] * 4
    pairs = [list(zip(d.tolist(), r, strict=True)) for d, r in zip(distances, ids, strict=True)]
    assert pairs == range_reference(codes[:4], codes, 3)


def test_copies_and_files_build_their_own(in_tables, tmp_path):
    codes, knn = torch.randn(150, 16), HammingKNN(index=MultiHash())
    knn.train(codes)
    expected = found_by(knn, codes, 3)
    assert expected == range_reference(codes, codes, 3)
    copied, loaded, mapped = copy.deepcopy(knn), *(HammingKNN(index=MultiHash()) for _ in range(2))
    knn.save(tmp_path / "codes")
    loaded.load(tmp_path / "codes")
    mapped.load(tmp_path / "codes", memory_map=True)
    knn.remove(range(75))
    for each in (copied, loaded, mapped):
        assert found_by(each, codes, 3) == expected


def test_two_may_share_a_store(in_tables):
    store, codes = MemoryStore(), torch.randn(60, 16)
    near, other = HammingKNN(index=MultiHash(), store=store), HammingKNN(store=store)
    other.add(codes[:30])
    near.range_search(codes, 3)
    other.add(codes[30:])
    other.update([3], -codes[3:4])
    codes[3] = -codes[3]
    assert found_by(near, codes, 3) == range_reference(codes, codes, 3)


def test_many_threads(in_tables):
    """Codes come and go in pairs, and every search finds pairs and what stays."""
    knn, code = HammingKNN(index=MultiHash()), torch.ones(2, 16)
    knn.add(-torch.ones(100, 16), range(100))
    stop, errors = threading.Event(), []

    def read():
        while not stop.is_set():
            _, (near, far) = knn.range_search(torch.cat([code[:1], -code[:1]]), 1)
            if sorted(near) not in ([], [100, 101]) or far != list(range(100)):
                errors.append((near, far))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        knn.add(code, [100, 101])
        knn.remove([100, 101])
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors


def uniform(count, width=8):
    return np.random.default_rng(0).integers(256, size=(count, width), dtype=np.uint8)


def test_what_is_chosen():
    assert cheapest(uniform(100_000), 3) is not None
    assert cheapest(uniform(100_000), 30) is None  # tables would find most codes
    assert cheapest(uniform(1000), 3) is None  # too few
    assert cheapest(np.zeros((100_000, 8), dtype=np.uint8), 3) is None  # all are found
    assert cheapest(uniform(100_000, 1), 1) is None
    assert cheapest(uniform(5000), 3) is not None
    assert cheapest(uniform(5000), 7) is None  # looking up so many keys takes longer


def test_few_codes_are_scanned_and_many_are_not(monkeypatch):
    knn, codes = HammingKNN(index=MultiHash()), torch.from_numpy(uniform(20_000))
    knn.train(codes[:4000])
    knn.range_search(codes[:2], 3)
    knn.add(codes[4000:])
    expected = HammingKNN()
    expected.train(codes)
    expected = expected.range_search(codes[:50], 3)[1]
    monkeypatch.delattr(exact, "within")
    assert knn.range_search(codes[:50], 3)[1] == expected


def test_candidates_are_estimated():
    codes = torch.randn(600, 20).sign()
    found = 0
    for start in (0, 10):
        differ = (codes[:, None, start : start + 10] != codes[None, :, start : start + 10]).sum(2)
        found += int((differ <= 1).sum()) - 600
    estimated = Plan(2, 10, 1).num_candidates(codes, 6000)
    assert estimated == pytest.approx(found / (600 * 599) * 6000)


def test_keys_are_counted():
    assert Plan(4, 16, 0).num_lookups == 4
    assert Plan(2, 32, 1).num_lookups == 66
    assert Plan(3, 4, 2).num_lookups == 3 * (1 + 4 + 6)
