"""Every script that takes a backbone takes its weights as a file, and says so without a hub."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from processes import run_script, run_together

ROOT = Path(__file__).parents[1]
ALL = [*(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
TAKING = ('"--backbone"', "add_backbone(")
WITH_BACKBONE = sorted(path for path in ALL if any(t in path.read_text("utf-8") for t in TAKING))
NAMES = [f"{path.parent.name}/{path.stem}" for path in WITH_BACKBONE]

FROM_THE_HUB = {
    "examples/collection": ["photos", "--pretrained"],
    "examples/custom_folder": ["photos", "--pretrained", "--queries", "2"],
    "examples/fine_tune": ["photos", "--pretrained"],
    "examples/quickstart": ["--pretrained"],
    "benchmarks/duplicates": ["data"],
    "benchmarks/retrieval": ["--dataset", "photos", "--methods", "CSQ", "--seeds", "1"],
}
"""What each that takes weights from timm's hub is called with, so that it does."""

HELP_ALONE = {"cifar10_features", "cifar10_views", "encoding", "serve", "settings", "training"}
"""Those whose weights are random without a file, or come with data too large for a test."""

ASSETS = """
from types import SimpleNamespace
from PIL import Image

def jpeg_pack(path):
    return [Image.new("RGB", (40, 40), (2 * number, 0, 0)) for number in range(101)], None
"""


@pytest.fixture
def folder(tmp_path):
    """A folder to work in: photographs of two classes, and data as the benchmarks have them."""
    for number in range(12):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "load_assets.py").write_text(ASSETS)
    return tmp_path


def skip_without_packages(stderr):
    if "ModuleNotFoundError" in stderr:
        pytest.skip(stderr.splitlines()[-1])


def test_scripts_that_take_a_backbone_are_all_known():
    known = {*FROM_THE_HUB, *(f"benchmarks/{name}" for name in HELP_ALONE)}
    assert known == set(NAMES), "each belongs in FROM_THE_HUB or in HELP_ALONE"


@pytest.mark.parametrize("path", WITH_BACKBONE, ids=NAMES)
def test_it_takes_a_file_of_weights(path, tmp_path):
    done = run_script(path, "--help", folder=tmp_path)
    skip_without_packages(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "--checkpoint" in done.stdout


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_without_a_hub_it_names_the_option(name, folder):
    """The hub's client retries for a minute, and is never asked: nothing here takes seconds."""
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(folder / "cache")}
    [done] = run_together(
        ROOT / f"{name}.py",
        [[*FROM_THE_HUB[name], "--backbone", "test_resnet"]],
        folder=folder,
        environments=[environment],
    )
    skip_without_packages(done.stderr)
    assert done.returncode != 0
    assert "http://127.0.0.1:9 did not answer within 5 seconds" in done.stderr
    assert "(--checkpoint)" in done.stderr
    assert "Retrying" not in done.stderr  # what the hub's client would say


WITH_WEIGHTS = {
    "benchmarks/encoding": ["--images", "4", "--batch-size", "2", "--repeats", "1"],
    "examples/custom_folder": ["photos", "--queries", "2", "--epochs", "1", "--image-size", "32"],
}


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_weights_of_a_file_need_no_hub(name, folder):
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "weights.pt")
    weights = ["--backbone", "test_resnet", "--checkpoint", "weights.pt"]
    done = run_script(ROOT / f"{name}.py", *WITH_WEIGHTS[name], *weights, folder=folder)
    assert done.returncode == 0, done.stderr
