"""Every script in examples/ runs, and learns."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "quickstart")


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
        "gallery.png",
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
