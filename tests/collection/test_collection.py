"""Collection: how it is made, searched, labelled, and what is refused by name."""

import csv
import itertools
import json
import os
import sys

import numpy as np
import pytest
import torch
from pictures import held_codes, make_model, save
from PIL import Image
from torch import nn

from pml_hashing import Collection, HashingModel, TwoNetworkHashingModel
from pml_hashing.code_file import json_tensor
from pml_hashing.codes import hamming_distance, pack
from pml_hashing.collection.file_records import Files
from pml_hashing.datasets import UnreadableImageError, load_image

QUIET = {"progress": False}
IN_A_FOLDER = pytest.mark.parametrize("home", ["folder"], indirect=True)
LINKS = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


@pytest.fixture
def folder(tmp_path):
    for seed in range(12):
        kind = ["shoe", "hat", ""][seed % 3]
        save(tmp_path / "photos" / kind / f"{seed:02d}.png", seed)
    return tmp_path / "photos"


@pytest.fixture
def photos(home, folder, model):
    photos = home.create(model)
    photos.sync(folder, labels="folders", **QUIET)
    return photos


def reference(photos, folder, query, names=None):
    """Return names and distances by a matrix of distances, ties by name."""
    code = photos.model.encode([query], **QUIET)
    names = sorted(photos.names if names is None else names)
    distances = hamming_distance(code, photos.codes(names))[0].tolist()
    return sorted(zip(distances, names, strict=True))


def pairs(matches):
    return [(match.distance, match.name) for match in matches]


def test_a_query_of_every_kind(photos, folder):
    path = folder / "hat" / "04.png"
    image = Image.open(path)
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy()).movedim(-1, 0)
    expected = reference(photos, folder, path)[:10]
    queries = [str(path), path, path.read_bytes(), image, pixels, tensor, tensor / 255]
    for query in queries:
        assert pairs(photos.search(query)) == expected
    found = photos.search(queries, k=3)
    assert [pairs(each) for each in found] == [expected[:3]] * len(queries)
    for batch in (np.stack([pixels] * 2), torch.stack([tensor] * 2)):
        assert [pairs(each) for each in photos.search(batch, k=2)] == [expected[:2]] * 2
    assert photos.search([]) == []
    assert photos.search(path, k=1)[0].path == path


def test_a_query_by_name(photos, folder):
    everything = reference(photos, folder, folder / "shoe" / "00.png")
    expected = [pair for pair in everything if pair[1] != "shoe/00.png"]
    assert pairs(photos.search("shoe/00.png", k=20)) == expected
    assert pairs(photos.similar("shoe/00.png", k=3)) == expected[:3]
    assert [pairs(each) for each in photos.similar(["shoe/00.png"] * 2, k=1)] == [expected[:1]] * 2
    assert photos.similar([]) == []


