"""HashingModel.encode against a forward pass of all samples at once."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pml_hashing.codes import binarize, pack, unpack
from pml_hashing.datasets import UnreadableImageError
from pml_hashing.models import HashingModel


class Images(Dataset):
    """A data set of images alone."""

    def __init__(self, images):
        self.images = images

    def __getitem__(self, index):
        return self.images[index]

    def __len__(self):
        return len(self.images)


class Stream(IterableDataset):
    """A data set without a length."""

    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(self.images)


@pytest.fixture(params=[16, 12])
def model(request):
    return HashingModel("test_resnet", request.param, img_size=32)


@pytest.fixture
def images():
    return torch.randn(7, 3, 32, 32)


def expected_codes(model, images):
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        bits = torch.cat([model(image[None]) for image in images]).numpy() >= 0
    return torch.from_numpy(np.packbits(bits, axis=1, bitorder="little"))


KINDS = {
    "tensor": lambda images: images,
    "data_set": Images,
    "data_set_with_labels": lambda images: TensorDataset(images, torch.arange(len(images))),
    "stream": Stream,
    "loader": lambda images: DataLoader(Images(images), batch_size=4),
    "list_of_batches": lambda images: [[images[:2], 0], (images[2:],)],
    "list_of_images": list,
    "list_of_images_with_labels": lambda images: [(image, 0) for image in images],
    "float64": lambda images: images.double(),
    "array_of_float64": lambda images: images.numpy().astype(np.float64),
    "stream_of_float64": lambda images: Stream(images.double()),
    "generator": lambda images: (images[i : i + 1] for i in range(len(images))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_forward(model, images, kind):
    codes = model.encode(KINDS[kind](images), batch_size=3, progress=False)
    assert (codes.dtype, codes.device.type) == (torch.uint8, "cpu")
    assert torch.equal(codes, expected_codes(model, images))
    assert not codes.is_inference()


def test_codes_are_binarized_and_packed(model, images):
    model.eval()
    codes = model.encode(images, progress=False)
    assert torch.equal(codes, pack(model(images)))
    assert torch.equal(unpack(codes, model.code_length), binarize(model(images)))


@pytest.mark.parametrize(
    ("layout", "threads", "sizes"),
    [(torch.contiguous_format, 1, [8, 8, 4]), (torch.channels_last, 2, [16, 4])],
)
def test_images_are_run_as_convolutions_are_fastest(model, layout, threads, sizes, monkeypatch):
    images, seen = torch.randn(20, 3, 32, 32), []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    codes = model.encode(
        images.contiguous(memory_format=layout), batch_size=20, device="cpu", progress=False
    )
    assert [len(part) for part in seen] == sizes
    channels_last = (3 * 32 * 32, 1, 3 * 32, 3)
    assert {part.stride() for part in seen} == {channels_last}
    assert torch.equal(codes, expected_codes(model, images))
    assert first.weight.is_contiguous()  # the model is as it was


class Viewing(nn.Module):
    """A backbone of one's own, which counts on how its images lie in memory."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.convolution(images).view(len(images), -1)


def test_a_backbone_of_ones_own_may_take_a_view(model, images):
    own = HashingModel(Viewing(), 16, num_features=4 * 30 * 30)
    own.data_config = model.data_config
    codes = own.encode(images, device="cpu", progress=False)
    assert torch.equal(codes, expected_codes(own, images))


def test_integers_are_for_a_backbone_of_ones_own():
    model = HashingModel(nn.Sequential(nn.Embedding(9, 4), nn.Flatten()), 12, num_features=8)
    words = torch.randint(9, (5, 2))
    assert torch.equal(model.encode(words, progress=False), pack(model(words)))


