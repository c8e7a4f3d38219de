"""Every script in examples/ runs, and learns."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
# These have a test or a file of tests of their own.
LONG = {"custom_folder", "figures", "million_images", "quickstart"}
SHORT = sorted({path.stem for path in EXAMPLES.glob("*.py")} - LONG)


def run(name, folder, *arguments):
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", SHORT)
def test_short_example(name, tmp_path):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60
    done = run(name, tmp_path)
    assert done.returncode == 0, done.stderr
    scores = [float(score) for score in re.findall(r"mAP (\d\.\d+)", done.stdout)]
    assert scores[0] < 0.5
    assert scores[-1] > 0.9


def test_two_processes(tmp_path):
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]  # torchrun
    command = [sys.executable, "-m", *launcher, str(EXAMPLES / "distributed.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores = re.findall(r"2 ranks: mAP (\d\.\d+)", done.stdout)
    assert len(scores) == 5  # one process prints
    assert float(scores[0]) < 0.5
    assert float(scores[-1]) > 0.9


def test_figures(tmp_path):
    done = run("figures", tmp_path, str(tmp_path / "figures"))
    assert done.returncode == 0, done.stderr
    written = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert written >= {"precision_recall", "precision_by_rank", "distances", "bits", "pca", "tsne"}


def table(stdout):
    rows = re.findall(r"^(before|after) training\s+(.*)$", stdout, flags=re.MULTILINE)
    return {name: [float(cell.replace(",", "")) for cell in row.split()] for name, row in rows}


def test_quickstart_writes_everything(tmp_path):
    done = run("quickstart", tmp_path, "--epochs", "1", "--train-size", "200", "--queries", "100")
    assert done.returncode == 0, done.stderr
    assert set(table(done.stdout)) == {"before", "after"}
    written = {path.name for path in (tmp_path / "outputs" / "quickstart").iterdir()}
    assert written == {
        "codes.safetensors",
        "gallery.jpg",
        "index.safetensors",
        "model",
        "precision_recall.png",
        "tensorboard",
    }


@pytest.mark.slow
def test_quickstart_learns_the_digits(tmp_path):
    done = run("quickstart", tmp_path)
    assert done.returncode == 0, done.stderr
    scores = table(done.stdout)
    assert scores["before"][0] < 0.3
    assert scores["after"][0] >= 0.95
    assert scores["after"][3] == 4  # bytes an image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "resnet1"], "resnet1"),
        (["--data", "missing"], "got missing"),
        (["--code-length", "0"], "expected at least 1, got 0"),
    ],
)
def test_quickstart_names_bad_arguments(arguments, message, tmp_path):
    done = run("quickstart", tmp_path, *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def quickstart():
    return runpy.run_path(str(EXAMPLES / "quickstart.py"))


def write_npz(folder, **arrays):
    np.savez(folder / "images.npz", **arrays)
    return str(folder / "images.npz")


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_quickstart_reads_arrays(channels, quickstart, tmp_path):
    pixels = np.full((3, 5, 4, *channels), 7, dtype=np.uint8)
    path = write_npz(tmp_path, images=pixels, labels=np.array([70, 5, 70], dtype=np.int16))
    images = quickstart["load_images"](path, download=False)
    assert len(images) == 3
    assert images.labels.tolist() == [1, 0, 1]
    assert [images.class_names(i) for i in range(3)] == ["70", "5", "70"]
    assert np.array_equal(images.picture(2), np.full((5, 4, 3), 7))


def test_quickstart_reads_several_labels_an_image(quickstart, tmp_path):
    labels = np.array([[1, 0, 1], [0, 0, 0]], dtype=np.uint8)
    path = write_npz(tmp_path, images=np.zeros((2, 5, 4), np.uint8), labels=labels)
    images = quickstart["load_images"](path, download=False)
    assert torch.equal(images.labels, torch.tensor(labels).long())
    assert [images.class_names(i) for i in range(2)] == ["0, 2", ""]


def test_quickstart_reads_a_folder(quickstart, tmp_path):
    for number, name in enumerate(["cat", "dog", "dog"]):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("L", (4, 5), number).save(tmp_path / name / f"{number}.png")
    images = quickstart["load_images"](str(tmp_path), download=False)
    assert [images.class_names(i) for i in range(3)] == ["cat", "dog", "dog"]
    assert np.array_equal(images.picture(2), np.full((5, 4, 3), 2))


PIXELS = np.zeros((3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS}, "arrays images and labels, .*labels"),
        ({"images": PIXELS / 255, "labels": [0, 1, 0]}, "images of uint8 .*got float64"),
        ({"images": PIXELS[0], "labels": [0, 1, 0, 1]}, r"got uint8 and \(4, 4\)"),
        ({"images": PIXELS[..., None].repeat(4, 3), "labels": [0, 1, 0]}, r"got .*\(3, 4, 4, 4\)"),
        ({"images": PIXELS, "labels": [0, 1]}, r"labels of shape \(3,\) .*got int64 and \(2,\)"),
        ({"images": PIXELS, "labels": [0.5, 1, 0]}, "integer labels .*got float64"),
    ],
)
def test_quickstart_refuses_arrays(arrays, message, quickstart, tmp_path):
    with pytest.raises(ValueError, match=message):
        quickstart["load_images"](write_npz(tmp_path, **arrays), download=False)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short"])
def test_quickstart_refuses_other_files(content, quickstart, tmp_path):
    (tmp_path / "images.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"arrays images and labels, got .*images\.npz"):
        quickstart["load_images"](str(tmp_path / "images.npz"), download=False)


def test_quickstart_learns_several_labels_an_image(tmp_path):
    labels = np.arange(120)[:, None] % [2, 3, 5] == 0
    pixels = np.random.default_rng(0).integers(256, size=(120, 8, 8, 3), dtype=np.uint8)
    path = write_npz(tmp_path, images=pixels, labels=labels)
    arguments = ["--data", path, "--queries", "20", "--epochs", "1"]
    done = run("quickstart", tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert set(table(done.stdout)) == {"before", "after"}
    done = run("quickstart", tmp_path, *arguments, "--loss", "triplet")
    assert done.returncode == 1
    assert done.stderr.endswith("images of several labels, which PML's refuse.\n")