def test_similar_looks_for_no_file(photos, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ("/etc/hostname", "./02.png", str(folder / "02.png"), "shoe/../02.png", "\0"):
        with pytest.raises(KeyError, match="the name of an image in"):
            photos.similar(name)


def test_one_name_is_no_list_of_names(photos):
    for read in (photos.codes, photos.metadata_of):
        with pytest.raises(TypeError, match=r"`names` to be a list of names, got one: '02\.png'"):
            read("02.png")


def test_a_query_that_is_nothing(photos):
    for query in ("nowhere.jpg", "\0", "x" * 5000):
        with pytest.raises(FileNotFoundError, match="an image, a path of one or the name of one"):
            photos.search(query)


@IN_A_FOLDER
def test_a_query_that_may_not_be_read(photos, tmp_path, forbidden):
    (tmp_path / "locked").mkdir()
    save(tmp_path / "locked" / "a.png", 1)
    forbidden(tmp_path / "locked")
    for name in ("a.png", "none.png"):  # which of them is there cannot be known
        message = rf"Expected a readable image, got .*{name} \(PermissionError: .* denied"
        with pytest.raises(UnreadableImageError, match=message):
            photos.search(tmp_path / "locked" / name)
    with pytest.raises(KeyError, match="the name of an image in"):
        photos.similar(str(tmp_path / "locked" / "a.png"))


def test_a_query_that_does_not_decode(photos, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"bad\.png"):
        photos.search(tmp_path / "bad.png")
    with pytest.raises(UnreadableImageError, match="got bytes"):
        photos.search(b"no image")
    with pytest.raises(TypeError, match=r"Expected an image: .* got int"):
        photos.search(3)


WRONG_SEARCHES = [
    ({"k": 0}, ValueError, "`k` of at least 1, got 0"),
    ({"k": 1.5}, TypeError, "`k` to be an integer"),
    ({"radius": -1}, ValueError, "`radius` of at least 0"),
    ({"rerank": "floats"}, ValueError, "`rerank` to be one of"),
    ({"rerank": "asymmetric", "radius": 3}, ValueError, "`radius`, .* or `rerank`, got both"),
    ({"rerank": "vectors"}, ValueError, "Expected `rerank` by vectors only"),
    ({"where": {"colour": "red"}}, ValueError, r"columns in `where` .* got 'colour'"),
    ({"where": {"label": 3}}, TypeError, r"compare `label` with values of type str, got 3"),
    ({"where": ["label"]}, TypeError, "`where` to be a dict"),
]


def test_wrong_searches(photos):
    for options, error, message in WRONG_SEARCHES:
        with pytest.raises(error, match=message):
            photos.similar("02.png", **options)


def test_a_radius(photos, folder):
    path = folder / "02.png"
    expected = reference(photos, folder, path)
    for radius in (0, 5, 16):
        near = [pair for pair in expected if pair[0] <= radius]
        assert pairs(photos.search(path, radius=radius)) == near
        assert pairs(photos.search(path, 2, radius=radius)) == near[:2]


def test_labels_of_folders(photos, folder):
    assert photos.columns == {"label": str}
    assert photos.counts() == {"hat": 4, "shoe": 4}
    assert photos.metadata("shoe/00.png") == {"label": "shoe"}
    assert photos.metadata("02.png") == {"label": None}
    told = photos.metadata_of(["shoe/00.png", "gone.png", "02.png"])
    assert list(told.items()) == [("shoe/00.png", {"label": "shoe"}), ("02.png", {"label": None})]
    assert photos.metadata_of(["gone.png"]) == photos.metadata_of([]) == {}
    names = [name for name in photos.names if name.startswith("shoe/")]
    found = photos.search(folder / "02.png", where={"label": "shoe"})
    assert pairs(found) == reference(photos, folder, folder / "02.png", names)
    assert {match.labels for match in found} == {("shoe",)}
    assert photos.count({"label": ["shoe", "hat"]}) == 8
    assert photos.count({"label": None}) == 4
    assert photos.search(folder / "02.png", where={"label": "boat"}) == []
    (folder / "shoe").rename(folder / "boot")
    report = photos.sync(**QUIET)  # labels are looked up again
    assert (report.encoded, len(report.renamed), photos.counts()) == (0, 4, {"boot": 4, "hat": 4})


def test_labels_of_a_table(photos, folder, tmp_path):
    table = folder / "labels.csv"
    table.write_text(
        "\ufefffile,label,shop\nshoe/00.png,sea|sand,x\n02.png, sand ,\ngone.png,a,b\n05.png,,y\n"
    )
    report = photos.sync(labels=table, **QUIET)
    assert (report.encoded, report.unmatched) == (0, ["gone.png"])
    assert photos.metadata("shoe/00.png") == {"label": "sand|sea", "shop": "x"}
    assert photos.metadata("shoe/03.png") == {"label": None, "shop": None}
    assert photos.counts() == {"sand": 2, "sea": 1}
    assert photos.counts("shop") == {"x": 1, "y": 1}
    assert [match.name for match in photos.similar("05.png", where={"label": "sand"})] == [
        name for _, name in reference(photos, folder, folder / "05.png", ["02.png", "shoe/00.png"])
    ]
    assert photos.count({"label": "sea", "shop": "x"}) == 1
    assert photos.count({"label": ["sea", None]}) == 11
    assert photos.count({"label": np.array(["sea", "none"])}) == 1
    for wrong in ({"a": 1}, [["sea"]], np.array([1]), 3):  # as of any other column
        with pytest.raises(TypeError, match=r"`label` (to hold|with values of type)"):
            photos.count({"label": wrong})
    table.write_text("path,label\n02.png,moon\n")
    photos.sync(**QUIET)
    assert photos.counts() == {"moon": 1}
    beside = tmp_path / "beside.csv"  # paths relative to the table
    beside.write_text("path,label\nphotos/02.png,star\n")
    photos.sync(labels=beside, **QUIET)
    assert photos.metadata("02.png") == {"label": "star"}


def test_labels_of_a_mapping_stay_with_their_images(photos, folder):
    labels = {"02.png": ["b", "a"], "05.png": {"label": "c", "price": 2.5}, "shoe/00.png": "d"}
    photos.sync(labels=labels, **QUIET)
    (folder / "02.png").rename(folder / "zz.png")
    (folder / "shoe" / "00.png").unlink()
    save(folder / "05.png", 99)
    photos.sync(**QUIET)
    assert photos.metadata("zz.png") == {"label": "a|b", "price": None}
    assert photos.metadata("05.png") == {"label": "c", "price": 2.5}
    assert photos.metadata("shoe/03.png")["label"] == "shoe"
    assert photos.count({"price": 2.5}) == 1
    photos.sync(labels="folders", **QUIET)
    photos.sync(labels="keep", **QUIET)
    (folder / "hat").rename(folder / "cap")
    photos.sync(**QUIET)
    assert photos.counts() == {"hat": 4, "shoe": 3}


WRONG_TABLES = [
    ("path,label\n02.png,a\n02.png,b\n", "line 3: '02.png' comes twice"),
    ("path,the label\n02.png,x\n", "identifiers and none of .* got 'the label'"),
    ("path,ids\n02.png,x\n", "identifiers and none of .* got 'ids'"),
]


def test_wrong_tables(photos, folder):
    before = photos.generation
    for text, message in WRONG_TABLES:
        (folder / "labels.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            photos.sync(labels=folder / "labels.csv", **QUIET)
        assert photos.generation == before
    with pytest.raises(FileNotFoundError, match="nowhere"):
        photos.sync(labels=folder / "nowhere.csv", **QUIET)
    with pytest.raises(TypeError, match=r"`labels` of '02\.png' to be a label"):
        photos.sync(labels={"02.png": 3}, **QUIET)


def test_files_that_are_not_read(home, photos, folder):
    (folder / "text.png").write_text("no image")
    (folder / "shoe" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "notes.txt").write_text("")
    (folder / "film.MOV").write_text("")
    (folder / ".hidden.png").write_text("")
    (folder / "02.png").write_text("damaged")
    report = photos.sync(**QUIET)
    bad = ["02.png", "shoe/cut.jpg", "text.png"]
    assert [error.path for error in report.unreadable] == [str(folder / name) for name in bad]
    assert all(error.path in str(error) for error in report.unreadable)
    assert report.ignored == {".mov": 1, ".txt": 1}
    assert report.removed == ["02.png"]
    assert len(photos) == 11
    again = home.open().sync(**QUIET)
    assert list(map(str, again.unreadable)) == list(map(str, report.unreadable))
    save(folder / "text.png", 77)
    report = photos.sync(**QUIET)
    assert (report.added, len(report.unreadable)) == (["text.png"], 2)


@LINKS
def test_links(photos, folder, tmp_path):
    save(tmp_path / "outside" / "o.png", 50)
    (folder / "link.png").symlink_to(tmp_path / "outside" / "o.png")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "inside.png").symlink_to(folder / "02.png")
    (folder / "round").symlink_to(folder)
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    report = photos.sync(**QUIET)
    assert report.added == ["inside.png"]
    found = {os.path.relpath(error.path, folder): str(error) for error in report.unreadable}
    assert sorted(found) == ["broken.png", "link.png", "linked/o.png", "loop.png"]
    assert "a link leads out of" in found["link.png"]
    report = photos.sync(allow_outside=True, **QUIET)
    assert report.added == ["link.png", "linked/o.png"]


@LINKS
def test_names_of_any_bytes(home, photos, folder):
    names = ["n\ndq.png", 'q"u,o.png', "ü.png", os.fsdecode(b"\xff.png")]
    for seed, name in enumerate(names):
        save(folder / "tmp.png", 40 + seed)
        (folder / "tmp.png").rename(folder / name)
    assert photos.sync(**QUIET).added == sorted(names)
    opened = home.open()
    assert set(names) <= set(opened.names)
    assert held_codes(opened) == held_codes(photos)


def test_real_codes_are_kept_and_ranked_by(home, folder, model):
    photos = home.create(model, vectors=True)
    photos.sync(folder, **QUIET)
    photos = home.open()
    paths = {name: folder / name for name in photos.names}
    real = {name: model.encode([path], packed=False, **QUIET)[0] for name, path in paths.items()}
    for name, code in real.items():
        assert torch.equal(photos.codes([name])[0], pack(code[None])[0])
    query = photos.names[0]
    expected = sorted(
        (float((real[query] - code).square().sum() / 4), name)
        for name, code in real.items()
        if name != query
    )
    for found in (
        photos.similar(query, 20, rerank="vectors"),
        photos.search(paths[query], 20, rerank="vectors")[1:],
    ):
        assert [match.name for match in found] == [name for _, name in expected]
        distances = [match.distance for match in found]
        assert distances == pytest.approx([distance for distance, _ in expected], abs=1e-4)
    assert len(photos.similar(query, rerank="asymmetric")) == 10


def test_the_model_is_a_copy(home, folder):
    model = make_model().train()
    photos = home.create(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    photos.sync(folder, **QUIET)
    assert model.training
    assert held_codes(photos) == held_codes(home.open())
    assert len(photos.codes().unique(dim=0)) > 6


def test_two_networks(home, folder):
    networks = [HashingModel("test_resnet", 12, img_size=32) for _ in range(2)]
    photos = home.create(TwoNetworkHashingModel(*networks))
    photos.sync(folder, **QUIET)
    opened = home.open()
    expected = photos.model.encode([folder / "02.png"], **QUIET)
    assert torch.equal(opened.codes(["02.png"]), expected)
    assert type(opened.model) is TwoNetworkHashingModel


def test_a_backbone_and_transform_of_ones_own(home, folder):
    def transform(image):
        return torch.from_numpy(np.asarray(image.resize((4, 4)), np.float32)).flatten() / 128 - 1

    model = HashingModel(nn.Identity(), 8, num_features=48)
    with pytest.raises(ValueError, match="set `data_config`"):
        home.create(model)
    photos = home.create(model, transform=transform)
    photos.sync(folder, **QUIET)
    opened = home.open(backbone=nn.Identity(), transform=transform)
    assert opened.search(folder / "02.png", k=1)[0].distance == 0
    expected = model.encode(transform(load_image(folder / "02.png"))[None], **QUIET)
    assert torch.equal(opened.codes(["02.png"]), expected)


@IN_A_FOLDER
def test_where_none_can_be_made(photos, tmp_path, model):
    with pytest.raises(FileExistsError, match="Expected no collection at"):
        Collection.create(photos.folder, model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for name in ("full", "full/file"):
        with pytest.raises(FileExistsError, match="`place` to be new or empty"):
            Collection.create(tmp_path / name, model)
    with pytest.raises(TypeError, match=r"`model` to be one of HashingModel, .* got Linear"):
        Collection.create(tmp_path / "new", nn.Linear(2, 2))
    with pytest.raises(FileNotFoundError, match=r"Expected a collection, .*collection\.json"):
        Collection.open(tmp_path / "full")
    new = Collection.create(tmp_path / "new", model)
    with pytest.raises(ValueError, match="`images` in the first sync"):
        new.sync()
    with pytest.raises(ValueError, match="`batch_size` of at least 1"):
        new.sync(tmp_path, batch_size=0)
    with pytest.raises(KeyError, match="the name of an image"):
        photos.path("nowhere.png")
    with pytest.raises(KeyError, match="the name of an image"):
        photos.codes(["nowhere.png"])
    with pytest.raises(ValueError, match="a column of"):
        photos.counts("nowhere")


def test_what_a_killed_create_left_is_overwritten(tmp_path, model):
    model.save_pretrained(tmp_path / "codes" / "model")
    (tmp_path / "codes" / ".lock").touch()
    assert len(Collection.create(tmp_path / "codes", model)) == 0


@IN_A_FOLDER
def test_damaged_files_are_named(photos):
    files = [*photos.folder.glob("*.*"), photos.folder / "model" / "model.safetensors"]
    files = [path for path in files if not path.name.startswith(".")]
    for path, kind in itertools.product(files, ("cut", "changed", "gone", "other")):
        content = path.read_bytes()
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if kind == "gone":
            path.unlink()
        elif kind == "cut":
            path.write_bytes(content[:middle])
        else:
            path.write_bytes(changed if kind == "changed" else b"{}")
        if not (kind == "changed" and path.suffix == ".json"):
            with pytest.raises((ValueError, FileNotFoundError), match=path.name):
                Collection.open(photos.folder)
        path.write_bytes(content)
    assert len(Collection.open(photos.folder)) == 12


NO_UNREADABLE = [3, "name", ["name", [1, 2, 3, 4]], [1, [1, 2, 3, 4], ""], ["name", [1, 2, 3], ""]]
NO_UNREADABLE += [["name", [1, 2, 3, "4"], ""], ["name", [1, 2, 3, 4], None], {"name": 1}]


def test_unreadable_files_of_another_kind_are_refused():
    tensors = {"states": (4, torch.int64), "digests": (32, torch.uint8), "sizes": (3, torch.int64)}
    empty = {name: torch.empty(0, width, dtype=kind) for name, (width, kind) in tensors.items()}
    right = ["name", [1, 2, 3, 4], "why"]
    assert Files.of(empty | {"unreadable": json_tensor([right])}).unreadable[0].state.inode == 4
    for record in NO_UNREADABLE:
        with pytest.raises((TypeError, ValueError)):
            Files.of(empty | {"unreadable": json_tensor([right, record])})


OTHER_MANIFESTS = [
    {"generation": -1},
    {"generation": "../1"},
    {"generation": True},
    {"count": 11},
    {"count": True},
    {"vectors": 1},
    {"code_length": "16"},
    {"images": 3},
    {"more": 1},
    {"format_version": "9"},
    {"model": "other"},
    {"model_class": "os"},
]


@IN_A_FOLDER
def test_a_manifest_of_anything_else(photos):
    path = photos.folder / "collection.json"
    right = json.loads(path.read_text())
    for changes in OTHER_MANIFESTS:
        path.write_text(json.dumps(right | changes))
        with pytest.raises(ValueError, match="Expected"):
            Collection.open(photos.folder)


def test_duplicates_to_a_table(photos, folder, tmp_path):
    image = Image.open(folder / "02.png")
    image.resize((48, 40), Image.Resampling.NEAREST).save(folder / "large.png")
    (folder / "a copy, 'x'.png").write_bytes((folder / "02.png").read_bytes())
    photos.sync(**QUIET)
    groups = photos.duplicates(0)
    group = next(group for group in groups if "02.png" in group.names)
    assert group.keep == "large.png" or "large.png" not in group.names
    groups.to_csv(tmp_path / "new" / "duplicates.csv")
    with (tmp_path / "new" / "duplicates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [name for group in groups for name in group.names]
    assert [row["keep"] for row in rows].count("yes") == len(groups)
    assert rows[0].keys() == {"group", "path", "keep", "distance", "width", "height", "bytes"}
    with pytest.raises(ValueError, match="`radius` of at least 0"):
        photos.duplicates(-1)
