"""Every kind of data set is read as images with labels."""

import gzip
import struct

import numpy as np
import pytest
import torch
from comparison.data import ImageSet, download, load_images
from PIL import Image

ASSETS = """
import numpy as np
from PIL import Image

def cifar10(split):
    return np.arange(3 * 32 * 32 * 3, dtype=np.uint8).reshape(3, 32, 32, 3), np.array([2, 0, 1])

def cifar100():
    images, labels = cifar10("all")
    return images, labels + 90, ["class"] * 100

def jpeg_pack(path):
    assert path.name == "miml2000.npz"
    return [Image.new("RGB", (4, 5), "red")], np.array([[1, 0, 1]], np.uint8), None, None
"""


def pictures(images):
    return ImageSet(images, torch.arange(len(images.labels)), np.asarray)


def write_idx(path, array, compressed):
    header = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape)
    content = header + array.tobytes()
    if compressed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("compressed", [True, False])
def test_fashion_mnist(compressed, tmp_path):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    images = np.random.default_rng(0).integers(256, size=(5, 28, 28), dtype=np.uint8)
    for half, part in (("train", slice(3)), ("t10k", slice(3, None))):
        write_idx(folder / f"{half}-images-idx3-ubyte", images[part], compressed)
        write_idx(
            folder / f"{half}-labels-idx1-ubyte", np.arange(5, dtype=np.uint8)[part], compressed
        )
    read = load_images("fashion-mnist", tmp_path)
    assert (read.labels.tolist(), read.num_test) == ([0, 1, 2, 3, 4], 2)
    picture, label = pictures(read)[4]
    assert label == 4
    assert np.array_equal(picture, images[4][..., None].repeat(3, axis=2))


def test_fashion_mnist_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"fashion-mnist in .*train-images-idx3-ubyte in a folder"):
        load_images("fashion-mnist", tmp_path)


def test_cifar10_of_a_loader(tmp_path):
    (tmp_path / "load_assets.py").write_text(ASSETS)
    read = load_images("cifar10", tmp_path)
    assert (read.labels.tolist(), read.num_test) == ([2, 0, 1], 10_000)
    assert np.array_equal(pictures(read)[1][0], read.images[1])


def test_cifar100_of_a_loader(tmp_path):
    (tmp_path / "load_assets.py").write_text(ASSETS)
    read = load_images("cifar100", tmp_path)
    assert (read.labels.tolist(), read.num_test) == ([92, 90, 91], 0)
    assert np.array_equal(pictures(read)[1][0], read.images[1])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_of_torchvision(name, tmp_path, monkeypatch):
    class Cifar:
        def __init__(self, root, train):
            assert root == tmp_path
            self.data = np.full((2, 32, 32, 3), train, np.uint8)
            self.targets = [3, 4] if train else [5, 6]

    monkeypatch.setattr(f"torchvision.datasets.{name.upper()}", Cifar)
    read = load_images(name, tmp_path)
    assert (read.labels.tolist(), read.num_test) == ([3, 4, 5, 6], 10_000)
    assert read.images[:, 0, 0, 0].tolist() == [1, 1, 0, 0]


def test_several_labels(tmp_path):
    (tmp_path / "load_assets.py").write_text(ASSETS)
    read = load_images("miml", tmp_path)
    assert (read.labels.tolist(), read.num_test) == ([[1, 0, 1]], 0)
    assert pictures(read)[0][0].shape == (5, 4, 3)


def test_a_folder_of_classes(tmp_path):
    for number, name in enumerate(["cat", "dog", "dog"]):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("L", (4, 5), number).save(tmp_path / name / f"{number}.png")
    read = load_images(str(tmp_path), tmp_path)
    assert (read.labels.tolist(), read.num_test) == ([0, 1, 1], 0)
    assert np.array_equal(pictures(read)[2][0], np.full((5, 4, 3), 2))


def test_unknown_data_set(tmp_path):
    with pytest.raises(
        ValueError, match=r"cifar100, fashion-mnist, miml or a folder .*got 'cifar'"
    ):
        load_images("cifar", tmp_path)


def test_a_download_of_what_torchvision_does_not_have(tmp_path):
    with pytest.raises(
        ValueError, match="cifar10, cifar100, fashion-mnist to download it, got 'miml'"
    ):
        download("miml", tmp_path)
