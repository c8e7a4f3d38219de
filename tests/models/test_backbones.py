"""Weights from a file: in every format that is told, and in none other."""

import pathlib
import zipfile

import pytest
import safetensors.torch
import timm
import torch
from torch.testing import assert_close

from pml_hashing.models import HashingModel, backbones, hub


def save(weights, path):
    if path.suffix == ".safetensors":
        weights = {name: weight.contiguous() for name, weight in weights.items()}
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


def load(path, name="test_resnet", **options):
    return HashingModel(name, 8, checkpoint_path=path, **options).trunk


@pytest.fixture(params=["weights.safetensors", "weights.pth"])
def path(tmp_path, request):
    return tmp_path / request.param


@pytest.mark.parametrize("num_classes", [0, 7, 1000])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "efficientvit_m0"])
def test_weights_are_those_of_the_file(name, num_classes, path):
    weights = timm.create_model(name, num_classes=num_classes).state_dict()
    trunk = load(save(weights, path), name)
    loaded = trunk.state_dict()
    assert_close(loaded, {key: weights[key] for key in loaded}, rtol=0, atol=0)
    assert "state_dict" not in trunk.pretrained_cfg


def test_half_precision(path):
    weights = timm.create_model("test_resnet").half().state_dict()
    loaded = load(save(weights, path)).state_dict()
    assert_close(loaded["conv1.0.weight"], weights["conv1.0.weight"].float(), rtol=0, atol=0)


def test_weights_of_wrapped_models(path):
    weights = timm.create_model("test_resnet", num_classes=0).state_dict()
    trunk = load(save({f"module.{key}": weight for key, weight in weights.items()}, path))
    assert_close(trunk.state_dict(), weights, rtol=0, atol=0)


def test_weights_are_adapted_to_the_images(path):
    weights = timm.create_model("test_vit").state_dict()
    trunk = load(save(weights, path), "test_vit", in_chans=1, img_size=48)
    kernel = weights["patch_embed.proj.weight"].sum(1, keepdim=True)
    assert_close(trunk.state_dict()["patch_embed.proj.weight"], kernel)
    assert trunk.state_dict()["pos_embed"].shape[1] == 9 + 1
    assert_close(trunk.state_dict()["norm.weight"], weights["norm.weight"], rtol=0, atol=0)


def test_missing_file(path):
    for missing in (path, path.parent):
        with pytest.raises(FileNotFoundError, match=f"`checkpoint_path` to be a file .*{missing}"):
            load(missing)


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_truncated_file(path, size):
    save(timm.create_model("test_resnet").state_dict(), path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"whole file of weights of 'test_resnet', .*got {path}"):
        load(path)


@pytest.mark.parametrize("other", ["test_vit", "test_resnet_deeper", "classifier_only"])
def test_weights_of_another_model(path, other):
    if other == "test_resnet_deeper":
        weights = timm.create_model("test_resnet").state_dict()
        weights["layer4.7.conv1.weight"] = weights["layer4.0.conv1.weight"].clone()
    else:
        weights = timm.create_model("test_vit").state_dict()
    if other == "classifier_only":
        weights = {"fc.weight": torch.zeros(10, 96)}
    message = "no weights of the trunk" if other == "classifier_only" else "in loading state_dict"
    with pytest.raises(ValueError, match=f"weights of 'test_resnet', .*got {path}.*{message}") as e:
        load(save(weights, path))
    assert len(str(e.value)) < 1000


def test_a_weight_is_missing(path):
    weights = timm.create_model("test_resnet").state_dict()
    del weights["layer4.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"Missing key.*layer4.0.conv1.weight"):
        load(save(weights, path))


@pytest.mark.parametrize("content", [[1, 2], {"a": "b"}, pathlib.PurePosixPath("code")])
def test_a_file_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"whole file of weights .*got {tmp_path}") as raised:
        load(tmp_path / "weights.pth")
    assert "has no attribute" not in str(raised.value)


def rezip(path, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


def test_a_changed_weight_is_noticed(tmp_path):
    path = save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)  # torch does not see it
    with pytest.raises(ValueError, match=f"got {path} .*does not have its checksum|Bad CRC"):
        load(path)


