"""Saving and loading: bit for bit, crash by crash, and what is refused."""

import json

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.testing import assert_close

from pml_hashing._tensor_files import sign, summarize
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


def rewrite(folder, change, weights=None, **metadata):
    """Change the file and, as whoever wants to deceive would, the checksum: it is no signature."""
    found = safetensors.torch.load_file(folder / WEIGHTS)
    with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata() | metadata
    config = json.loads(metadata[saving.CONFIG_KEY])
    change(config)
    metadata[saving.CONFIG_KEY] = json.dumps(config)
    del metadata["sha256"]
    weights = found | (weights or {})
    metadata = sign(metadata, summarize(weights))
    safetensors.torch.save_file(weights, folder / WEIGHTS, metadata)


WHOLE = "Expected a whole file that HashingModel.save_pretrained wrote, got"


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
    assert (config["format"], config["format_version"]) == ("pml_hashing.HashingModel", "2")


def test_files_are_readable_for_whom_new_files_are(tmp_path):
    make_model().save_pretrained(tmp_path)
    (tmp_path / "new").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_interrupted_save_leaves_one_whole_save(tmp_path, monkeypatch):
    old, new = make_model(code_length=8), make_model("test_vit", code_length=16)
    old.save_pretrained(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_tensors", interrupted)
        with pytest.raises(KeyboardInterrupt):
            new.save_pretrained(tmp_path)
    assert_same(old, HashingModel.from_pretrained(tmp_path))
    monkeypatch.setattr(saving, "write_atomically", interrupted)  # of the copy for people
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(tmp_path)
    assert_same(new, HashingModel.from_pretrained(tmp_path))


def test_missing(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=f"`folder` to hold .*at `{folder}/{WEIGHTS}`"):
            HashingModel.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_truncated(tmp_path, size):
    make_model().save_pretrained(tmp_path)
    path = tmp_path / WEIGHTS
    assert path.stat().st_size > size
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"{WHOLE} {path}: ValueError: it is no whole safe"):
        HashingModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, saving.FORMAT | {"format": "x"}])
def test_foreign(tmp_path, metadata):
    safetensors.torch.save_file({"weight": torch.zeros(3)}, tmp_path / WEIGHTS, metadata)
    with pytest.raises(
        ValueError, match=f"{WHOLE} {tmp_path}/{WEIGHTS}: ValueError: its metadata say"
    ):
        HashingModel.from_pretrained(tmp_path)


def test_another_version(tmp_path):
    make_model().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda _: None, format_version="1")
    with pytest.raises(ValueError, match=r"'format_version': '1'}, not .*'format_version': '2'"):
        HashingModel.from_pretrained(tmp_path)


def test_any_changed_weight_is_noticed(tmp_path):
    HashingModel(make_backbone(), 2).save_pretrained(tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / WEIGHTS).write_bytes(changed)
        with pytest.raises(ValueError, match=WHOLE):
            HashingModel.from_pretrained(tmp_path, backbone=make_backbone())


@pytest.mark.parametrize("config", ["{", "[]", "3", "{}", '{"options": {}}', "[" * 100_000])
def test_config_that_is_none(tmp_path, config):
    metadata = saving.FORMAT | {saving.CONFIG_KEY: config}
    weights = {"weight": torch.zeros(3)}
    metadata = sign(metadata, summarize(weights))
    safetensors.torch.save_file(weights, tmp_path / WEIGHTS, metadata)
    with pytest.raises(ValueError, match=WHOLE):
        HashingModel.from_pretrained(tmp_path)


