"""`pml-hashing search` and `duplicates`: as the Python API, by text and by JSON."""

import csv
import json
import shutil

import pytest
from collection.pictures import save

from pml_hashing import Collection
from pml_hashing.command.search import to_condition


def test_text(run, indexed):
    save(indexed / "new.png", 0)
    lines = run("search", "new.png", "shoe/01.png", "--k", 2).stdout.splitlines()
    assert lines[:3] == [
        "new.png: 2 found",
        "     0  hat/00.png  (hat)",
        "     0  hat/copy.png  (hat)",
    ]
    assert lines[3] == "shoe/01.png: 2 found"
    assert not any("shoe/01.png" in line for line in lines[4:])


def test_json_is_what_the_api_returns(run, indexed):
    options = ["--radius", 3, "--where", "label=shoe", "--where", "label=hat"]
    (found,) = json.loads(run("search", "hat/00.png", *options, "--json").stdout)
    expected = Collection.open("photos.codes").search("hat/00.png", radius=3)
    assert found["query"] == "hat/00.png"
    assert [(each["name"], each["distance"]) for each in found["matches"]] == [
        (match.name, match.distance) for match in expected
    ]
    first = found["matches"][0]
    assert first["path"] == str(indexed / "photos" / first["name"])
    assert (first["labels"], first["metadata"]) == (["hat"], {"label": "hat"})


def test_where_leaves_out_the_others(run, indexed):
    (found,) = json.loads(
        run("search", "hat/00.png", "--k", 50, "--where", "label=shoe", "--json").stdout
    )
    assert len(found["matches"]) == 6
    assert {match["labels"][0] for match in found["matches"]} == {"shoe"}


def test_values_are_of_the_type_of_their_column():
    columns = {"label": str, "price": float, "year": int, "sold": bool, "empty": None}
    where = ("label=a=b", "price=1.5", "year=1999", "year=2000", "sold=True", "empty=x")
    assert to_condition(where, columns) == {
        "label": ["a=b"],
        "price": [1.5],
        "year": [1999, 2000],
        "sold": [True],
        "empty": ["x"],
    }
    assert to_condition((), columns) is None


@pytest.mark.parametrize("where", ["label", "=shoe"])
def test_no_condition_is_wrong_usage(run, indexed, where):
    assert "COLUMN=VALUE" in run("search", "hat/00.png", "--where", where, code=2).stderr


def test_wrong_queries(run, indexed):
    assert "'no.jpg'" in run("search", "no.jpg", code=1).stderr
    (indexed / "bad.jpg").write_bytes(b"no image")
    assert "bad.jpg" in run("search", "bad.jpg", code=1).stderr
    assert "colour" in run("search", "hat/00.png", "--where", "colour=red", code=1).stderr
    assert "vectors" in run("search", "hat/00.png", "--rerank", "vectors", code=1).stderr
    assert "Missing argument" in run("search", code=2).stderr
    both = run("search", "hat/00.png", "--rerank", "asymmetric", "--radius", 3, code=1)
    assert "Expected --radius, a number of bits, or --rerank, got both." in both.stderr


def test_duplicates(run, indexed):
    lines = run("duplicates", "--radius", 0, "--csv", "table.csv").stdout.splitlines()
    assert lines[:2] == ["keep  hat/00.png", "   0  hat/copy.png"]
    groups = json.loads(run("duplicates", "--radius", 0, "--json").stdout)
    expected = Collection.open("photos.codes").duplicates(0)
    assert [group["names"] for group in groups] == [group.names for group in expected]
    assert [group["keep"] for group in groups] == [group.keep for group in expected]
    assert lines[-1].startswith(f"{len(expected)} groups, ")
    with (indexed / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [name for group in expected for name in group.names]
    assert "photos" in run("duplicates", "--csv", "photos", code=1).stderr


def test_which_collection(run, indexed, monkeypatch):
    shutil.copytree("photos.codes", "a.codes")
    several = run("duplicates", code=1).stderr
    assert "got a.codes, photos.codes: name one by --collection" in several
    run("duplicates", "--collection", "a.codes")
    monkeypatch.setenv("PML_HASHING_COLLECTION", "a.codes")
    run("duplicates")
    monkeypatch.setenv("PML_HASHING_COLLECTION", "no.codes")
    assert '"pml-hashing index FOLDER --collection no.codes"' in run("duplicates", code=1).stderr
    monkeypatch.delenv("PML_HASHING_COLLECTION")
    for folder in ("a.codes", "photos.codes"):
        shutil.rmtree(folder)
    assert '"pml-hashing index FOLDER" makes one' in run("duplicates", code=1).stderr


def test_a_damaged_collection(run, indexed):
    (path,) = (indexed / "photos.codes").glob("codes-*")
    path.write_bytes(path.read_bytes()[:-3])
    assert path.name in run("duplicates", code=1).stderr


def test_names_that_would_steer_a_terminal(run, indexed):
    (indexed / "photos/hat/copy.png").rename("photos/hat/\x1b[2J\n.png")
    run("index")
    assert "hat/\\x1b[2J\\x0a.png" in run("duplicates", "--radius", 0).stdout
