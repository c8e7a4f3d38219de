"""Batches that come with ids, against `encode` of the same images."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pml_hashing.datasets import UnreadableImageError
from pml_hashing.models import HashingModel, TwoNetworkHashingModel

SIZES = [3, 1, 4, 0, 2]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return HashingModel("test_resnet", 12, img_size=32).train()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(256, size=(10, 32, 32, 3), dtype=np.uint8)


def of_sizes(ids, images):
    bounds = np.cumsum([0, *SIZES])
    for start, stop in itertools.pairwise(bounds):
        yield ids[start:stop], images[start:stop]


def as_objects(pixels):
    images = np.empty(len(pixels), dtype=object)
    images[:] = [image[: 30 + place] for place, image in enumerate(pixels)]
    return images


def saved(pixels, folder):
    paths = [folder / f"{place}.png" for place in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


KINDS = {
    "samples": lambda pixels, _: torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255,
    "list of samples": lambda pixels, _: list(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255),
    "array of floats": lambda pixels, _: pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255,
    "pixels": lambda pixels, _: pixels,
    "pixels of several sizes": lambda pixels, _: as_objects(pixels),
    "pictures": lambda pixels, _: [Image.fromarray(image) for image in pixels],
    "files": saved,
    "rows": lambda pixels, _: [{"image": image} for image in pixels],
}


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_encode(model, pixels, kind, tmp_path):
    images = KINDS[kind](pixels, tmp_path)
    whole = torch.stack(images) if kind == "list of samples" else images
    whole = list(whole) if kind == "pixels of several sizes" else whole
    expected = model.encode(whole, batch_size=4, progress=False)
    ids = [f"image {place}" for place in range(10)]
    found = list(model.encode_batches(of_sizes(ids, images)))
    assert [list(part) for part, _ in found] == [part for part, _ in of_sizes(ids, ids)]
    assert [len(codes) for _, codes in found] == SIZES
    assert torch.equal(torch.cat([codes for _, codes in found]), expected)


def test_it_takes_one_batch_after_the_other_and_leaves_no_trace(model, pixels):
    taken = []

    def batches():
        for ids, images in of_sizes(np.arange(10), pixels):
            taken.append(len(ids))
            yield ids, images

    for number, (ids, codes) in enumerate(model.encode_batches(batches(), packed=False), start=1):
        assert taken == SIZES[:number]
        assert isinstance(ids, np.ndarray)
        assert (codes.dtype, codes.shape) == (torch.float32, (len(ids), 12))
        assert model.training
        assert not torch.is_inference_mode_enabled()
        torch.ones(1, requires_grad=True).sum().backward()


def test_what_cannot_be_read_is_left_out_with_its_id(model, pixels, tmp_path):
    paths = saved(pixels, tmp_path)
    for place in (1, 3, 8, 9):
        paths[place].write_bytes(b"none")
    errors = []
    found = list(
        model.encode_batches(of_sizes(list(range(10)), paths), on_unreadable=errors.append)
    )
    assert [ids for ids, _ in found] == [[0, 2], [], [4, 5, 6, 7], [], []]
    assert [len(codes) for _, codes in found] == [2, 0, 4, 0, 0]
    assert [error.index for error in errors] == [1, 0, 0, 1]
    assert [error.path for error in errors] == [str(paths[place]) for place in (1, 3, 8, 9)]
    with pytest.raises(UnreadableImageError, match=r"1\.png"):
        list(model.encode_batches(of_sizes(list(range(10)), paths)))


def test_an_id_for_each_image(model, pixels):
    with pytest.raises(ValueError, match="an id for each of 3 images in `batches`, got 2"):
        list(model.encode_batches([([1, 2], pixels[:3])]))


def test_batches_are_pairs(model, pixels):
    for batch in (pixels, (list(range(10)), pixels, 0)):
        with pytest.raises(TypeError, match=f"pairs, ids .* got {type(batch).__name__}"):
            list(model.encode_batches([batch]))


def test_a_batch_is_run_at_once_where_the_model_is(device, capsys):
    """Also where its samples are a list of vectors, which `encode` takes for batches."""
    model, values = HashingModel(nn.Identity(), 12, num_features=4).to(device), torch.randn(5, 4)
    seen = []
    model.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ((_, codes),) = model.encode_batches([(range(5), list(values))])
    assert [(samples.device.type, samples.shape) for samples in seen] == [(device.type, (5, 4))]
    assert capsys.readouterr().err == ""  # a bar for each batch would fill the screen
    assert torch.equal(codes, model.encode(values, progress=False))


def test_two_networks(pixels):
    first, second = (HashingModel("test_resnet", 12, img_size=32) for _ in range(2))
    both = TwoNetworkHashingModel(first, second)
    for network in ("first", "second", "sum"):
        (_, codes), *_ = both.encode_batches([(range(10), pixels)], network=network)
        expected = both.encode(pixels, network=network, batch_size=10, progress=False)
        assert torch.equal(codes, expected)


@pytest.mark.parametrize("kind", ["pixels", "samples", "rows"])
def test_no_image_is_one_that_cannot_be_read(model, pixels, kind):
    images = list(torch.randn(4, 3, 32, 32)) if kind == "samples" else list(pixels[:4])
    expected = model.encode(images[1:3], progress=False)
    images[0] = images[3] = None
    if kind == "rows":
        images = [{"image": image} for image in images]
    caught = []
    ((ids, codes),) = model.encode_batches([("abcd", images)], on_unreadable=caught.append)
    assert (ids, [error.index for error in caught]) == (["b", "c"], [0, 3])
    assert torch.equal(codes, expected)
    with pytest.raises(UnreadableImageError, match=r"item 0 .* an image, got none"):
        list(model.encode_batches([("abcd", images)]))
    ((ids, codes),) = model.encode_batches([("a", [None])], on_unreadable=id)
    assert (ids, len(codes)) == ([], 0)
