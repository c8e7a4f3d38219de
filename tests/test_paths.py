"""Paths whose bytes are no UTF-8, as other systems leave behind, are read and written."""

import os
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from pml_hashing.datasets import ImageArrays, ImageFiles
from pml_hashing.models import HashingModel, TwoNetworkHashingModel
from pml_hashing.search import HammingKNN
from pml_hashing.trainers.checkpoints import CheckpointFolder, read_checkpoint, write_checkpoint

NAME = os.fsdecode(b"caf\xe9")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are text there")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / NAME).mkdir()
    return tmp_path / NAME


@pytest.mark.parametrize("memory_map", [False, True])
def test_an_index(folder, memory_map):
    codes, knn, loaded = torch.randn(5, 12), HammingKNN(), HammingKNN()
    knn.train(codes, ["a", NAME, "c", "d", "e"])
    for _ in range(2):  # anew, then in the place of another
        knn.save(folder / NAME)
    loaded.load(folder / NAME, memory_map=memory_map)
    assert loaded.ids == knn.ids
    assert os.listdir(folder) == [NAME]  # noqa: PTH208


def test_codes(folder):
    model, values = HashingModel(nn.Identity(), 12, num_features=4), torch.randn(9, 4)
    expected = model.encode(values, progress=False)
    for _ in range(2):  # encoded, then read
        assert torch.equal(model.encode(values, path=folder / NAME, progress=False), expected)


def test_models(folder):
    one, two = (HashingModel(nn.Identity(), 12, num_features=4) for _ in range(2))
    one.save_pretrained(folder)
    loaded = HashingModel.from_pretrained(folder, backbone=nn.Identity())
    assert torch.equal(loaded(torch.ones(2, 4)), one(torch.ones(2, 4)))
    TwoNetworkHashingModel(one, two).save_pretrained(folder / "two")
    backbones = {"backbone": nn.Identity(), "database_backbone": nn.Identity()}
    TwoNetworkHashingModel.from_pretrained(folder / "two", **backbones)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_weights(folder, ending):
    weights = timm.create_model("test_resnet", num_classes=0).state_dict()
    path = folder / f"{NAME}{ending}"
    with path.open("wb") as file:
        torch.save(weights, file) if ending == ".pth" else file.write(save(weights))
    trunk = HashingModel("test_resnet", 8, img_size=32, checkpoint_path=path).trunk
    assert all(torch.equal(value, weights[name]) for name, value in trunk.state_dict().items())


def test_checkpoints(folder):
    write_checkpoint(folder / NAME, {"a": torch.ones(3)})
    assert read_checkpoint(folder / NAME)["a"].tolist() == [1, 1, 1]
    with CheckpointFolder(folder).in_use():
        CheckpointFolder(folder).save({"step": 3}, 1, 3)
    assert CheckpointFolder(folder).load() == {"step": 3}


def test_images(folder):
    (folder / NAME).mkdir()
    Image.new("RGB", (4, 5)).save(folder / NAME / f"{NAME}.png")
    images = ImageFiles.from_folder(folder)
    assert (images.names, images.classes) == ([f"{NAME}/{NAME}.png"], [NAME])
    assert images.image(0).size == (4, 5)
    (folder / "images.csv").write_text("path,label\na.png,x\n")
    (folder / NAME / f"{NAME}.png").rename(folder / "a.png")
    assert ImageFiles.from_csv(folder / "images.csv").image(0).size == (4, 5)
    with (folder / NAME / f"{NAME}.npz").open("wb") as file:
        np.savez(file, images=np.zeros((3, 5, 4), np.uint8), labels=np.arange(3))
    assert len(ImageArrays.from_npz(folder / NAME / f"{NAME}.npz")) == 3