class Table:
    """Rows by their numbers, as a table of `datasets` has them."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return self.rows[place]


PICTURES = {
    "paths": lambda names, _: names,
    "pathlib": lambda names, _: [Path(name) for name in names],
    "bytes": lambda names, _: [Path(name).read_bytes() for name in names],
    "pil": lambda _, pixels: [Image.fromarray(each) for each in pixels],
    "pil_and_labels": lambda _, pixels: [(Image.fromarray(each), 3) for each in pixels],
    "list_of_arrays": lambda _, pixels: list(pixels),
    "array": lambda _, pixels: pixels,
    "rows": lambda _, pixels: [{"label": 0, "image": Image.fromarray(each)} for each in pixels],
    "table": lambda _, pixels: Table([{"img": Image.fromarray(each)} for each in pixels]),
    "undecoded_rows": lambda names, _: [
        {"image": {"bytes": Path(name).read_bytes(), "path": None}} for name in names
    ],
    "rows_of_paths": lambda names, _: [{"image": {"bytes": None, "path": n}} for n in names],
    "data_set": lambda names, _: Images(names),
    "data_set_of_rows": lambda names, _: Images([{"path": name} for name in names]),
    "stream": lambda names, _: Stream([(name, 0) for name in names]),
    "stream_of_rows": lambda _, pixels: Stream([{"image": each} for each in pixels]),
}


@pytest.fixture
def pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(5, 40, 50, 3), dtype=np.uint8)
    names = [str(tmp_path / f"{number}.png") for number in range(5)]
    for name, each in zip(names, pixels, strict=True):
        Image.fromarray(each).save(name)
    return names, pixels


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_every_kind(model, pictures, kind):
    expected = torch.stack([model.transform()(Image.fromarray(each)) for each in pictures[1]])
    codes = model.encode(PICTURES[kind](*pictures), batch_size=2, progress=False)
    assert torch.equal(codes, expected_codes(model, expected))


@pytest.mark.parametrize("kind", ["paths", "stream", "rows_of_paths"])
def test_pictures_that_cannot_be_read_are_left_out(model, pictures, kind):
    Path(pictures[0][3]).write_bytes(b"no image")
    unreadable = []
    options = {"batch_size": 2, "progress": False, "on_unreadable": unreadable.append}
    codes = model.encode(PICTURES[kind](*pictures), **options)
    others = np.delete(pictures[1], 3, axis=0)
    assert torch.equal(codes, model.encode(others, progress=False))
    assert [(error.index, error.path) for error in unreadable] == [(3, pictures[0][3])]
    with pytest.raises(UnreadableImageError, match=r"3\.png"):
        model.encode(PICTURES[kind](*pictures), progress=False)


def test_pictures_are_loaded_by_processes(model, pictures):
    codes = model.encode(pictures[0], num_workers=2, batch_size=2, progress=False)
    assert torch.equal(codes, model.encode(pictures[0], progress=False))


def test_an_array_of_floats_is_as_a_tensor(model, images):
    codes = model.encode(images.numpy(), progress=False)
    assert torch.equal(codes, expected_codes(model, images))


def test_pictures_for_a_model_that_does_not_preprocess(pictures):
    model = HashingModel(nn.Flatten(), 8, num_features=3 * 40 * 50)
    with pytest.raises(ValueError, match=r"a model with a `data_config`.* got none"):
        model.encode(pictures[0], progress=False)


def test_real_codes(model, images, tmp_path):
    codes = model.encode(images, packed=False, batch_size=3, progress=False)
    with torch.no_grad():
        assert torch.allclose(codes, model.eval()(images), atol=1e-6)
    assert codes.dtype == torch.float32
    assert torch.equal(pack(codes), model.encode(images, batch_size=3, progress=False))
    with pytest.raises(ValueError, match="`packed` codes for a file"):
        model.encode(images, packed=False, path=tmp_path / "codes", progress=False)


def test_device(model, images, device):
    expected = expected_codes(model, images)
    codes = model.encode(images, device=device, progress=False)
    assert codes.device.type == "cpu"
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    model.to(device)
    moved = model.encode(images, progress=False)
    # Another order of sums may flip a bit that is close to zero.
    for found in (codes, moved):
        assert (unpack(found) != unpack(expected)).float().mean() < 0.02
    model(images.to(device)).sum().backward()  # no parameter became an inference tensor


def test_mixed_precision(device):
    seen = []

    class Watch(nn.Linear):
        def forward(self, features):
            output = super().forward(features)
            seen.append((output.dtype, torch.is_inference_mode_enabled(), self.training))
            return output

    model = HashingModel(Watch(4, 4), 8, num_features=4).to(device)
    for amp in (False, True):
        assert model.encode(torch.randn(2, 4), amp=amp, progress=False).shape == (2, 1)
    assert seen == [(torch.float32, True, False), (torch.bfloat16, True, False)]


def test_modes_and_buffers_are_left_as_they_were(model, images):
    model.train()
    model.trunk.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    model.encode(images, progress=False)
    with pytest.raises(ValueError, match="finite"):
        model.encode(images * torch.nan, progress=False)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_progress_bar(model, images, capsys):
    model.encode(images, batch_size=4, progress=False)
    assert capsys.readouterr().err == ""
    model.encode(images, batch_size=4)
    assert "encode: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_codes_that_are_not_finite_are_found(value):
    model = HashingModel(nn.Identity(), 8, num_features=4, bound="none")
    features = torch.randn(10, 4)
    features[[5, 7]] = value
    message = r"finite codes in `encode`, .* 2 samples of a batch, .* sample 5 of `inputs`"
    with pytest.raises(ValueError, match=message):
        model.encode(features, batch_size=4, progress=False)


class Stopping:
    """Takes one batch of images, then looks around, and stops."""

    def __init__(self, images, fail):
        self.images, self.fail = images, fail

    def __iter__(self):
        yield self.images
        self.fail()


def modes(model):
    return model.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")


def test_an_error_leaves_nothing_as_it_is_while_encoding(model, images):
    before, seen = modes(model), []

    def fail():
        seen.append(modes(model)[1:])
        raise OSError("gone")

    with pytest.raises(OSError, match="gone") as caught:
        model.encode(Stopping(images, fail), amp=True, progress=False)
    assert seen == [(False, False)]  # what gives the images is run as the caller is
    assert modes(model) == before
    assert caught.value  # which holds all frames until here


def test_codes_of_another_length_are_found(model, images):
    model.embedder = nn.Linear(model.trunk.num_features, 24)  # and `code_length` is as before
    message = rf"`codes` of shape \(batch_size, {model.code_length}\), .* got \(7, 24\)"
    with pytest.raises(ValueError, match=message):
        model.encode(images, progress=False)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(0, 3, 32, 32), ValueError, r"at least one sample, got \(0, 3, 32, 32\)"),
        (torch.zeros(5), ValueError, r"`inputs` of shape \(n, ...\) .* got \(5,\)"),
        (Images([]), ValueError, "at least one sample, got an empty data set"),
        (Stream([]), ValueError, "`inputs` with at least one sample, got none"),
        ([], ValueError, "`inputs` with at least one sample, got none"),
        ([torch.zeros(0, 3, 32, 32)], ValueError, r"at least one sample, got \(0, 3, 32, 32\)"),
        ([torch.zeros(())], ValueError, r"batches of `inputs` of shape \(n, ...\) .* got \(\)"),
        ([{"image": 0}], TypeError, "rows of `inputs` with an image under image, .* got 'image'"),
        ([{"text": 0}], TypeError, "rows of `inputs` with an image under image, .* got 'text'"),
        ("photo.jpg", TypeError, "to be a list of images, got one str"),
        ({"image": "photo.jpg"}, TypeError, "to be a list of images, got one dict"),
        ([()], TypeError, "to be tensors or tuples that start with one, got tuple"),
        (torch.zeros(3, 32, 32), ValueError, r"\(n, 3, height, width\) .* got \(3, 32, 32\)"),
        (torch.zeros(2, 1, 32, 32), ValueError, r"\(n, 3, height, .* got \(2, 1, 32, 32\)"),
        (torch.zeros(2, 32, 32, 3), ValueError, r"\(n, 3, height, .* got \(2, 32, 32, 3\)"),
        (torch.zeros(2, 3, 32, 32).byte(), TypeError, "images of floats .* got torch.uint8: pix"),
        (3, TypeError, "a tensor, images, a data set or an iterable of batches, got int"),
    ],
)
def test_wrong_inputs_are_named(model, inputs, error, message):
    with pytest.raises(error, match=message):
        model.encode(inputs, progress=False)


def test_batch_size_is_at_least_one(model, images):
    with pytest.raises(ValueError, match="`batch_size` of at least 1, got 0"):
        model.encode(images, batch_size=0)


@pytest.mark.parametrize("of", [Images, Stream])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_random_numbers_go_on_as_if_nothing_was_encoded(of, num_workers, model, images):
    before = torch.get_rng_state()
    model.encode(of(images), num_workers=num_workers, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
