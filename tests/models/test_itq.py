"""A hash layer learned without labels: its codes are ITQ's, and it is a model like others."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import IterableDataset

from pml_hashing.baselines import ITQ
from pml_hashing.codes import pack
from pml_hashing.models import HashingModel
from pml_hashing.models.itq import draw_places


@pytest.fixture
def features():
    return torch.randn(200, 24) * torch.linspace(0.1, 3, 24) + 5


def fit(inputs, code_length=16, **options):
    options = {"num_features": 24, "progress": False} | options
    return HashingModel.from_itq(nn.Identity(), code_length, inputs, **options)


def test_codes_are_those_of_itq(features):
    itq = ITQ(16, random_state=3).fit(features.double().numpy())
    expected = pack(torch.from_numpy(itq.transform(features.double().numpy())))
    features.requires_grad_()  # as those of a backbone that is being trained
    for model in (fit(features, seed=3), fit(None, features=features, seed=3, num_features=24)):
        assert torch.equal(model.encode(features, progress=False), expected)


def test_real_codes_have_the_length_of_their_signs(features):
    codes = fit(features).encode(features, packed=False, progress=False)
    assert codes.abs().mean().item() == pytest.approx(1, abs=1e-5)
    assert (codes * codes.sign() - 1).square().mean() < 0.5


def test_the_seed_fixes_the_codes(features):
    codes = [
        fit(features, seed=seed, max_samples=60).encode(features, progress=False)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


class Stream(IterableDataset):
    """Rows without places, which tell how many were read."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __iter__(self):
        for row in self.rows:
            self.read += 1
            yield row


def test_streams_give_their_first_samples(features):
    expected = fit(features[:90]).encode(features, progress=False)
    stream = Stream(features)
    for inputs in ((part for part in features.split(30)), stream):
        model = fit(inputs, max_samples=90, batch_size=30)
        assert torch.equal(model.encode(features, progress=False), expected)
    assert stream.read < len(features)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of scikit-learn's PCA
def test_images_that_are_all_alike_have_codes():
    alike = torch.ones(20, 24)
    assert len(fit(alike).encode(alike, progress=False).unique(dim=0)) == 1


def test_it_is_saved_and_trained_as_any_other(features, tmp_path):
    model = fit(features)
    model.save_pretrained(tmp_path)
    loaded = HashingModel.from_pretrained(tmp_path, backbone=nn.Identity())
    codes = model.encode(features, progress=False)
    assert torch.equal(loaded.encode(features, progress=False), codes)
    path = tmp_path / "codes.safetensors"
    assert torch.equal(loaded.encode(features, path=path, progress=False), codes)
    loaded.train()(features).square().sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    return sorted(tmp_path.iterdir())


def test_images_that_cannot_be_read_are_left_out(paths):
    unreadable = []
    options = {"img_size": 32, "progress": False, "on_unreadable": unreadable.append}
    model = HashingModel.from_itq("test_resnet", 8, paths, **options)
    assert [error.path for error in unreadable] == [str(paths[-1])]
    assert model.encode(paths[:-1], progress=False).unique(dim=0).shape[0] > 6
    assert not model.training


def test_too_few_images_are_named(paths):
    options = {"img_size": 32, "progress": False, "on_unreadable": lambda _: None}
    message = "at least 13 readable images and 12 features of each to learn 12 bits"
    with pytest.raises(ValueError, match=f"{message}.* got 12 and "):
        HashingModel.from_itq("test_resnet", 12, paths, **options)
    with pytest.raises(ValueError, match=f"{message}.* got 0 and "):
        HashingModel.from_itq("test_resnet", 12, paths[-1:], **options)


def test_wrong_arguments(features):
    for inputs, options in ((features, {"features": features}), (None, {})):
        with pytest.raises(ValueError, match="either `inputs` or `features`"):
            fit(inputs, **options)
    with pytest.raises(ValueError, match=r"25 features of each .* got 200 and 24"):
        fit(features, 25)
    with pytest.raises(ValueError, match="`max_samples` of at least 1, got 0"):
        fit(features, max_samples=0)
    with pytest.raises(ValueError, match="`linear` head"):
        fit(features, head="mlp")


def test_places_are_drawn_once_each_in_their_order_whatever_the_default_device():
    places = draw_places(50, 20, seed=1)
    assert places == sorted(set(places))
    assert len(places) == 20
    with torch.device("meta"):
        assert draw_places(50, 20, seed=1) == places
    assert draw_places(50, 20, seed=2) != places
    assert draw_places(20, 20, seed=1) == list(range(20))
