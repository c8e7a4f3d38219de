"""Collection.sync: each name has the code of its own file, whatever happened to the files."""

import os
import random
import shutil

import pytest
import torch
from pictures import fresh_codes, held_codes, save
from PIL import Image

from pml_hashing import Collection

QUIET = {"progress": False}


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(["a.png", "b.png", "deep/er/c.jpg", "d.webp", "e.gif"]):
        save(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


@pytest.fixture
def photos(home, folder, model):
    photos = home.create(model)
    photos.sync(folder, **QUIET)
    return photos


def settle(folder):
    """Make all files old, as those of a folder are."""
    for path in folder.rglob("*.*"):
        os.utime(path, (1, 1))


def check(home, photos, folder, model):
    """Check all that is held, here and on disk, against codes made afresh."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()
    )
    expected = fresh_codes(model, folder, names)
    for each in (photos, home.open()):
        assert each.names == names
        assert held_codes(each) == expected
        for name in names[:3]:
            (found,) = each.search(folder / name, k=1)
            assert found.distance == 0


def test_a_new_folder(home, photos, folder, model):
    check(home, photos, folder, model)
    assert len(photos) == 5
    assert "deep/er/c.jpg" in photos
    assert photos.path("a.png") == folder / "a.png"


def test_random_numbers_go_on_as_if_nothing_was_encoded(photos, folder):
    save(folder / "new.png", 9)
    before = torch.get_rng_state()
    assert photos.sync(**QUIET).encoded == 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("unsettled", [0, 10**18])
def test_nothing_changed(photos, unsettled, monkeypatch):
    monkeypatch.setattr("pml_hashing.collection.files.UNSETTLED_NS", unsettled)
    photos.sync(**QUIET)  # notes the times of files, which are old or new by now
    generation = photos.generation
    report = photos.sync(**QUIET)
    assert (report.unchanged, report.encoded, report.added) == (5, 0, [])
    assert str(report).startswith("0 added, 0 changed, 0 renamed, 0 removed, 5 unchanged, 0 enc")
    assert photos.generation == generation


def test_settled_files_are_not_read(photos, folder, monkeypatch):
    monkeypatch.setattr("pml_hashing.collection.files.UNSETTLED_NS", 0)
    photos.sync(**QUIET)
    monkeypatch.setattr("pml_hashing.collection.sync.read_state_and_bytes", None)
    report = photos.sync(**QUIET)
    assert (report.unchanged, report.encoded) == (5, 0)


def test_every_change_at_its_own_cost(home, photos, folder, model):
    (folder / "a.png").rename(folder / "deep" / "moved.png")
    save(folder / "b.png", 100)
    (folder / "d.webp").unlink()
    save(folder / "new.png", 101)
    shutil.copy(folder / "e.gif", folder / "copy.gif")
    report = photos.sync(**QUIET)
    check(home, photos, folder, model)
    assert report.renamed == [("a.png", "deep/moved.png")]
    assert report.changed == ["b.png"]
    assert report.removed == ["d.webp"]
    assert report.added == ["copy.gif", "new.png"]
    assert (report.unchanged, report.encoded) == (2, 2)


@pytest.mark.parametrize("same_times", [False, True])
def test_two_files_are_swapped(home, photos, folder, model, same_times, monkeypatch):
    monkeypatch.setattr("pml_hashing.collection.files.UNSETTLED_NS", 0)
    for name in ("a.png", "b.png"):  # of one size, too
        Image.new("RGB", (8, 8), (len(name), ord(name[0]), 9)).save(folder / name, format="BMP")
    if same_times:
        settle(folder)
    photos.sync(**QUIET)
    (folder / "a.png").rename(folder / "x")
    (folder / "b.png").rename(folder / "a.png")
    (folder / "x").rename(folder / "b.png")
    report = photos.sync(**QUIET)
    assert (report.changed, report.encoded) == (["a.png", "b.png"], 0)
    check(home, photos, folder, model)


def test_other_content_of_equal_size_and_time(home, photos, folder, model):
    settle(folder)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "a.png", format="BMP")
    photos.sync(**QUIET)
    Image.new("RGB", (8, 8), (200, 1, 90)).save(folder / "a.png", format="BMP")
    os.utime(folder / "a.png", (1, 1))
    assert photos.sync(**QUIET).changed == ["a.png"]
    check(home, photos, folder, model)


def test_a_file_that_is_changed_within_a_tick_is_read_again(home, photos, folder, model):
    for color in range(5):
        Image.new("RGB", (8, 8), (color * 50, 9, 9)).save(folder / "a.png", format="BMP")
        photos.sync(**QUIET)
    check(home, photos, folder, model)


def test_all_images_go_and_come(home, photos, folder, model, tmp_path):
    folder.rename(tmp_path / "away")
    folder.mkdir()
    assert len(photos.sync(**QUIET).removed) == 5
    assert (len(photos), photos.names, photos.search(tmp_path / "away" / "a.png")) == (0, [], [])
    assert home.open().names == []
    assert list(photos.duplicates(3)) == []
    (tmp_path / "away").rename(tmp_path / "back")
    report = photos.sync(tmp_path / "back", **QUIET)
    assert (len(report.added), report.encoded) == (5, 5)
    check(home, photos, tmp_path / "back", model)


def test_the_folder_itself_is_moved(photos, folder, tmp_path):
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"`images` to be a folder of images, got .*photos"):
        photos.sync(**QUIET)
    report = photos.sync(tmp_path / "moved", **QUIET)
    assert (report.unchanged, report.encoded) == (5, 0)
    assert photos.images == tmp_path / "moved"


@pytest.mark.parametrize("place", ["codes", "deep/er/codes"])
def test_a_collection_in_the_folder_of_its_images(folder, model, place, monkeypatch):
    monkeypatch.setattr("pml_hashing.collection.files.UNSETTLED_NS", 0)  # else a slow one writes
    photos = Collection.create(folder / place, model)
    for name in ("preview.png", "model/preview.png"):  # is nothing of the collection's images
        save(folder / place / name, 50)
    report = photos.sync(folder, **QUIET)
    assert (len(report.added), report.ignored) == (5, {})
    photos = Collection.open(folder / place)
    assert photos.sync(**QUIET).ignored == {}
    assert photos.generation == 1
    assert "preview.png" not in " ".join(photos.names)


@pytest.mark.parametrize("home", ["folder"], indirect=True)
@pytest.mark.parametrize("name", ["", "model"])
def test_images_in_a_collection_are_refused(photos, name):
    with pytest.raises(ValueError, match="`images` outside of the collection, got "):
        photos.sync(photos.folder / name, **QUIET)


def change(folder, rng, number):
    """Do one thing to a folder that people do."""
    paths = sorted(path for path in folder.rglob("*.*") if path.is_file())
    kind = rng.choice(["add", "change", "rename", "remove", "swap", "copy", "touch", "move"])
    if kind == "add" or len(paths) < 3:
        save(folder / f"{rng.choice('xyz')}" / f"{number}.png", number)
        return
    first, second = rng.sample(paths, 2)
    if kind == "change":
        save(first, number)
    elif kind == "rename":
        first.rename(first.with_name(f"r{number}{first.suffix}"))
    elif kind == "move":
        first.replace(second)
    elif kind == "remove":
        first.unlink()
    elif kind == "copy":
        shutil.copy2(first, folder / f"c{number}{first.suffix}")
    elif kind == "touch":
        os.utime(first)
    else:
        middle = folder / "middle"
        first.rename(middle)
        second.rename(first)
        middle.rename(second)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("vectors", [False, True])
def test_random_histories(home, folder, model, seed, vectors):
    rng = random.Random(seed)
    photos = home.create(model, vectors=vectors)
    for step in range(6):
        for number in range(rng.randrange(5)):
            change(folder, rng, 1000 * step + number + 50)
        before = len(photos)
        report = photos.sync(folder, batch_size=rng.randint(1, 4), **QUIET)
        assert before + len(report.added) - len(report.removed) == len(photos)
        if rng.random() < 0.5:
            photos = home.open()
    check(home, photos, folder, model)
    assert photos.sync(**QUIET).encoded == 0
