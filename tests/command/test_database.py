"""The command over a collection in a database."""

import json

import pytest
from command.conftest import MODEL

pytest.importorskip("clickhouse_connect", reason="the extra [clickhouse] is not installed")
pytest.importorskip("chdb", reason="the extra [clickhouse] is not installed")


def test_each_subcommand(run, here, weights, engine):
    where = ["--collection", engine, "--table", "of_the_command", "--model", "new.model"]
    result = run("index", "photos", *where, "--labels", "folders", "--checkpoint", weights, *MODEL)
    assert "table 'of_the_command' at" in result.stdout
    assert (here / "new.model" / "config.json").is_file()
    run("index", "photos", "--checkpoint", weights, *MODEL)  # one in a folder, to compare with
    run("index", "--labels", "folders")
    for asked in (
        ["search", "hat/00.png", "--where", "label=hat", "--json"],
        ["duplicates", "--json"],
        ["evaluate", "--json"],
    ):
        assert json.loads(run(*asked, *where).stdout) == json.loads(run(*asked).stdout)
    report = json.loads(run("index", *where, "--json").stdout)
    assert (report["unchanged"], report["size"]) == (13, 13)
    result = run("index", "photos", *where, "--bits", 16, code=1)
    assert "Expected --bits as table 'of_the_command' at" in result.stderr


def test_what_is_missing(run, here, engine):
    result = run("search", "x", "--collection", "clickhouse://127.0.0.1:1/db", code=1)
    assert "server that answers at 127.0.0.1:1" in result.stderr
    result = run("search", "x", "--collection", engine, "--table", "none", code=1)
    assert "Expected a collection at table 'none'" in result.stderr
    assert 'got none: "pml-hashing index FOLDER" makes one.' in result.stderr
    (here / "x.codes").mkdir()
    (here / "x.codes/collection.json").touch()
    result = run("search", "x", "--table", "none", code=1)
    assert "Expected `table` with a database" in result.stderr or "--table" in result.stderr


def test_to_look_makes_nothing(run, here, weights):
    """No engine starts: this process may have that of another folder open."""
    (here / "empty").mkdir()
    held = sorted(here.rglob("*"))
    for folder in ("none", "empty"):
        where = ["--collection", f"chdb://{here}/{folder}"]
        for asked in (["search", "x"], ["duplicates"], ["evaluate"], ["serve"]):
            assert "Expected a collection at" in run(*asked, *where, code=1).stderr
        run("index", *where, code=2)  # no folder of images
        made = ["--checkpoint", weights, *MODEL]
        assert "got none and 0 other" in run("index", "empty", *where, *made, code=1).stderr
    assert sorted(here.rglob("*")) == held
