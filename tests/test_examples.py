"""Every script in examples/ runs, and learns."""

import ast
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import run_script, run_together

EXAMPLES = Path(__file__).parents[1] / "examples"
# These have a test or a file of tests of their own.
LONG = {
    *("collection", "custom_folder", "distributed", "encode_shards", "export_onnx", "figures"),
    *("fine_tune", "own_loss", "push_to_hub", "quickstart", "ray_encode", "search_client"),
}
SHORT = sorted({path.stem for path in EXAMPLES.glob("*.py")} - LONG)


USERS = [*EXAMPLES.glob("*.py"), *(EXAMPLES.parent / "benchmarks" / "comparison").glob("*.py")]


@pytest.mark.parametrize("path", sorted(USERS), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_only_public_parts_are_used(path):
    imports = [
        f"{getattr(node, 'module', None) or ''}.{alias.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    of_package = [name for name in imports if "pml_hashing" in name.split(".")]
    assert not [name for name in of_package if re.search(r"\._(?!_)", name)]


def run(name, folder, *arguments):
    return run_script(EXAMPLES / f"{name}.py", *arguments, folder=folder)


@pytest.mark.parametrize("name", SHORT)
def test_short_example(name, tmp_path):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60
    done = run(name, tmp_path)
    assert done.returncode == 0, done.stderr
    scores = [float(score) for score in re.findall(r"mAP (\d\.\d+)", done.stdout)]
    assert scores[0] < 0.5
    assert scores[-1] > 0.9


def test_own_losses(tmp_path):
    done = run("own_loss", tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("plain", "composed"):
        scores = re.findall(rf"{name}, .* mAP (\d\.\d+)", done.stdout)
        assert float(scores[0]) < 0.5
        assert float(scores[-1]) > 0.9


def test_collection(tmp_path):
    options = ["--backbone", "test_resnet"]
    first, second = (run("collection", tmp_path, *options) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.startswith("132 added, ")
    assert second.stdout.startswith("0 added, 0 changed, 0 renamed, 0 removed, 132 unchanged, 0 en")
    assert first.stdout.splitlines()[1:] == second.stdout.splitlines()[1:]
    assert "bits from china/00.png" in second.stdout
    rows = (tmp_path / "outputs" / "collection" / "duplicates.csv").read_text().splitlines()
    assert rows[0] == "group,path,keep,distance,width,height,bytes"


def ranks(folder):
    """Run the example as torchrun does, without its own process."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    of_each = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    script = EXAMPLES / "distributed.py"
    done = run_together(script, [(), ()], folder=folder, environments=of_each)
    assert [of.returncode for of in done] == [0, 0], "\n".join(of.stderr for of in done)
    return done[0]


def torchrun(folder):
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, "-m", *launcher, str(EXAMPLES / "distributed.py")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("start", [ranks, pytest.param(torchrun, marks=pytest.mark.slow)])
def test_two_processes(start, tmp_path):
    assert len((EXAMPLES / "distributed.py").read_text().splitlines()) < 60
    done = start(tmp_path)
    assert done.returncode == 0, done.stderr
    scores = re.findall(r"2 ranks: mAP (\d\.\d+)", done.stdout)
    assert len(scores) == 7  # one process prints
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
        (["--data", "missing"], "got none at `missing`"),
        (["--data", "missing.csv"], "missing.csv"),
        (["--data", "cifar10:missing"], "not found or corrupted"),
        (["--code-length", "0"], "Expected `code_length` of at least 1, got 0"),
        (["--queries", "1797"], "Expected `num_queries` of at most 1796, got 1797"),
        (["--train-size", "0"], "Expected `num_train` of at least 1, got 0"),
        (["--epochs", "0"], "total_steps, but got 0"),
    ],
)
def test_quickstart_names_bad_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *arguments])
    monkeypatch.setattr("torch.set_num_threads", print)  # of this process, which goes on
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / "quickstart.py"), run_name="__main__")
    assert str(stopped.value).startswith("quickstart.py: error: ")
    assert message in str(stopped.value)


@pytest.fixture(scope="module")
def load_images():
    return runpy.run_path(str(EXAMPLES / "quickstart.py"))["load_images"]


def test_quickstart_reads_the_digits(load_images):
    images = load_images("digits", download=False)
    assert (len(images), images.classes) == (1797, list("0123456789"))
    assert np.asarray(images.image(0)).max() == 239  # 15 of 16


def test_quickstart_reads_arrays(load_images, tmp_path):
    pixels = np.full((3, 5, 4), 7, dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.array([70, 5, 70]))
    images = load_images(str(tmp_path / "images.npz"), download=False)
    assert [images.class_names(i) for i in range(3)] == [["70"], ["5"], ["70"]]


def test_quickstart_reads_files(load_images, tmp_path):
    for number, name in enumerate(["cat", "dog", "dog"]):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("L", (4, 5), number).save(tmp_path / name / f"{number}.png")
    (tmp_path / "photos.csv").write_text("path,label\ndog/1.png,dog|wet\ncat/0.png,cat\n")
    images = load_images(str(tmp_path), download=False)
    assert [images.class_names(i) for i in range(3)] == [["cat"], ["dog"], ["dog"]]
    images = load_images(str(tmp_path / "photos.csv"), download=False)
    assert [images.class_names(i) for i in range(2)] == [["dog", "wet"], ["cat"]]


def test_quickstart_reads_cifar10(load_images, tmp_path, monkeypatch):
    made = []

    class CIFAR10:
        classes = ("plane", "car")

        def __init__(self, root, train, download):
            made.append((root, train, download))
            self.data = np.full((2, 4, 4, 3), train, np.uint8)
            self.targets = [0, 1] if train else [1, 1]

    monkeypatch.setitem(load_images.__globals__, "CIFAR10", CIFAR10)
    images = load_images(f"cifar10:{tmp_path}", download=True)
    assert made == [(str(tmp_path), True, True), (str(tmp_path), False, True)]
    assert images.labels.tolist() == [0, 1, 1, 1]
    assert [images.image(i).getpixel((0, 0))[0] for i in range(4)] == [1, 1, 0, 0]
    assert images.class_names(2) == ["car"]
    load_images("cifar10", download=False)
    assert made[-1] == ("data", False, False)


def test_quickstart_learns_several_labels_an_image(tmp_path):
    labels = np.arange(120)[:, None] % [2, 3, 5] == 0
    pixels = np.random.default_rng(0).integers(256, size=(120, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    done = run("quickstart", tmp_path, "--data", "images.npz", "--queries", "70", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert set(table(done.stdout)) == {"before", "after"}
