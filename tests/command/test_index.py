"""`pml-hashing index`: makes, keeps in step, and refuses what would mix up two folders."""

import json
import shutil
import sys

import pytest
import torch
from collection.pictures import make_model, save
from command.conftest import MODEL
from huggingface_hub import constants
from models.stub_hub import Hub
from PIL import Image
from torch.testing import assert_close

from pml_hashing import Collection
from pml_hashing.collection.folder_state import MANIFEST
from pml_hashing.collection.folder_storage import FolderStorage
from pml_hashing.command import places


def test_a_new_collection_and_the_next_time(run, here, weights):
    (here / "photos/notes.txt").write_text("no image")
    (here / "photos/bad.png").write_bytes(b"no image")
    result = run("index", "photos", "--checkpoint", weights, *MODEL)
    assert result.stdout.splitlines() == [
        "13 added, 0 changed, 0 renamed, 0 removed, 0 unchanged, 13 encoded, 1 unreadable, "
        "1 ignored",
        "no images, by their endings: 1 .txt",
        "photos.codes: 13 images, 8 bits each",
    ]
    assert f"left out: {here / 'photos/bad.png'} (Unid" in result.stderr
    (here / "photos/hat/02.png").rename(here / "photos/moved.png")
    save(here / "photos/new.png", 100)
    report = json.loads(run("index", "--json").stdout)  # the folder is remembered
    assert report["added"] == ["new.png"]
    assert report["renamed"] == [["hat/02.png", "moved.png"]]
    assert [each["path"] for each in report["unreadable"]] == [str(here / "photos/bad.png")]
    assert (report["size"], report["code_length"], report["encoded"]) == (14, 8, 1)
    # What was asked for before may be asked for again.
    run("index", "photos", "--checkpoint", weights, *MODEL)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_out_of_the_folder(run, here, weights):
    (here / "photos/hat/copy.png").rename(here / "outside.png")
    (here / "photos/hat/copy.png").symlink_to(here / "outside.png")
    result = run("index", "photos", "--checkpoint", weights, *MODEL)
    assert "a link leads out of" in result.stderr
    assert "--allow-outside follows it" in result.stderr
    assert "13 images" in run("index", "--allow-outside").stdout


def test_labels_from_folders_and_tables(run, here, weights):
    run("index", "photos", "--checkpoint", weights, *MODEL, "--labels", "folders")
    assert Collection.open("photos.codes").counts() == {"hat": 7, "shoe": 6}
    (here / "table.csv").write_text("path,label\nphotos/hat/00.png,a|b\nphotos/gone.png,a\n")
    result = run("index", "--labels", "table.csv")
    assert "in the table of labels, and not in the folder: gone.png" in result.stderr
    assert Collection.open("photos.codes").counts() == {"a": 1, "b": 1}
    assert "no_table.csv" in run("index", "--labels", "no_table.csv", code=1).stderr


def test_wrong_labels_are_told_before_anything_is_learned(run, here, weights):
    (here / "wrong.csv").write_text("path,label\nhat/00.png,sea||sand\n")
    for labels, message in (("none.csv", "a table of images, got none"), ("wrong.csv", "line 2")):
        result = run("index", "photos", "--checkpoint", "none.pt", "--labels", labels, code=1)
        assert message in result.stderr
        assert not (here / "photos.codes").exists()


def test_an_image_that_is_unreadable_is_not_one_that_labels_alone_know(run, here, weights):
    (here / "photos/hat/bad.png").write_bytes(b"no image")
    (here / "labels.csv").write_text("path,label\nhat/bad.png,hat\nhat/00.png,hat\nx.png,x\n")
    command = ["index", "photos", "--checkpoint", weights, *MODEL, "--labels", "labels.csv"]
    result = run(*command)
    assert result.stderr.count("not in the folder: ") == 1
    assert "x.png" in result.stderr


