"""Errors are one line, tell the option, and have their exit code."""

import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command.conftest import MODEL

from pml_hashing import Collection
from pml_hashing.command import errors, main
from pml_hashing.models import hub

COMMANDS = ["index", "search", "duplicates", "serve", "train", "evaluate"]


def test_the_commands():
    assert main.list_commands(click.Context(main)) == COMMANDS


def test_the_script_that_is_installed():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"pml-hashing": "pml_hashing.command:main"}
    assert any(needed.startswith("click") for needed in project["dependencies"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(run, command):
    text = run(command, "--help").stdout
    assert "Examples:\n" in text
    assert f"pml-hashing {command}" in text
    assert "--traceback" in text
    assert "\b" not in text


def test_tracebacks_only_where_asked(indexed):
    failing = ["search", "nothing"]
    plain = CliRunner().invoke(main, failing)
    assert plain.output.startswith("Error: ")
    assert len(plain.output.splitlines()) == 1
    shown = CliRunner().invoke(main, [*failing, "--traceback"])
    assert isinstance(shown.exception, FileNotFoundError)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("Expected `code_length`, got `others`."), "Expected --bits, got `others`."),
        (KeyError("Expected a name."), "Expected a name."),
        (OSError(28, "No space left on device", "a.bin"), "No space left on device: a.bin"),
        (ValueError("a\x1b[2J\nb"), "a\\x1b[2J\nb"),
        (MemoryError(), "MemoryError:  (--traceback shows where)"),
        (AssertionError("odd"), "AssertionError: odd (--traceback shows where)"),
    ],
)
def test_messages(error, text):
    message = errors.message_of(error)
    assert errors.with_options(message, main.commands["index"]) == text


def stop(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("command", ["index", "duplicates"])
def test_ctrl_c(run, indexed, monkeypatch, command):
    monkeypatch.setattr(Collection, "sync", stop)
    monkeypatch.setattr(Collection, "duplicates", stop)
    going_on = {"index": " The collection is as it was. The same command goes on from what was"}
    assert f"Stopped.{going_on.get(command, '')}" in run(command, code=130).stderr


def test_ctrl_c_before_there_is_a_collection(run, here, weights, monkeypatch):
    made = ["index", "photos", "--checkpoint", weights, *MODEL]
    none_yet = "Stopped. There is no collection yet. The same command begins anew."
    for name in ("check_labels", "place_for"):  # the first when it is known that there is none
        with monkeypatch.context() as patch:
            patch.setattr(f"pml_hashing.command.index.{name}", stop)
            assert (none_yet in run(*made, code=130).stderr) == (name == "check_labels")
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "create", stop)
        assert none_yet in run(*made, code=130).stderr
    with monkeypatch.context() as patch:
        patch.setattr("pml_hashing.collection.folder_journal.FolderJournal.append", stop)
        assert "Stopped. The collection is as it was." in run(*made, code=130).stderr
    assert "13 added" in run(*made).stdout


EMPTY = [
    ["index", ""],
    ["index", "photos", "--collection", ""],
    ["index", "photos", "--model", ""],
    ["index", "photos", "--labels", ""],
    ["index", "photos", "--checkpoint", ""],
    ["search", ""],
    ["search", "x", "--table", ""],
    ["duplicates", "--csv", ""],
    ["train", ""],
    ["train", "photos", "--output", ""],
    ["evaluate", "--queries", ""],
    ["serve", "--host", ""],  # of all addresses, a socket would say
]


@pytest.mark.parametrize("arguments", EMPTY, ids=" ".join)
def test_an_empty_text_is_no_path(run, here, arguments):
    held = sorted(here.rglob("*"))
    assert "An empty text names nothing." in run(*arguments, code=2).stderr
    assert sorted(here.rglob("*")) == held


def test_options_in_the_table_exist():
    names = {param.name for command in main.commands.values() for param in command.params}
    assert set(errors.OPTION_OF.values()) <= names
    assert errors.GOING_ON.keys() <= main.commands.keys()


def test_no_weights_name_the_option(run, monkeypatch):
    asked = []

    def fail(name, **_):
        asked.append(name)
        raise ConnectionError("no hub")

    monkeypatch.setattr(hub, "does_answer", lambda _: True)
    monkeypatch.setattr("timm.create_model", fail)
    for command in ("index", "train"):
        message = run(command, "photos", code=1).stderr
        assert "by --checkpoint, or another --backbone." in message
        assert "ConnectionError: no hub" in message
    assert asked == ["tf_efficientnet_lite0"] * 2  # a large one is not built twice
