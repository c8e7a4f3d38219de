"""The whole comparison of a folder of generated images: run, stopped, resumed, refused."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import retrieval
import torch
from comparison import grid
from comparison.cells import Cell, run_cell
from comparison.results import append_record, read_records
from comparison.sources import Source
from comparison.task import Budget
from PIL import Image

from pml_hashing import HashingModel

SCRIPT = Path(retrieval.__file__)
ASSETS = """
import numpy as np
from PIL import Image

def jpeg_pack(path):
    rows = np.random.default_rng(0).integers(2, size=(60, 3))
    return [Image.new("RGB", (9, 8), tuple(255 * row)) for row in rows], rows, None, None
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of images, red or blue; images of several labels; weights of a small backbone."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (root / "images" / name).mkdir(parents=True)
        for number in range(30):
            pixels = generator.integers(100, size=(8, 9, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(root / "images" / name / f"{number}.png")
    (root / "load_assets.py").write_text(ASSETS)
    torch.manual_seed(0)
    trunk = HashingModel("test_resnet", 8, img_size=32).trunk
    torch.save(trunk.state_dict(), root / "test_resnet.pt")
    return root


@pytest.fixture
def arguments(data, tmp_path):
    given = ["--dataset", str(data / "images"), "--root", str(data), "--backbone", "test_resnet"]
    given += ["--img-size", "32", "--checkpoint", str(data / "test_resnet.pt")]
    given += ["--methods", "ITQ", "CSQ", "--code-lengths", "8", "--seeds", "1", "--epochs", "1"]
    given += ["--batch-size", "16"]
    return [*given, "--output", str(tmp_path / "results.jsonl")]


@pytest.fixture
def compare(arguments, monkeypatch, tmp_path):
    """Run the script here, not in processes of its own, and return the records."""
    monkeypatch.setattr(grid, "run_apart", run_cell)

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["retrieval.py", *arguments, *more])
        retrieval.main()
        return read_records(tmp_path / "results.jsonl")

    return run


def refuse(*_):
    raise AssertionError("computed anew")


def test_a_folder(compare, tmp_path, capsys):
    records = compare()
    assert [(r["method"], r["code_length"], r["seed"]) for r in records] == [
        ("ITQ", 8, 0),
        ("CSQ", 8, 0),
    ]
    for record in records:
        assert 0 < record["mean_average_precision"] <= 1
        assert record["protocol"] == "10%/90%"
        assert record["train_seconds"] > 0
        assert record["train_memory_mib"] >= 0
    assert "| CSQ |" in capsys.readouterr().out
    written = {path.name for path in tmp_path.iterdir()}
    assert "images_test_resnet_32.npz" in written
    assert any(name.endswith(".png") for name in written)


def test_a_finished_cell_is_never_computed_again(compare, monkeypatch, tmp_path):
    first = compare()
    before = (tmp_path / "results.jsonl").read_bytes()
    monkeypatch.setattr(grid, "run_apart", refuse)
    assert compare() == first
    assert (tmp_path / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", [["--epochs", "2"], ["--seeds", "2"], ["--code-lengths", "9"]])
def test_another_cell_is_another_result(change, compare):
    assert len(compare("--methods", "ITQ")) == 1
    assert len(compare("--methods", "ITQ", *change)) == 2


def test_stopped_in_between(compare, monkeypatch, tmp_path):
    def stop_at_the_second(cell, source):
        if cell.method == "CSQ":
            raise KeyboardInterrupt
        return run_cell(cell, source)

    monkeypatch.setattr(grid, "run_apart", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        compare()
    path = tmp_path / "results.jsonl"
    (finished,) = path.read_text().splitlines()
    with path.open("a") as file:
        file.write('{"dataset": "ima')  # as of a process that was killed while it wrote
    computed = []
    monkeypatch.setattr(grid, "run_apart", lambda *a: computed.append(a[0].method) or run_cell(*a))
    assert [record["method"] for record in compare()] == ["ITQ", "CSQ"]
    assert computed == ["CSQ"]
    assert path.read_text().startswith(finished + "\n")


def test_a_cell_that_fails_does_not_stop_the_others(compare, monkeypatch, tmp_path, capsys):
    def fail(cell, source):
        if cell.method == "ITQ":
            raise FloatingPointError("not finite")
        return run_cell(cell, source)

    monkeypatch.setattr(grid, "run_apart", fail)
    with pytest.raises(SystemExit, match="1 of 2 failed"):
        compare()
    assert "FloatingPointError: not finite" in capsys.readouterr().err
    assert [r["method"] for r in read_records(tmp_path / "results.jsonl")] == ["CSQ"]


def test_several_labels_and_float_features(compare):
    records = compare("--dataset", "miml", "--methods", "float features", "DADH", "HashNet")
    assert [record["code_length"] for record in records] == [None, 8, 8]
    assert all(record["mean_average_precision"] > 0.5 for record in records)


def test_end_to_end(compare, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "comparison.networks.AsymmetricTrainer.train",
        lambda self, num_epochs: trained.append(self),
    )
    (record,) = compare("--end-to-end", "--methods", "DCWH")
    assert record["end_to_end"]
    assert not list(tmp_path.glob("*.npz"))
    hash_layer, whole = trained
    assert isinstance(hash_layer.models["trunk"], torch.nn.Identity)
    assert hash_layer.models["embedder"] is whole.models["embedder"]
    rates = {k: o.param_groups[0]["lr"] for k, o in whole.optimizers.items()}
    assert rates["trunk_optimizer"] == pytest.approx(0.1 * rates["embedder_optimizer"])
    assert whole.freeze_trunk_batchnorm
    assert whole.dataset[0][0].shape == (3, 32, 32)


def test_images_to_train_on_may_be_smaller(compare, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "comparison.networks.AsymmetricTrainer.train",
        lambda self, num_epochs: sizes.append(self.dataset[0][0].shape),
    )
    (record,) = compare("--end-to-end", "--methods", "CSQ", "--training-scale", "0.75")
    assert sizes[1] == (3, 24, 24)  # the first are features, for the hash layer alone
    assert record["budget"]["training_scale"] == 0.75
    assert record["img_size"] == 32


@pytest.mark.parametrize("scale", ["0", "1.5", "-1", "nan"])
def test_a_scale_is_a_share(compare, scale, capsys):
    with pytest.raises(SystemExit):
        compare("--end-to-end", "--training-scale", scale)
    assert f"expected a share above 0 and up to 1, got {scale}" in capsys.readouterr().err


def test_end_to_end_trains_the_backbone(compare, monkeypatch):
    networks = []
    make = Source.model

    def remember(source, *args, **options):
        networks.append(make(source, *args, **options))
        networks[-1].start = [p.detach().clone() for p in networks[-1].trunk.parameters()]
        return networks[-1]

    monkeypatch.setattr(Source, "model", remember)
    compare("--end-to-end", "--methods", "DADH")
    assert len(networks) == 3  # the first shows that there are weights at all
    for network in networks[1:]:
        pairs = zip(network.start, network.trunk.parameters(), strict=True)
        assert any(not torch.equal(before, after) for before, after in pairs)


def test_without_methods_end_to_end_trains_all_networks(arguments, monkeypatch):
    place = arguments.index("--methods")
    given = [*arguments[:place], *arguments[place + 3 :], "--end-to-end"]
    monkeypatch.setattr(sys, "argv", ["retrieval.py", *given])
    assert retrieval.parse_args().methods == retrieval.NETWORKS


WRONG = [
    (
        ["--dataset", "cifar10", "--root", "nowhere"],
        "the images of cifar10 in nowhere (--download fetches them), got",
    ),
    (["--dataset", "fashion-mnist"], "got FileNotFoundError: Expected train-images-idx3"),
    (["--dataset", "empty"], "the images of empty in empty, got FileNotFoundError"),
    (["--checkpoint", "other.pt"], "Expected `checkpoint_path` to be a whole file of weights"),
    (["--backbone", "resnet1"], "Expected `backbone` to be a name of timm.list_models()"),
    (["--protocol", "10k/50k"], "Expected another `protocol` for a data set without test"),
    (["--protocol", "1k/59k"], "Expected at least 600 images of every class"),
    (["--loss", "mine:Broken"], "mine:Broken: RuntimeError: not today"),
    (["--loss", "mine:Number"], "mine:Number: TypeError: Expected make to return a torch.nn"),
    (["--loss", "mine:Margin"], "got Margin: missing a required argument: 'margin'"),
    (["--output", "empty"], "empty"),
]
WRONG_FEATURES = [
    (["--dataset", "bad photos"], "photo.png"),
    (["--features", "text.npz"], "Expected a file of features and labels at text.npz"),
    (["--features", "labels.npz"], "Expected a file of features and labels at labels.npz"),
    (["--features", "sizes.npz"], r"Expected features of shape (60, num_features)"),
]


@pytest.mark.parametrize(
    ("more", "message"),
    [*WRONG, *WRONG_FEATURES, *((["--end-to-end", *more], message) for more, message in WRONG)],
)
def test_what_fails_everywhere_is_said_once(more, message, compare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad photos" / "cat").mkdir(parents=True)
    (tmp_path / "bad photos" / "cat" / "photo.png").write_bytes(b"cut")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "text.npz").write_text("no features")
    np.savez(tmp_path / "labels.npz", labels=np.zeros(60, int))
    np.savez(tmp_path / "sizes.npz", labels=np.zeros(60, int), features=np.zeros((59, 4)))
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(grid, "run_apart", refuse)
    with pytest.raises(SystemExit) as stopped:
        compare("--methods", "CSQ", "HashNet", "--seeds", "9", *more)
    error = str(stopped.value)
    assert error.startswith("retrieval.py: error: ")
    assert message in error


MINE = """
from torch import nn

class Broken(nn.Module):
    def __init__(self, num_classes, code_length):
        raise RuntimeError("not today")

class Margin(nn.Module):
    def __init__(self, num_classes, code_length, margin):
        super().__init__()

def make(num_classes, code_length):
    return num_classes

Number = make
"""


def test_weights_that_no_hub_gives(compare, arguments, monkeypatch):
    def fail(*args, **options):
        raise OSError("no network: give a file (--checkpoint)")

    monkeypatch.setattr("comparison.sources.HashingModel", fail)
    with pytest.raises(SystemExit, match=r"no network: give a file \(--checkpoint\)"):
        compare("--methods", "CSQ")


def test_features_of_something_else(compare, tmp_path, data):
    compare("--methods", "ITQ")
    other = ["--features", str(tmp_path / "images_test_resnet_32.npz"), "--img-size", "64"]
    message = f"Expected features of {data / 'images'}, test_resnet (test_resnet.pt), 64 px"
    with pytest.raises(SystemExit, match=re.escape(message)):
        compare("--methods", "ITQ", *other)


def test_a_table_of_the_results(compare, tmp_path):
    path = tmp_path / "tables" / "results.csv"
    records = compare("--methods", "float features", "ITQ", "--csv", str(path))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["float features", "ITQ"]
    assert [row["code_length"] for row in rows] == ["", "8"]
    for row, record in zip(rows, records, strict=True):
        assert float(row["mean_average_precision"]) == record["mean_average_precision"]
        assert (row["epochs"], row["batch_size"]) == ("1", "16")
    assert rows[0]["precision_within_radius_2"] == ""
    assert float(rows[1]["precision_within_radius_2"]) >= 0
    compare("--methods", "ITQ", "--csv", str(path))  # of this grid alone
    assert len(path.read_text().splitlines()) == 2
    assert [p.name for p in path.parent.iterdir()] == ["results.csv"]


def test_a_download_comes_first(compare, monkeypatch):
    fetched = []

    def fetch(root, download):
        fetched.append((root, download))
        raise RuntimeError("no network")

    monkeypatch.setitem(retrieval.DOWNLOADS, "cifar10", fetch)
    with pytest.raises(SystemExit, match="no network"):
        compare("--dataset", "cifar10", "--download", "--root", "there")
    assert fetched == [(Path("there"), True)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "DSAH2"], "unknown method 'DSAH2': of float features, ITQ, KSH"),
        (
            ["--dataset", "cifar"],
            "unknown data set 'cifar': cifar10, cifar100, fashion-mnist, miml, or a",
        ),
        (["--checkpoint", "no.pt"], "no file no.pt"),
        (["--end-to-end", "--features", "x.npz"], "--features are of a frozen backbone"),
        (["--end-to-end"], "'ITQ' has no network that could be trained --end-to-end"),
        (["--methods"], "neither --methods nor a --loss"),
        (["--methods", "mine:Loss"], "unknown method 'mine:Loss'"),
        (["--loss", "DSAH"], "Expected a module and a loss in it, such as my_module:MyLoss"),
        (["--device", "gpu"], "expected a device of PyTorch, got 'gpu'"),
        (["--workers", "-1"], "expected at least 0, got -1"),
        (["--download"], "--download is for cifar10, cifar100, fashion-mnist, not for"),
        (["--csv", "."], "expected a file of its own for --csv, got ."),
        (["--protocol", "1k"], "invalid choice: '1k'"),
        (["--epochs", "0"], "expected at least 1, got 0"),
    ],
)
def test_bad_arguments(more, message, compare, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare(*more)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_of_something_else(compare, tmp_path):
    (tmp_path / "results.jsonl").write_text("method,score\n")
    with pytest.raises(SystemExit, match=r"JSON object in line 1 of .*results\.jsonl"):
        compare()


def test_a_record_of_something_else(compare, tmp_path):
    append_record(tmp_path / "results.jsonl", {"score": 1})
    with pytest.raises(SystemExit, match=r"Expected a record of a cell, got {'score': 1}\."):
        compare()


def test_a_cell_in_a_process_of_its_own(data, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    features = data / "features.npz"
    source = Source(
        str(data / "images"), data, "test_resnet", 32, data / "test_resnet.pt", features, "cpu", 0
    )
    budget = Budget(1, 16)
    cell = Cell(source.dataset, "10%/90%", source.weights, 32, False, "CSQ", 8, 0, budget)
    there, here = grid.run_apart(cell, source), run_cell(cell, source)
    assert Cell.of(there) == cell
    assert there["mean_average_precision"] == here["mean_average_precision"]
    assert 0 < there["train_memory_mib"] < 500


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


@pytest.mark.slow
def test_killed_and_run_again(data, arguments, tmp_path):
    """In processes of their own, as a user runs it; killed once the first cell is finished."""
    path = tmp_path / "results.jsonl"
    features = str(tmp_path / "features.npz")
    command = [sys.executable, str(SCRIPT), *arguments, "--protocol", "10%/90%"]
    command += ["--features", features]
    first = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    while not path.exists() or b"\n" not in path.read_bytes():
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    finished = path.read_text().splitlines()[0]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = path.read_text().splitlines()
    assert lines[0] == finished
    assert [json.loads(line)["method"] for line in lines] == ["ITQ", "CSQ"]
