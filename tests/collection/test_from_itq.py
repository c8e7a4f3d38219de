"""Collection.from_itq: a model that is learned from the folder, and what it costs."""

import shutil

import pytest
import torch
from pictures import fresh_codes, held_codes, save

from pml_hashing import Collection, HashingModel
from pml_hashing.collection import encoding

MODEL = ("test_resnet", 8)
OPTIONS = {"img_size": 32, "progress": False}
QUIET = {"progress": False}


@pytest.fixture
def folder(tmp_path):
    for seed in range(12):
        save(tmp_path / "photos" / f"{seed:02d}.png", seed)
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that are decoded, one after the other."""
    names, decode = [], encoding.decode_image

    def decode_image(content, path):
        names.append(path.name)
        return decode(content, path)

    monkeypatch.setattr(encoding, "decode_image", decode_image)
    return names


@pytest.mark.parametrize("vectors", [False, True])
def test_images_go_through_the_backbone_once(tmp_path, folder, decoded, vectors):
    torch.manual_seed(0)
    unreadable = []
    photos = Collection.from_itq(
        tmp_path / "itq",
        folder,
        *MODEL,
        vectors=vectors,
        on_unreadable=unreadable.append,
        **OPTIONS,
    )
    report = photos.sync(folder, **QUIET)
    assert (len(photos), len(report.unreadable), report.encoded) == (12, 1, 12)
    assert [error.path for error in unreadable] == [str(folder / "bad.png")]
    names = sorted(path.name for path in folder.glob("??.png"))
    assert [name for name in decoded if name != "bad.png"] == names
    assert held_codes(photos) == fresh_codes(photos.model, folder, names)
    if vectors:
        (match,) = photos.search(folder / "03.png", k=1, rerank="vectors")
        assert match.name == "03.png"
    assert photos.sync(**QUIET).encoded == 0


def test_a_sample_is_learned_from_and_the_rest_is_encoded(tmp_path, folder, decoded):
    photos = Collection.from_itq(tmp_path / "itq", folder, *MODEL, max_samples=10, **OPTIONS)
    num_learned = len(decoded)
    assert num_learned == 10
    (folder / "00.png").rename(folder / "moved.png")  # between the two
    save(folder / "01.png", 77)
    report = photos.sync(folder, **QUIET)
    assert report.encoded == 12
    names = sorted(path.name for path in folder.glob("*.png") if path.name != "bad.png")
    assert held_codes(photos) == fresh_codes(photos.model, folder, names)


def test_what_was_learned_from_is_kept_where_no_sync_follows(home, folder, decoded):
    """A process that is killed, or labels that are wrong, must not cost hours of encoding."""
    made = Collection.from_itq(home.place, folder, *MODEL, **home.options, **OPTIONS)
    names = sorted(path.name for path in folder.glob("??.png"))
    with pytest.raises(FileNotFoundError, match="a table of images"):
        made.sync(folder, labels="none.csv", **QUIET)
    photos = home.open()
    decoded.clear()
    report = photos.sync(folder, **QUIET)
    assert (len(report.added), report.encoded) == (12, 0)
    assert decoded == ["bad.png"]
    assert held_codes(photos) == fresh_codes(photos.model, folder, names)


def test_the_model_is_that_of_the_images(tmp_path, folder):
    torch.manual_seed(0)
    photos = Collection.from_itq(tmp_path / "itq", folder, *MODEL, **OPTIONS)
    torch.manual_seed(0)
    paths = [folder / f"{seed:02d}.png" for seed in range(12)]
    expected = HashingModel.from_itq(*MODEL, paths, **OPTIONS).state_dict()
    for name, weight in photos.model.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_links_out_of_the_folder_are_not_learned_from(tmp_path, folder):
    shutil.move(folder / "00.png", tmp_path / "secret.png")
    (folder / "00.png").symlink_to(tmp_path / "secret.png")
    errors = []
    Collection.from_itq(tmp_path / "itq", folder, *MODEL, on_unreadable=errors.append, **OPTIONS)
    assert [error.path for error in errors] == [
        str(folder / name) for name in ("00.png", "bad.png")
    ]
    options = {"allow_outside": True, **OPTIONS}
    photos = Collection.from_itq(tmp_path / "all", folder, *MODEL, **options)
    assert photos.sync(folder, allow_outside=True, **QUIET).encoded == 12


def test_too_few_images(tmp_path, folder):
    with pytest.raises(ValueError, match=r"at least 65 readable images .* got 12 and"):
        Collection.from_itq(tmp_path / "no", folder, "test_resnet", 64, **OPTIONS)
    (folder / "only" / "text").mkdir(parents=True)
    (folder / "only" / "text" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"images in .*only, got none and 1 other files"):
        Collection.from_itq(tmp_path / "no", folder / "only", "no backbone", 8, **OPTIONS)
    save(folder / "only" / "bad.png", 0)
    (folder / "only" / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"at least 9 readable images .* got 0 and"):
        Collection.from_itq(tmp_path / "no", folder / "only", *MODEL, **OPTIONS)
    assert not (tmp_path / "no").exists()
    Collection.from_itq(tmp_path / "itq", folder, *MODEL, **OPTIONS)
    with pytest.raises(FileExistsError, match="`open` opens it"):
        Collection.from_itq(tmp_path / "itq", folder, *MODEL, **OPTIONS)
