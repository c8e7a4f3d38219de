"""Models from the hub and to the hub: a stub of it, no network."""

import runpy
import socket
import ssl
import sys
from pathlib import Path
from threading import Event, current_thread
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from huggingface_hub import ModelCard, ModelHubMixin, constants
from models.stub_hub import COMMIT, TOKEN, Hub
from PIL import Image
from torch import nn
from torch.testing import assert_close

from pml_hashing.models import HashingModel, TwoNetworkHashingModel, hub

EXAMPLE = Path(__file__).parents[2] / "examples" / "push_to_hub.py"
NAME, WEIGHTS = "someone/photos-32", "model.safetensors"


@pytest.fixture
def stub(monkeypatch):
    """A hub without models, which is asked in place of Hugging Face's."""
    made = Hub()
    for variable in hub.OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    with made.serve() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield made


def make_model(**options):
    return HashingModel("test_resnet", 12, img_size=32, **options)


def files_of(model, folder):
    model.save_pretrained(folder)
    return {WEIGHTS: (folder / WEIGHTS).read_bytes()}


def assert_same(model, other):
    assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def fetch(tmp_path, name=NAME, kind=HashingModel, **options):
    return kind.from_pretrained(name, cache_dir=tmp_path / "cache", **options)


@pytest.mark.parametrize("kind", [HashingModel, TwoNetworkHashingModel])
def test_pushed_and_fetched(stub, tmp_path, kind):
    model = make_model()
    if kind is TwoNetworkHashingModel:
        model = TwoNetworkHashingModel(model, make_model())
    assert isinstance(model, ModelHubMixin)
    address = model.push_to_hub(NAME, token=TOKEN, commit_message="The first")
    assert address.endswith(f"/{NAME}/commit/{COMMIT}")
    assert stub.repositories[NAME].keys() == {"README.md", "config.json", WEIGHTS}
    assert stub.commits[0]["summary"] == "The first"
    stub.asked.clear()
    fetched = fetch(tmp_path, kind=kind)
    assert_same(model, fetched)
    assert not fetched.training
    of_files = [path for _, path in stub.asked if "/resolve/" in path]
    assert {path.rpartition("/")[2] for path in of_files} == {WEIGHTS}  # and nothing else


def test_a_folder_comes_first(stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_model()
    model.save_pretrained(NAME)
    assert_same(model, HashingModel.from_pretrained(NAME))
    assert stub.asked == []


@pytest.mark.parametrize("folder", ["missing", "./some/where", "/some/where", "a/b/c", "~/photos"])
def test_what_is_no_name_is_never_asked_for(stub, folder):
    with pytest.raises(FileNotFoundError, match="`folder` to hold a saved model"):
        HashingModel.from_pretrained(folder)
    assert stub.asked == []


def test_a_path_is_no_name(stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="`folder` to hold a saved model with a model"):
        HashingModel.from_pretrained(tmp_path.relative_to(tmp_path) / "some" / "where")
    assert stub.asked == []


def test_what_was_fetched_is_there_without_the_hub(stub, tmp_path, monkeypatch):
    model = make_model()
    stub.repositories[NAME] = files_of(model, tmp_path / "saved")
    fetch(tmp_path)
    stub.asked.clear()
    assert_same(model, fetch(tmp_path, local_files_only=True))
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert_same(model, fetch(tmp_path))
    assert stub.asked == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert_same(model, fetch(tmp_path))


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9", "http://no.host.invalid", "http://no host", "nonsense"]
)
def test_a_hub_that_does_not_answer(stub, tmp_path, monkeypatch, address):
    """Its client, which would retry for a minute, is not asked."""
    monkeypatch.setenv("HF_ENDPOINT", address)
    message = f"got '{NAME}': there is no such folder.*{address} did not answer within 5 seconds"
    with pytest.raises(FileNotFoundError, match=message):
        fetch(tmp_path)
    with pytest.raises(OSError, match=f"take '{NAME}', .*{address} did not answer within 5 sec"):
        make_model().push_to_hub(NAME, token=TOKEN)


