"""Searching while other threads change what is searched: each search sees one state."""

import threading
import time

import pytest
import torch

from pml_hashing.search import HNSW, IVF, HammingKNN
from pml_hashing.search._read_write_lock import ReadWriteLock

BASE = torch.randn(600, 32, generator=torch.Generator().manual_seed(0))
BITS = BASE >= 0


def code_of(id_):
    """An id tells its code, and a code that is put in its place the other of two."""
    return BITS[id_ % 600]


def run(*functions, seconds=0.5):
    """Call functions again and again, each in a thread of its own, and raise what they raise.

    So many seconds of the CPU: as often on a busy machine.
    """
    stop, errors = time.process_time() + seconds, []

    def repeat(function):
        try:
            while time.process_time() < stop and not errors:
                function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("rerank", [None, "vectors"])
def test_ids_have_their_distances(make_knn, rerank):
    change_and_search(make_knn(rerank=rerank))


@pytest.mark.parametrize(
    ("index", "rerank"), [(IVF(num_lists=10, num_probes=3), "vectors"), (HNSW(), None)]
)
def test_ids_of_an_approximate_index_have_their_distances(index, rerank):
    change_and_search(HammingKNN(index=index, rerank=rerank))


def change_and_search(knn):
    knn.add(BASE.sign(), label=[0] * 600)
    query, next_id = BASE[:4].sign(), [600]

    def read():
        distances, ids = knn.search(query, 5)
        check(distances, ids)
        ranges = knn.range_search(query, 9)
        check(*ranges)
        check(*knn.search(query, 5, where={"label": 0}))

    def check(distances, ids):
        for bits, row, found in zip(BITS, distances, ids, strict=False):
            true = [int((bits != code_of(id_)).sum()) for id_ in found]
            assert true == row.tolist()
            assert len(set(found)) == len(found)

    def write():
        first = next_id[0]
        ids = list(range(first, first + 50))
        next_id[0] += 50
        codes = torch.stack([BASE[id_ % 600].sign() for id_ in ids])
        knn.add(codes, ids, label=[0] * 50)
        knn.update(ids[:5], codes[:5])
        knn.remove(range(first - 600, first - 550))

    run(read, read, read, write)


@pytest.mark.parametrize("index", [None, HNSW()])
def test_a_search_sees_all_of_a_change_or_nothing(index):
    """Codes come and go in pairs, and every search finds pairs."""
    knn, code = HammingKNN(index=index), torch.ones(2, 16)
    knn.add(-torch.ones(10, 16), range(10), pair=[-1] * 10)

    def read():
        ids = knn.range_search(code[:1], 0)[1][0]
        assert sorted(ids) in ([], [10, 11])
        total = sum(len(batch.ids) for batch in knn.batches(100))
        assert total in {10, 12}
        distances, _ = knn.search(code[:1], 2)
        assert distances.tolist() in ([[0, 0]], [[16, 16]])

    def write():
        knn.add(code, [10, 11], pair=[1, 1])
        knn.remove([10, 11])

    run(read, read, write)


def test_positions_and_own_codes_while_codes_are_removed():
    knn = HammingKNN()
    knn.add(BASE)

    def read():
        _, rows = knn(BASE[:20], 3, ref_includes_query=True)
        assert (rows != torch.arange(20)[:, None]).all()

    def write():
        knn.add(BASE[300:400], range(1000, 1100))
        knn.remove(range(1000, 1100))

    run(read, read, write)


def test_what_is_saved_is_one_state(tmp_path):
    knn = HammingKNN()
    knn.add(torch.ones(2, 16), ["a", "b"])

    def save():
        loaded = HammingKNN()
        knn.save(tmp_path / "codes")
        loaded.load(tmp_path / "codes")
        assert loaded.ids in (["a", "b"], ["a", "b", "c", "d"])

    def write():
        knn.add(torch.ones(2, 16), ["c", "d"])
        knn.remove(["c", "d"])

    run(save, write)


def test_training_anew_while_searching():
    knn = HammingKNN(index=IVF(num_lists=4))
    knn.train(BASE)

    def read():
        distances, ids = knn.search(BASE[:3], 2)
        assert distances[:, 0].tolist() == [0, 0, 0]
        assert [row[0] for row in ids] == [0, 1, 2]

    def write():
        knn.train(BASE[: 300 if len(knn) == 600 else 600])

    run(read, read, write)


def test_each_of_many_writers_is_heard():
    knn = HammingKNN()

    def add(name):
        for number in range(50):
            knn.add(BASE[:1], [f"{name} {number}"], own=[name])
            knn.add(BASE[:1])

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(knn) == 400
    assert sorted(id_ for id_ in knn.ids if isinstance(id_, int)) == list(range(200))
    assert knn.count({"own": "a"}) == 50


def test_the_lock():
    lock, seen = ReadWriteLock(), []

    def write():
        with lock.writing():
            seen.append("written")

    with lock:
        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.05)
        with lock:  # who reads may read again, though a writer waits
            seen.append("read")
    writer.join()
    assert seen == ["read", "written"]
    with pytest.raises(KeyError), lock.writing():
        raise KeyError
    with pytest.raises(KeyError), lock:
        raise KeyError
    write()
