"""A folder of pictures, weights of a tiny backbone, and the command in this process."""

import shutil

import pytest
import timm
import torch
from click.testing import CliRunner
from collection.pictures import save

from pml_hashing import Collection
from pml_hashing.command import main

MODEL = ["--backbone", "test_resnet", "--img-size", "32", "--bits", "8"]


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with pictures of two classes, one of which is there twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PML_HASHING_COLLECTION", raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    for number in range(12):
        label = ("hat", "shoe")[number % 2]
        save(tmp_path / "photos" / label / f"{number:02d}.png", number)
    shutil.copy(tmp_path / "photos/hat/00.png", tmp_path / "photos/hat/copy.png")
    return tmp_path


@pytest.fixture
def run(here):
    """Return a function that runs the command, and checks its exit code."""

    def run_command(*arguments, code=0):
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run_command


@pytest.fixture(scope="session")
def indexed_once(tmp_path_factory, weights):
    """A folder to work in whose pictures have a collection: copied, not changed."""
    folder = tmp_path_factory.mktemp("indexed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number in range(12):
            save(folder / "photos" / ("hat", "shoe")[number % 2] / f"{number:02d}.png", number)
        shutil.copy("photos/hat/00.png", "photos/hat/copy.png")
        command = ["index", "photos", "--checkpoint", str(weights), *MODEL, "--labels", "folders"]
        assert CliRunner().invoke(main, command).exit_code == 0
    return folder


@pytest.fixture
def indexed(indexed_once, here):
    """The folder to work in, with a collection of its pictures."""
    shutil.copytree(indexed_once / "photos.codes", here / "photos.codes")
    # Codes are known by content: those of the other folder, which is as this one, are taken over.
    Collection.open("photos.codes").sync("photos", labels="folders", progress=False)
    return here