def test_a_hub_that_is_not_to_be_asked(stub, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"got '{NAME}'.*`local_files_only`"):
        fetch(tmp_path, local_files_only=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for act in (fetch, lambda _: make_model().push_to_hub(NAME)):
        with pytest.raises(OSError, match="not asked, by the variable HF_HUB_OFFLINE"):
            act(tmp_path)
    assert stub.asked == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HF_HUB_OFFLINE", "on", True),
        ("TRANSFORMERS_OFFLINE", "1", True),
        ("HF_HUB_OFFLINE", "0", False),
    ],
)
def test_variables_of_the_hubs_client(stub, monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    assert hub.is_offline() is expected


@pytest.mark.parametrize(
    ("value", "expected"), [("http://host/", "http://host"), ("", constants.ENDPOINT)]
)
def test_the_address_of_the_hub(monkeypatch, value, expected):
    monkeypatch.setenv("HF_ENDPOINT", value)
    assert hub.endpoint() == expected


def test_a_name_that_is_looked_up_for_ever(monkeypatch):
    """No timeout of a connection counts then. It is given up, and the program can end."""
    found, daemons = Event(), []

    def look_up(*_):
        daemons.append(current_thread().daemon)
        found.wait(1)
        return True

    monkeypatch.setattr(hub, "_answers", look_up)
    assert not hub.does_answer("http://host", 0.05)
    assert daemons == [True]
    found.set()


def test_another_client_may_know_the_certificate(monkeypatch):
    def refuse(*_, **__):
        raise URLError(ssl.SSLError())

    monkeypatch.setattr(hub, "urlopen", refuse)
    assert hub.does_answer("https://host")


def test_a_hub_that_hangs():
    """What accepts and never answers is given up after so many seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not hub.does_answer(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.2)


@pytest.mark.parametrize(("status", "does"), [(200, True), (404, True), (401, True), (503, False)])
def test_what_an_answer_is(stub, status, does):
    stub.status = status
    assert hub.does_answer(hub.endpoint()) is does


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("someone/else", {}, "RepositoryNotFoundError"),
        (NAME, {"revision": "other"}, "RevisionNotFoundError"),
        ("someone/empty", {}, "EntryNotFoundError"),
        ("someone/private", {}, "RepositoryNotFoundError"),
        ("some--one/model", {}, "HFValidationError"),
    ],
)
def test_what_the_hub_does_not_have(stub, tmp_path, name, options, message):
    stub.repositories |= {NAME: {}, "someone/empty": {"README.md": b""}, "someone/private": {}}
    stub.private.add("someone/private")
    with pytest.raises(FileNotFoundError, match=f"got '{name}'.*{message}") as error:
        fetch(tmp_path, name, **options)
    assert len(str(error.value)) < 700


def test_options_reach_the_hub(stub, tmp_path):
    model = make_model()
    stub.repositories[NAME] = files_of(model, tmp_path / "saved")
    stub.private.add(NAME)
    assert_same(model, fetch(tmp_path, token=TOKEN, revision=COMMIT))
    assert any(COMMIT in path for _, path in stub.asked)


def test_a_file_of_the_hub_is_checked_as_any_other(stub, tmp_path):
    files = files_of(make_model(), tmp_path / "saved")
    content = bytearray(files[WEIGHTS])
    content[-9] ^= 1
    changed = {"changed": bytes(content), "cut": files[WEIGHTS][:5000], "other": b"weights"}
    for name, weights in changed.items():
        stub.repositories[f"someone/{name}"] = {WEIGHTS: weights}
        with pytest.raises(ValueError, match=r"Expected a whole file that HashingModel.save_pre"):
            fetch(tmp_path, f"someone/{name}")
    two = TwoNetworkHashingModel(make_model(), make_model())
    stub.repositories[NAME] = files_of(two, tmp_path / "two")
    with pytest.raises(ValueError, match=r"its metadata say .*TwoNetworkHashingModel"):
        fetch(tmp_path)


def test_nothing_in_a_foreign_config_is_used(stub, tmp_path):
    model = make_model()
    files = files_of(model, tmp_path / "saved")
    config = b'{"backbone": "resnet50", "pretrained": true, "code_length": 999}'
    stub.repositories[NAME] = files | {"config.json": config}
    assert_same(model, fetch(tmp_path))


def test_a_backbone_of_ones_own(stub, tmp_path):
    model = HashingModel(nn.Linear(5, 6), 8, num_features=6)
    model.push_to_hub(NAME, token=TOKEN)
    assert "backbone=backbone)" in stub.repositories[NAME]["README.md"].decode()
    assert_same(model, fetch(tmp_path, backbone=nn.Linear(5, 6)))


def test_where_and_how_it_is_pushed(stub, monkeypatch):
    model, pushed = make_model(), []
    model.push_to_hub(NAME, token=TOKEN, private=True)
    assert stub.private == {NAME}

    def upload(_, **options):
        pushed.append((options["revision"], options["create_pr"]))
        return SimpleNamespace(commit_url="there")

    monkeypatch.setattr(hub.HfApi, "upload_folder", upload)
    for options in ({"branch": "new"}, {"create_pr": True}):  # where there is a model by now
        assert model.push_to_hub(NAME, token=TOKEN, **options) == "there"
    assert pushed == [("new", None), (None, True)]


def test_a_push_that_is_refused(stub):
    with pytest.raises(OSError, match=f"take '{NAME}', got an error .*401"):
        make_model().push_to_hub(NAME, token="hf_of_another")
    assert stub.repositories == {}


def test_nothing_is_pushed_with_what_a_card_does_not_say(stub):
    with pytest.raises(TypeError, match=r"options of a card \(figures, dataset, .* got figure\."):
        make_model().push_to_hub(NAME, token=TOKEN, figure={"mAP": 0.5})
    assert not stub.repositories


def test_options_that_there_are_not_are_refused_for_a_folder_too(tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"options of a model on the hub .* got revisio\."):
        HashingModel.from_pretrained(tmp_path, revisio="main")


def test_nothing_is_pushed_with_wrong_figures(stub):
    for figures in ({"mAP": float("nan")}, {" ": 0.5}, {"mAP": True}):
        with pytest.raises(ValueError, match="`figures` with finite numbers or text"):
            make_model().push_to_hub(NAME, token=TOKEN, figures=figures)
    assert stub.repositories == {}


def test_the_card_says_what_was_measured():
    card = make_model().generate_model_card(
        NAME,
        figures={"mAP@5000": 0.931, "train | time": "26 min"},
        dataset="CIFAR-10, 1,000 queries",
        license="mit",
        description="Trained on 5,000 images.",
    )
    data = card.data.to_dict()
    assert data["library_name"] == "pml-hashing"
    assert data["license"] == "mit"
    assert {"pytorch-metric-learning", "hashing", "timm"} <= set(data["tags"])
    [result] = data["model-index"][0]["results"]
    assert result["dataset"]["name"] == "CIFAR-10, 1,000 queries"
    assert result["metrics"] == [{"type": "mAP@5000", "value": 0.931}]
    rows = card.text.splitlines()
    assert "| mAP@5000 | 0.931 |" in rows
    assert r"| train \| time | 26 min |" in rows
    assert "| Backbone | test_resnet |" in rows
    assert "| Bits | 12 |" in rows
    assert "Trained on 5,000 images." in rows
    for package in ("pml-hashing", "pytorch-metric-learning", "timm", "torch"):
        assert any(row.startswith(f"| {package} | ") for row in rows)
    assert str(ModelCard(str(card))) == str(card)


TEXT = """\
# someone/photos-32

Codes of 8 bits for images, compared by Hamming distance.

## Use

```python
from pml_hashing import TwoNetworkHashingModel

model = TwoNetworkHashingModel.from_pretrained("someone/photos-32", backbone=backbone)
codes = model.encode(["photo.jpg"])  # packed bits, uint8
```

Its backbone is a module of its authors', not of timm: pass it.

## Measured

On CIFAR-10:

| Figure | Value |
| --- | --- |
| time | 26 min |

## The model

| first |  |
| --- | --- |
| Backbone | a module of its authors' |
| Bits | 8 |
| Hash layer | linear, bound by tanh |
| Numbers | float32 |

| second |  |
| --- | --- |
| Backbone | test_vit |
| Bits | 8 |
| Hash layer | linear, bound by tanh |
| Numbers | float32 |
| input_size | (3, 32, 32) |
| mean | (0.5, 0.5, 0.5) |
| std | (0.5, 0.5, 0.5) |
| interpolation | bicubic |
| crop_pct | 0.95 |

"""


def test_the_card_of_two_networks():
    first = HashingModel(nn.Identity(), 8, num_features=4)
    both = TwoNetworkHashingModel(first, HashingModel("test_vit", 8, img_size=32))
    card = both.generate_model_card(NAME, figures={"time": "26\nmin"}, dataset="CIFAR-10")
    assert card.text.lstrip().partition("## Versions")[0] == TEXT
    assert "model-index" not in card.data.to_dict()  # which holds numbers


def test_a_card_without_figures_or_without_what_they_were_measured_on():
    text = make_model().generate_model_card(NAME).text
    assert "No figures were given." in text
    assert "not of timm" not in text
    data = make_model().generate_model_card(NAME, figures={"mAP": 0.5}).data.to_dict()
    assert not {"model-index", "model_name"} & data.keys()


def test_what_the_card_shows_runs(stub, tmp_path, monkeypatch):
    """The lines of Python in a card, as a reader copies them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "saved" / WEIGHTS))
    model = make_model()
    model.save_pretrained(tmp_path / "saved")
    Image.new("RGB", (40, 30)).save("photo.jpg")
    text = model.generate_model_card(NAME).text
    names = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    assert names["codes"].shape == (1, 2)
    assert names["codes"].dtype == torch.uint8


def test_the_example(stub, tmp_path, monkeypatch, capsys):
    make_model().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(sys, "argv", ["push_to_hub.py", str(tmp_path / "model"), NAME])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        f"{constants.ENDPOINT}/{NAME}/commit/{COMMIT}",
        "12 bits",
    ]
    assert "| mAP@all | 0.98 |" in stub.repositories[NAME]["README.md"].decode()