def test_compressed_archives_are_refused(tmp_path):
    path = save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    rezip(path, lambda _, content: content)
    assert load(path)
    rezip(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=f"got {path} .*its archive is compressed"):
        load(path)


def test_the_format_of_old_is_refused(tmp_path):
    weights, path = timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=f"got {path} .*not a zip file"):
        load(path)


def test_tensors_larger_than_their_file(tmp_path):
    weights = timm.create_model("test_resnet").state_dict()
    weights["conv1.0.weight"] = torch.zeros(1, 1, 1, 1).expand(2**20, 2**20, 3, 3)
    path = save(weights, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"a tensor claims 39,582,418,599,936 bytes"):
        load(path)


class Executed:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_nothing_is_executed(tmp_path):
    torch.save({"conv1.0.weight": Executed()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"whole file of weights .*UnpicklingError"):
        load(tmp_path / "weights.pth")


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "state_dict", "model"])
def test_weights_inside_a_training_checkpoint(tmp_path, key):
    weights = timm.create_model("test_resnet", num_classes=0).state_dict()
    path = save({"epoch": 3, key: weights}, tmp_path / "weights.pth")
    assert_close(load(path).state_dict(), weights, rtol=0, atol=0)


def test_weights_that_cannot_be_had(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no hub")

    monkeypatch.setattr(hub, "does_answer", lambda _: True)
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(OSError, match=r"weights of 'test_vit' .*no hub\).*`checkpoint_path`"):
        HashingModel("test_vit", 8, pretrained=True)


def test_a_backbone_without_weights():
    with pytest.raises(ValueError, match="that timm has weights of, got 'test_vit4'"):
        HashingModel("test_vit4", 8, pretrained=True)


ADDRESSES = ["http://127.0.0.1:9", "http://no.host.invalid", "nonsense"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_hub_that_does_not_answer_is_not_asked_for_a_minute(monkeypatch, address):
    def fail(*_, **__):
        raise AssertionError("asked")

    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(timm, "create_model", fail)
    message = rf"'test_vit'.*\({address} did not answer within 5 seconds\).*\(--checkpoint\)"
    with pytest.raises(OSError, match=message):
        HashingModel("test_vit", 8, pretrained=True)


def test_the_hub_is_not_asked_where_that_is_forbidden(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "does_answer", lambda _: pytest.fail("asked"))
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(OSError, match=r"it was not asked, by the variable HF_HUB_OFFLINE"):
        HashingModel("test_vit", 8, pretrained=True)


@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_the_local_cache_need_no_hub(tmp_path, monkeypatch, filename):
    weights = timm.create_model("test_resnet").state_dict()
    path = save(weights, tmp_path / filename)
    asked = []

    def find(*asked_for, revision):
        asked.append((*asked_for, revision))
        return str(path) if asked_for[1] == filename else None

    monkeypatch.setenv("HF_ENDPOINT", ADDRESSES[0])
    monkeypatch.setattr(backbones, "try_to_load_from_cache", find)
    trunk = HashingModel("test_resnet", 8, pretrained=True).trunk
    assert asked[0] == ("timm/test_resnet.r160_in1k", "model.safetensors", None)
    assert_close(trunk.state_dict(), {k: weights[k] for k in trunk.state_dict()}, rtol=0, atol=0)
    assert not trunk.pretrained_cfg.get("file")
    gray = HashingModel("test_resnet", 8, pretrained=True, in_chans=1).trunk.state_dict()
    kernel = weights["conv1.0.weight"].sum(1, keepdim=True)
    assert_close(gray["conv1.0.weight"], kernel)


def test_weights_that_torch_hub_has_fetched(tmp_path, monkeypatch):
    name = "legacy_seresnet18.in1k"
    url = timm.get_pretrained_cfg(name).url
    weights = timm.create_model(name).state_dict()
    (tmp_path / "checkpoints").mkdir()
    save(weights, tmp_path / "checkpoints" / url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(hub, "does_answer", lambda address: address != url)
    trunk = HashingModel(name, 8, pretrained=True).trunk.state_dict()
    assert_close(trunk, {key: weights[key] for key in trunk}, rtol=0, atol=0)
