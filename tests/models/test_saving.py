"""Saving and loading: bit for bit, crash by crash, and what is refused."""

import json

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.testing import assert_close

from pml_hashing.models import HashingModel, saving

WEIGHTS = "model.safetensors"


def make_model(name="test_resnet", code_length=8, **options):
    model = HashingModel(name, code_length, img_size=32, **options)
    in_chans = options.get("in_chans", 3)
    model(torch.randn(4, in_chans, 32, 32))  # moves the running means
    return model


def make_backbone(width=5):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def assert_same(model, other):
    assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def rewrite(folder, change):
    """Change the config inside the file of weights, and leave the weights."""
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata[saving.METADATA_KEY])
    change(config)
    metadata[saving.METADATA_KEY] = json.dumps(config)
    safetensors.torch.save_file(weights, folder / WEIGHTS, metadata)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {"head": "mlp", "drop_rate": 0.2, "in_chans": 1}),
        ("test_vit", {"bound": "none", "code_length": 12}),
        ("mobilenetv3_small_050", {}),
    ],
)
def test_round_trip(tmp_path, name, options, device):
    model = make_model(name, **options).to(device)
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = HashingModel.from_pretrained(tmp_path / "new" / "folder", device=device)
    assert_same(model, loaded)
    assert loaded.code_length == model.code_length
    assert loaded.data_config == model.data_config
    assert not loaded.training
    images = torch.randn(3, options.get("in_chans", 3), 32, 32, device=device)
    assert torch.equal(loaded(images), model.eval()(images))
    assert str(loaded) == str(model)


def test_preprocessing_is_saved_as_it_was_changed(tmp_path):
    model = make_model()
    model.data_config["mean"] = (0.1, 0.2, 0.3)
    model.save_pretrained(tmp_path)
    assert HashingModel.from_pretrained(tmp_path).data_config == model.data_config


def test_dtype_is_saved(tmp_path):
    model = make_model().double()
    model.save_pretrained(tmp_path)
    assert_same(model, HashingModel.from_pretrained(tmp_path))


def test_weights_in_channels_last_layout(tmp_path):
    model = make_model().to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path)
    assert_same(model, HashingModel.from_pretrained(tmp_path))


def test_backbone_of_ones_own(tmp_path):
    model = HashingModel(make_backbone(), 8)
    model.save_pretrained(tmp_path)
    backbone = make_backbone()
    loaded = HashingModel.from_pretrained(tmp_path, backbone=backbone)
    assert loaded.trunk is backbone
    assert loaded.data_config is None
    assert_same(model, loaded)


def test_tied_weights(tmp_path):
    def make_tied():
        trunk = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        trunk[1].weight = trunk[0].weight
        return trunk

    model = HashingModel(make_tied(), 8, num_features=4)
    model.save_pretrained(tmp_path)
    loaded = HashingModel.from_pretrained(tmp_path, backbone=make_tied())
    assert loaded.trunk[1].weight is loaded.trunk[0].weight
    assert_same(model, loaded)


def test_config_for_people(tmp_path):
    make_model().save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", WEIGHTS]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["options"]["backbone"] == "test_resnet"
    assert config["options"]["code_length"] == 8
    assert (config["format"], config["version"]) == ("pml_hashing.HashingModel", 1)


def test_files_are_readable_for_whom_new_files_are(tmp_path):
    make_model().save_pretrained(tmp_path)
    (tmp_path / "new").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("written", [0, 1])
def test_interrupted_save_leaves_one_whole_save(tmp_path, monkeypatch, written):
    old, new = make_model(code_length=8), make_model("test_vit", code_length=16)
    old.save_pretrained(tmp_path)
    calls, write_atomically = [], saving.write_atomically

    def interrupted(path, write):
        calls.append(path)
        if len(calls) > written:
            raise KeyboardInterrupt
        write_atomically(path, write)

    monkeypatch.setattr(saving, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(tmp_path)
    assert_same([old, new][written], HashingModel.from_pretrained(tmp_path))


def test_missing(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=f"`folder` to hold .*at {folder}/{WEIGHTS}"):
            HashingModel.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 100_000])
def test_truncated(tmp_path, size):
    make_model().save_pretrained(tmp_path)
    path = tmp_path / WEIGHTS
    assert path.stat().st_size > size
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"Expected a whole safetensors file at {path}, got"):
        HashingModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"pml_hashing": "{"},
        {"pml_hashing": "[]"},
        {"pml_hashing": "3"},
        {"pml_hashing": '{"backbone": "test_vit"}'},
    ],
)
def test_foreign(tmp_path, metadata):
    safetensors.torch.save_file({"weight": torch.zeros(3)}, tmp_path / WEIGHTS, metadata)
    with pytest.raises(ValueError, match=r"a file of HashingModel.save_pretrained at .*got other"):
        HashingModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("version", 2), ("format", "pml_hashing.Other")])
def test_other_version_or_format(tmp_path, key, value):
    make_model().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda config: config.update({key: value}))
    with pytest.raises(ValueError, match=f"Expected a file of .*got one of .*'{key}': '?{value}"):
        HashingModel.from_pretrained(tmp_path)


def test_code_length_of_other_weights(tmp_path):
    make_model(code_length=8).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda config: config["options"].update(code_length=16))
    with pytest.raises(ValueError, match=r"weights of this model at .*size mismatch .*head.0"):
        HashingModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("backbone", [make_backbone(6), nn.Sequential(nn.Flatten())])
def test_other_backbone(tmp_path, backbone):
    HashingModel(make_backbone(5), 8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights of this model at .*(size mismatch|Unexpected)"):
        HashingModel.from_pretrained(tmp_path, backbone=backbone)


def test_backbone_is_needed_or_not(tmp_path):
    HashingModel(make_backbone(), 8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`backbone` to be the module .* got NoneType"):
        HashingModel.from_pretrained(tmp_path)
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`backbone` to be None, .* test_resnet, got Sequential"):
        HashingModel.from_pretrained(tmp_path, backbone=make_backbone())
