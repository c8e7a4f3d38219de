"""examples/custom_folder.py on small folders of generated images."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "examples" / "custom_folder.py"
OPTIONS = ["--queries", "12", "--epochs", "8", "--image-size", "32", "--lr", "3e-3"]
COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Return a function that runs the script in this process and returns what it prints."""
    main = runpy.run_path(str(SCRIPT))["main"]

    def run_main(data, *arguments):
        output = str(tmp_path / "output")
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(data), "--output", output, *arguments])
        main()
        return capsys.readouterr().out

    return run_main


def save(path, *colors):
    """Save an image with a stripe of noise for each of its colors."""
    rng = np.random.default_rng(len(path.name) + sum(path.name.encode()))
    stripes = [rng.normal(COLORS[color], 40, size=(40, 30, 3)) for color in colors]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(stripes).clip(0, 255).astype(np.uint8)).save(path)


def score(printed):
    return float(re.search(r"mAP (\d\.\d+)", printed)[1])


@pytest.fixture
def folder(tmp_path):
    for color in COLORS:
        for number in range(40):
            save(tmp_path / "photos" / color / f"{number}.jpg", color)
    (tmp_path / "photos" / "red" / "7.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


def test_class_folders(run, folder, tmp_path):
    output = tmp_path / "output"
    first = run(folder, *OPTIONS, "--backbone", "test_resnet")
    assert score(first) > 0.9
    assert re.search(r"left out: .*red/7\.jpg", first)
    written = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert written.keys() == {"codes", "gallery.png", "split.json"}
    again = run(folder, "--query", "green/3.jpg")
    assert score(again) == score(first)
    assert "0 encoded" in again
    names = re.search(r"^green/3\.jpg: (.*)$", again, flags=re.MULTILINE)[1].split(", ")
    assert len(names) == 8
    assert all(name.startswith("green/") for name in names)
    assert (output / "split.json").stat().st_mtime_ns == written["split.json"]
    assert (output / "gallery.png").stat().st_mtime_ns > written["gallery.png"]
    for name in ("green/no.jpg", "red/7.jpg"):
        with pytest.raises(SystemExit, match=rf"custom_folder\.py: error: .*{name}"):
            run(folder, "--query", name)


def test_other_images_do_not_take_the_place_of_the_first(run, folder, tmp_path):
    run(folder, *OPTIONS[:-1], "1e-3", "--epochs", "1", "--backbone", "test_resnet")
    shutil.copytree(folder, tmp_path / "others")
    with pytest.raises(SystemExit, match=r"got others in .*others: name another place"):
        run(tmp_path / "others")
    folder.rename(tmp_path / "moved")
    assert "0 encoded" in run(tmp_path / "moved")


def test_files_change_between_two_runs(run, folder, tmp_path):
    first = run(folder, *OPTIONS, "--backbone", "test_resnet")
    (folder / "blue" / "0.jpg").rename(folder / "blue" / "zz.jpg")
    (folder / "blue" / "1.jpg").unlink()
    save(folder / "blue" / "new.jpg", "blue")
    again = run(folder, "--query", "blue/zz.jpg")
    assert "1 added, 0 changed, 1 renamed, 1 removed, 117 unchanged, 1 encoded" in again
    assert score(again) > score(first) - 0.05
    names = re.search(r"^blue/zz\.jpg: (.*)$", again, flags=re.MULTILINE)[1].split(", ")
    assert all(name.startswith("blue/") for name in names)
    save(tmp_path / "other.jpg", "green")
    found = run(folder, "--query", str(tmp_path / "other.jpg"))
    assert len(re.findall(r"bits: .*green/", found)) == 10


def test_a_table_of_several_labels(run, tmp_path):
    rows = ["path,label"]
    sets = [["red"], ["green"], ["red", "green"], ["blue"]]
    for number in range(120):
        colors = sets[number % 4]
        save(tmp_path / "photos" / f"{number}.png", *colors)
        rows.append(f"photos/{number}.png,{'|'.join(colors)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    options = [*OPTIONS, "--backbone", "test_vit", "--code-length", "24", "--train-size", "90"]
    assert score(run(tmp_path / "labels.csv", *options)) > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--backbone", "resnet1"],
            r"error: Expected `backbone` to be a name of timm.list_models\(\), got 'resnet1'",
        ),
        (["--queries", "120"], "error: Expected `num_queries` of at most 118, got 120"),
    ],
)
def test_bad_arguments_are_named(run, folder, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(folder, *arguments)


def test_a_missing_folder_is_named(run, tmp_path):
    with pytest.raises(SystemExit, match=r"custom_folder\.py: error: .*nowhere"):
        run(tmp_path / "nowhere")
