"""Images in arrays: their labels, their names, and what is refused."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from pml_hashing.datasets import ImageArrays, LabelledImages

PIXELS = np.arange(3 * 5 * 4, dtype=np.uint8).reshape(3, 5, 4)


def test_class_ids_may_be_any_numbers():
    images = ImageArrays(PIXELS, np.array([70, -5, 70], np.int16))
    assert images.classes == ["-5", "70"]
    assert torch.equal(images.labels, torch.tensor([1, 0, 1]))
    assert [images.class_names(i) for i in range(3)] == [["70"], ["-5"], ["70"]]


def test_class_ids_by_name():
    images = ImageArrays(PIXELS, [2, 0, 2], classes=["cat", "dog", "emu"])
    assert images.labels.tolist() == [2, 0, 2]
    assert images.class_names(0) == ["emu"]


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.int64])
def test_several_labels(dtype):
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype)
    images = ImageArrays(PIXELS, labels)
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == labels.tolist()
    assert [images.class_names(i) for i in range(3)] == [["0", "2"], [], ["1"]]
    assert ImageArrays(PIXELS, labels, classes=["a", "b", "c"]).class_names(0) == ["a", "c"]


def test_labels_of_pytorch():
    assert ImageArrays(PIXELS, torch.tensor([3, 4, 3])).labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 1), (3, 1, 4, 1), (3, 5, 1, 1), (3, 1, 1)])
def test_gray_images_are_read_in_rgb(shape):
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    images = ImageArrays(pixels, [0, 1, 2])
    expected = pixels[2].reshape(*shape[1:3], 1).repeat(3, axis=2)
    assert np.array_equal(images.image(2), expected)


def test_colors_and_a_transform():
    pixels = np.random.default_rng(0).integers(256, size=(3, 5, 4, 3), dtype=np.uint8)
    images = ImageArrays(pixels, [0, 1, 2])
    assert np.array_equal(images[1][0], pixels[1])
    halved = images.with_transform(lambda image: np.asarray(image) // 2)
    assert np.array_equal(halved[1][0], pixels[1] // 2)
    assert images.transform is None
    assert [label.item() for _, label in halved] == [0, 1, 2]
    assert isinstance(images, LabelledImages)


def test_workers_can_take_it():
    images = pickle.loads(pickle.dumps(ImageArrays(PIXELS, [0, 1, 0], transform=np.asarray)))
    assert np.array_equal(images[2][0][..., 0], PIXELS[2])


BAD = [
    ({"images": PIXELS / 255}, "`images` of uint8 .*got float64"),
    ({"images": PIXELS[0]}, r"got uint8 and \(5, 4\)"),
    ({"images": PIXELS[..., None].repeat(4, 3)}, r"got uint8 and \(3, 5, 4, 4\)"),
    ({"images": PIXELS[:0], "labels": np.zeros(0, int)}, r"not empty, got uint8 and \(0, 5, 4\)"),
    ({"images": PIXELS[:, :0]}, r"not empty, got uint8 and \(3, 0, 4\)"),
    ({"labels": [0, 1]}, r"`labels` of shape \(3,\) .*got int64 and \(2,\)"),
    ({"labels": [0.5, 1, 0]}, "integer `labels` .*got float64"),
    ({"labels": [[[1]]] * 3}, r"got int64 and \(3, 1, 1\)"),
    ({"labels": [[0, 2], [1, 0], [0, 1]]}, "zeros and ones"),
    ({"labels": [0, 3, 1], "classes": ["a", "b", "c"]}, "class ids from 0 to 2"),
    ({"labels": [0, -1, 1], "classes": ["a", "b", "c"]}, "class ids from 0 to 2"),
    ({"labels": [[0, 1], [1, 0], [0, 1]], "classes": ["a"]}, r"of shape \(3, 1\)"),
    ({"classes": [1, 2, 3]}, r"`classes` to be a list of names, got \[1, 2, 3\]"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_refuses(change, message, tmp_path):
    given = {"images": PIXELS, "labels": [0, 1, 2]} | change
    with pytest.raises(ValueError, match=message):
        ImageArrays(**given)
    np.savez(tmp_path / "images.npz", **given)
    with pytest.raises(ValueError, match=rf"an \.npz file .*{tmp_path}.*{message}"):
        ImageArrays.from_npz(tmp_path / "images.npz")


def test_refuses_no_array():
    with pytest.raises(TypeError, match="`images` to be a numpy array, got list"):
        ImageArrays(PIXELS.tolist(), [0, 1, 2])
    with pytest.raises(ValueError, match="`classes` to be a list of names, got 'abc'"):
        ImageArrays(PIXELS, [0, 1, 2], classes="abc")


def test_a_file(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, images=PIXELS, labels=[4, 4, 9])
    assert ImageArrays.from_npz(path).classes == ["4", "9"]
    np.savez(path, images=PIXELS, labels=[1, 0, 1], classes=["cat", "dog"], more=[1])
    images = ImageArrays.from_npz(str(path), transform=Image.Image.tobytes)
    assert images.class_names(0) == ["dog"]
    assert images[0] == (PIXELS[0][..., None].repeat(3, 2).tobytes(), torch.tensor(1))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short"])
def test_another_file(content, tmp_path):
    (tmp_path / "images.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"arrays images and labels, got .*images\.npz"):
        ImageArrays.from_npz(tmp_path / "images.npz")


def test_files_without_the_arrays(tmp_path):
    np.savez(tmp_path / "images.npz", images=PIXELS)
    with pytest.raises(ValueError, match="labels is not a file in the archive"):
        ImageArrays.from_npz(tmp_path / "images.npz")
    np.save(tmp_path / "images.npy", PIXELS)
    with pytest.raises(ValueError, match=r"an \.npz file .*images\.npy"):
        ImageArrays.from_npz(tmp_path / "images.npy")
    np.savez(tmp_path / "images.npz", images=PIXELS, labels=np.array([0, "a", None], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        ImageArrays.from_npz(tmp_path / "images.npz")


@pytest.mark.parametrize("name", ["missing.npz", ""])
def test_no_file(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` to be an \.npz file of images, got"):
        ImageArrays.from_npz(tmp_path / name)