def test_a_bomb_is_named_once_without_a_warning(run, here, weights, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    Image.new("L", (50, 41)).save(here / "photos/hat/bomb.png")
    result = run("index", "photos", "--checkpoint", weights, *MODEL)
    assert result.stderr.count("exceeds limit") == 1


def test_with_a_model(run, here):
    make_model().save_pretrained("own.model")
    run("index", "photos", "--model", "own.model")
    assert Collection.open("photos.codes").code_length == 16
    run("index", "photos", "--model", "own.model")
    make_model(code_length=24).save_pretrained("other.model")
    result = run("index", "photos", "--model", "other.model", code=1)
    assert "Expected --model as photos.codes was made with" in result.stderr


@pytest.mark.parametrize(
    ("option", "held"),
    [(("--bits", 16), 8), (("--img-size", 64), 32), (("--backbone", "x"), "test_resnet")],
)
def test_another_model_than_held_is_refused(run, indexed, option, held):
    result = run("index", "photos", *option, code=1)
    assert (
        f"Expected {option[0]} as photos.codes was made with, {held}, got another" in result.stderr
    )


def test_vectors_that_are_not_held_are_told(run, indexed):
    result = run("index", "photos", "--vectors", code=1)
    assert "Expected --vectors as photos.codes was made with, False, got" in result.stderr
    result = run("search", "hat/00.png", "--rerank", "vectors", code=1)
    assert "Expected --rerank by vectors only in a collection that was made with" in result.stderr


def test_other_weights_than_held_are_refused(run, indexed, weights, tmp_path):
    run("index", "photos", "--checkpoint", weights)  # the same line again
    state = torch.load(weights)
    other = tmp_path / "other.pt"
    torch.save({name: value + 1 for name, value in state.items()}, other)
    result = run("index", "photos", "--checkpoint", other, code=1)
    assert "Expected --checkpoint as photos.codes was made with" in result.stderr
    result = run("index", "photos", "--checkpoint", "nowhere.pt", code=1)
    assert "nowhere.pt" in result.stderr


def test_another_folder_of_the_same_name_is_refused(run, indexed):
    names = Collection.open("photos.codes").names
    shutil.copytree("photos", "other/photos")
    for extra in ([], ["--collection", "photos.codes"]):
        result = run("index", "other/photos", *extra, code=1)
        assert "name another place for its collection by --collection" in result.stderr
        assert Collection.open("photos.codes").names == names
    shutil.rmtree("photos")  # then it has been moved
    run("index", "other/photos", "--collection", "photos.codes")
    assert Collection.open("photos.codes").images == indexed / "other/photos"


def test_too_few_images_name_the_option(run, weights):
    result = run("index", "photos", "--checkpoint", weights, *MODEL[:4], "--bits", 20, code=1)
    assert "take a smaller --bits" in result.stderr
    assert "13" in result.stderr
    assert not places.is_collection(places.Path("photos.codes"))


def test_wrong_places_and_usage(run, here, weights):
    assert "nowhere" in run("index", "nowhere", "--checkpoint", weights, *MODEL, code=1).stderr
    assert "got none" in run("index", code=1).stderr
    assert "no.pt" in run("index", "photos", "--checkpoint", "no.pt", *MODEL, code=1).stderr
    wrong = run("index", "photos", "--checkpoint", weights, "--backbone", "resnet1", code=1)
    assert "got 'resnet1'. The nearest are" in wrong.stderr
    assert "--bits" in run("index", "photos", "--bits", "many", code=2).stderr
    (here / "full").mkdir()
    (here / "full/file").touch()
    full = run(
        *("index", "photos", "--checkpoint", weights, *MODEL, "--collection", "full"), code=1
    )
    assert "new or empty" in full.stderr


def test_another_process_that_writes(run, indexed):
    with FolderStorage("photos.codes").writing(0):
        assert "--timeout waits for it" in run("index", "--timeout", 0.1, code=1).stderr
    run("index")


def test_what_tells_a_collection():
    assert places.MANIFEST == MANIFEST


def test_a_model_of_the_hub(run, here, monkeypatch):
    model, stub = make_model(), Hub()
    model.save_pretrained(here / "saved")
    weights = (here / "saved" / "model.safetensors").read_bytes()
    stub.repositories["someone/photos"] = {"model.safetensors": weights}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "cache"))
    with stub.serve() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        run("index", "photos", "--model", "someone/photos")
        message = run("index", "photos", "--model", "someone/else", code=1).stderr
    assert "RepositoryNotFoundError" in message
    opened = Collection.open("photos.codes").model
    assert_close(opened.state_dict(), model.state_dict(), rtol=0, atol=0)
