"""Files of codes that machines have made, each of its part, put together."""

import pytest
import torch
from sqlite_store import SQLiteStore
from torch.testing import assert_close

from pml_hashing.models import HashingModel
from pml_hashing.search import HammingKNN, MemoryStore, files, merge_files


@pytest.fixture
def model():
    torch.manual_seed(0)
    return HashingModel("test_resnet", 12, img_size=32)


@pytest.fixture
def images():
    return torch.randn(10, 3, 32, 32)


def encoded(model, images, folder):
    """Encode in three parts, with ids that count through."""
    paths = []
    for start, stop in ((0, 4), (4, 5), (5, 10)):
        paths.append(folder / f"codes-{start}.safetensors")
        ids = [f"image {place}" for place in range(start, stop)]
        model.encode(images[start:stop], path=paths[-1], ids=ids, progress=False)
    return paths


def test_parts_are_the_whole(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BATCH", 2)
    expected = model.encode(images, progress=False)
    paths, whole = encoded(model, images, tmp_path), tmp_path / "all.safetensors"
    assert merge_files(paths, whole) == 10
    knn = HammingKNN()
    knn.load(whole)
    assert knn.ids == [f"image {place}" for place in range(10)]
    assert_close(knn.get(knn.ids).packed_codes, expected)
    assert merge_files([whole], tmp_path / "again.safetensors") == 10


@pytest.mark.parametrize("make_store", [MemoryStore, SQLiteStore])
def test_a_store_takes_what_it_does_not_hold(model, images, tmp_path, monkeypatch, make_store):
    monkeypatch.setattr(files, "BATCH", 2)
    paths, store = encoded(model, images, tmp_path), make_store()
    append, calls = store.append, []

    def stopped(records):
        calls.append(records.ids)
        if len(calls) == 4:
            raise KeyboardInterrupt
        append(records)

    store.append = stopped
    with pytest.raises(KeyboardInterrupt):
        merge_files(paths, store)
    assert len(store) == 5
    assert merge_files(paths, store) == 10
    assert [id_ for batch in store.batches(3) for id_ in batch.ids] == [
        f"image {place}" for place in range(10)
    ]


def test_in_clickhouse(model, images, tmp_path, make_clickhouse):
    paths, store = encoded(model, images, tmp_path), make_clickhouse()
    assert [merge_files(paths, store) for _ in range(2)] == [10, 10]
    assert_close(
        store.get([f"image {place}" for place in range(10)]).packed_codes,
        model.encode(images, progress=False),
    )


def test_ids_of_two_files_are_not_mixed_up(model, images, tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, part in zip(paths, images.split(5), strict=True):
        model.encode(part, path=path, progress=False)
    with pytest.raises(
        ValueError, match=r"ids of their own, .* got `.*b`: .* got 0, which is held"
    ):
        merge_files(paths, tmp_path / "all")
    assert not (tmp_path / "all").exists()
    knn = HammingKNN()
    knn.add(torch.randn(3, 20))
    knn.save(paths[1])
    with pytest.raises(ValueError, match="12 bits"):
        merge_files(paths, tmp_path / "all")


def test_codes_of_two_models_are_not_mixed(model, images, tmp_path):
    store, other = MemoryStore(), HashingModel("test_resnet", 12, img_size=32)
    for name, encoder in (("a", model), ("b", other)):
        ids = [f"{name}{place}" for place in range(len(images))]
        encoder.encode(images, path=tmp_path / name, ids=ids, progress=False)
    with pytest.raises(ValueError, match=r"codes of one model, .* got `.*b` of other .* `.*a`"):
        merge_files([tmp_path / "a", tmp_path / "b"], store)
    assert len(store) == 10  # of what was read before


def test_two_files_that_count_are_two_even_if_codes_are_equal(tmp_path):
    for name in ("a", "b"):
        saved(tmp_path / name)
    with pytest.raises(
        ValueError, match=r"ids of their own, .* got `.*b`: .* got 0, which is held"
    ):
        merge_files([tmp_path / "a", tmp_path / "b"], MemoryStore())
    store = MemoryStore()
    assert [merge_files([tmp_path / "a"], store) for _ in range(2)] == [2, 2]  # it goes on


def saved(path, length=8, **columns):
    knn = HammingKNN()
    knn.add(torch.ones(2, length), **columns)
    knn.save(path)
    return path


@pytest.mark.parametrize("make_store", [MemoryStore, SQLiteStore])
def test_what_does_not_fit_is_named(tmp_path, make_store):
    paths = [saved(tmp_path / "a", label=[1, 2]), saved(tmp_path / "b", length=9)]
    with pytest.raises(ValueError, match=r"of 8 bits without vectors, got .* 9 bits in `.*b`"):
        merge_files(paths, make_store())
    knn = HammingKNN()
    knn.add(torch.ones(1, 8), ids=["x"], label=["y"])
    knn.save(paths[1])
    with pytest.raises(TypeError, match=r"fit, got `.*b`: .* `label` of type int, .* got 'y'"):
        merge_files(paths, make_store())


def test_no_list_of_files(tmp_path):
    path = tmp_path / "a"
    for one in (path, str(path), 3):
        with pytest.raises(TypeError, match="`paths` to be a list of files, got "):
            merge_files(one, tmp_path / "all")
    with pytest.raises(ValueError, match="at least one file, got none"):
        merge_files(iter(()), tmp_path / "all")
    assert not (tmp_path / "all").exists()