HUGE = 10**9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": True}, "its options are .*'pretrained'"),
        ({"checkpoint_path": "weights"}, "its options are .*'checkpoint_path'"),
        ({"code_length": "8"}, "its option `code_length` is '8'"),
        ({"in_chans": True}, "its option `in_chans` is True"),
        ({"code_length": 16}, r"got others .*embedder.head.0.* is of shape \(8.*, not \(16"),
        ({"code_length": 2**16}, "got others .*embedder.head.0"),
        ({"code_length": HUGE}, "got others .*`code_length` of at most 65,536, got 1,000,000,000"),
        ({"code_length": HUGE**4}, "got others"),
        ({"num_features": HUGE}, "got others .*embedder.head.0.weight is of shape"),
        ({"in_chans": HUGE}, "its option `in_chans` is above 16384"),
        ({"in_chans": 2**14}, "got others .*conv1.0.weight is of shape"),
        ({"head": "mlp"}, "got others .*embedder.head.3.*is missing"),
        ({"backbone": "vit_giant_patch14_224"}, "got others .*(missing|unexpected)"),
        ({"backbone": "vit_giant", "img_size": HUGE}, "got others .*name of timm.list_models"),
        ({"backbone": "hf-hub:someone/model"}, "got others .*name of timm.list_models"),
    ],
)
def test_options_of_another_model(tmp_path, options, message):
    make_model().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda config: config["options"].update(options))
    with pytest.raises(ValueError, match=message):
        HashingModel.from_pretrained(tmp_path)


def test_a_backbone_that_would_compute_huge_buffers(tmp_path):
    name = "swin_tiny_patch4_window7_224"
    model = HashingModel(name, 8, num_features=768)
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda config: config["options"].update(img_size=2**14))
    with pytest.raises(
        ValueError, match=r"its backbone would compute \d,\d{3},.* bytes of buffers"
    ):
        HashingModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("data_config", "message"),
    [
        ({"input_size": [3, HUGE, HUGE]}, "`input_size` is .* not three numbers from 1 to 16384"),
        ({"input_size": [3, 32]}, "`input_size` is .* not three numbers"),
        ({"crop_pct": 1e-9}, "`crop_pct` is 1e-09, not from"),
        ({"crop_pct": "1"}, "not supported between"),
        ({"mean": [0.5, float("nan"), 0.5]}, "`mean` is .*nan"),
        ({"std": None}, "not iterable"),
        ({"interpolation": "none"}, "no transform can be made"),
        ({"more": 1}, "no transform can be made .*more"),
    ],
)
def test_preprocessing_of_no_model(tmp_path, data_config, message):
    make_model().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda config: config["data_config"].update(data_config))
    with pytest.raises(ValueError, match=f"{WHOLE} .*{message}"):
        HashingModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", ["load", "nn", "int64", "", 3])
def test_dtype_of_no_model(tmp_path, dtype):
    make_model().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda config: config.update(dtype=dtype))
    with pytest.raises(ValueError, match=f"{WHOLE} .*its dtype is"):
        HashingModel.from_pretrained(tmp_path)


def test_weights_of_another_kind(tmp_path):
    make_model().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda _: None, {"embedder.head.0.bias": torch.zeros(8).int()})
    with pytest.raises(ValueError, match=r"embedder.head.0.bias is torch.int32, not torch.float32"):
        HashingModel.from_pretrained(tmp_path)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    old, model = make_model(), make_model()
    old.save_pretrained(tmp_path)
    model.data_config["crop_pct"] = 7
    with pytest.raises(ValueError, match="`crop_pct` is 7"):
        model.save_pretrained(tmp_path)
    assert_same(old, HashingModel.from_pretrained(tmp_path))


@pytest.mark.parametrize("backbone", [make_backbone(6), nn.Sequential(nn.Flatten())])
def test_other_backbone(tmp_path, backbone):
    HashingModel(make_backbone(5), 8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights of this model in .*(is of shape|unexpected)"):
        HashingModel.from_pretrained(tmp_path, backbone=backbone)


def test_backbone_is_needed_or_not(tmp_path):
    HashingModel(make_backbone(), 8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`backbone` to be the module .* got NoneType"):
        HashingModel.from_pretrained(tmp_path)
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`backbone` to be None, .* test_resnet, got Sequential"):
        HashingModel.from_pretrained(tmp_path, backbone=make_backbone())


def test_batch_norm_of_the_bits_is_saved(tmp_path):
    model = HashingModel(torch.nn.Identity(), 12, num_features=6, batch_norm=True)
    model(torch.randn(9, 6))
    model.save_pretrained(tmp_path)
    loaded = HashingModel.from_pretrained(tmp_path, backbone=torch.nn.Identity())
    features = torch.randn(3, 6)
    assert torch.equal(loaded(features), model.eval()(features))
