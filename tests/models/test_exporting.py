"""Exported models: the same codes without this library, and what the file says of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import run_script
from torch import nn
from torch.testing import assert_close

from pml_hashing.models import HashingModel, TwoNetworkHashingModel, export, exporting

EXAMPLE = Path(__file__).parents[2] / "examples" / "export_onnx.py"
FAMILIES = [("resnet18", 64), ("tf_efficientnet_lite0", 64), ("vit_tiny_patch16_224", 64)]
OTHERS = [("test_vit", 1), ("test_convnext", 3), ("test_mambaout", 3)]


def make_model(name="test_resnet", code_length=12, size=32, **options):
    torch.manual_seed(0)
    model = HashingModel(name, code_length, img_size=size, **options)
    model(torch.randn(4, options.get("in_chans", 3), size, size))  # moves the running means
    return model.eval()


def make_small(code_length=12, **options):
    """A model that is traced soon, on five features."""
    trunk = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6))
    model = HashingModel(trunk, code_length, num_features=6, **options)
    model(torch.randn(4, 5))  # moves the running means
    return model.eval()


FEATURES = torch.ones(2, 5)


class Onnx:
    """What onnxruntime makes of a file."""

    def __init__(self, path):
        onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
        self.session = onnxruntime.InferenceSession(path)
        self.about = self.session.get_modelmeta().custom_metadata_map

    def __call__(self, images):
        codes, packed = self.session.run(["codes", "packed_codes"], {"images": images.numpy()})
        return torch.from_numpy(codes), torch.from_numpy(packed)


class Program:
    """What `torch.export.load` makes of a file."""

    def __init__(self, path):
        extra = {exporting.DESCRIPTION: ""}
        self.module = torch.export.load(path, extra_files=extra).module()
        self.about = json.loads(extra[exporting.DESCRIPTION])

    def __call__(self, images):
        with torch.no_grad():
            return self.module(images)


@pytest.fixture(params=["onnx", "pt2"])
def write(request, tmp_path):
    """Return a function that exports a model, and returns what another program makes of it."""
    if request.param == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name, reason="the extra [onnx] is not installed")

    def write_and_read(model, **options):
        path = tmp_path / "new" / f"model.{request.param}"
        export(model, path, **options)
        assert [file.name for file in path.parent.iterdir()] == [path.name]  # all in one file
        return (Onnx if request.param == "onnx" else Program)(path)

    return write_and_read


def check_same(model, exported, *shape):
    for count in (1, 3, 10):  # any number of images
        images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
        codes, packed = exported(images)
        with torch.no_grad():
            assert_close(codes, model(images), rtol=1e-4, atol=1e-5)
        assert packed.dtype == torch.uint8
        assert torch.equal(packed, model.encode(images, progress=False))


@pytest.mark.parametrize(("name", "in_chans"), OTHERS)
def test_codes_are_those_of_the_model(write, name, in_chans):
    model = make_model(name, in_chans=in_chans)
    check_same(model, write(model), in_chans, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_codes_of_large_families_are_those_of_the_model(write, name, size):
    model = make_model(name, 48, size)
    check_same(model, write(model), 3, size, size)


@pytest.mark.parametrize(
    ("code_length", "options"),
    [
        (8, {"head": "mlp", "drop_rate": 0.5}),
        (1, {"bound": "scaled_tanh"}),
        (17, {"bound": "none", "batch_norm": True}),
    ],
)
def test_every_kind_of_hash_layer_of_a_model_that_stays_as_it_is(write, code_length, options):
    model = make_small(code_length, **options).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exported = write(model, example=FEATURES)
    assert all(part.training for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    check_same(model.eval(), exported, 5)


def test_two_networks(write):
    model = TwoNetworkHashingModel(make_small(), make_small(head="mlp")).eval()
    check_same(model, write(model, example=FEATURES), 5)


def test_zero_is_a_set_bit(write):
    model = HashingModel(nn.Identity(), 9, num_features=9, bound="none")
    with torch.no_grad():
        model.embedder.head[0].weight.copy_(torch.eye(9))
    values = torch.tensor([[0.0, -0.0, -1e-30, 1e-30, -1.0, 1.0, -2.0, 2.0, 0.0]])
    _, packed = write(model, example=torch.randn(2, 9))(values)
    assert packed.tolist() == [[0b10101011, 1]]
    assert torch.equal(packed, model.encode(values, progress=False))


def test_the_file_says_how_images_are_preprocessed(write):
    model = make_model()
    model.data_config["mean"] = (0.1, 0.2, 0.3)
    exported = write(model)
    check_same(model, exported, 3, 32, 32)
    assert exported.about["format"] == "pml_hashing.export"
    assert exported.about["code_length"] == "12"
    config = json.loads(exported.about["preprocessing"])
    assert config == json.loads(json.dumps(model.data_config))
    assert (config["input_size"], config["mean"]) == ([3, 32, 32], [0.1, 0.2, 0.3])
    # By what it says alone, with nothing of this library: an image of the right size.
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    values = (pixels / 255 - config["mean"]) / config["std"]
    images = torch.from_numpy(values.transpose(2, 0, 1)[None].astype(np.float32))
    model.data_config["crop_pct"] = 1.0
    _, packed = exported(images)
    assert torch.equal(packed, model.encode([Image.fromarray(pixels)], progress=False))


WITHOUT_THE_LIBRARY = """
import sys
for name in ("pml_hashing", "timm", "pytorch_metric_learning", *sys.modules):
    if name.partition(".")[0] in {"pml_hashing", "timm", "pytorch_metric_learning"}:
        sys.modules[name] = None
import torch
codes, packed = torch.export.load(sys.argv[1]).module()(torch.zeros(3, 3, 32, 32))
print(codes.numpy().shape, packed.numpy().shape)
"""


def test_a_program_runs_without_this_library(tmp_path):
    export(make_model(), tmp_path / "model.pt2")
    (tmp_path / "program.py").write_text(WITHOUT_THE_LIBRARY)
    done = run_script(tmp_path / "program.py", tmp_path / "model.pt2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "(3, 12) (3, 2)"


def test_from_another_device(write, accelerator):
    model = make_small().to(accelerator)
    exported = write(model, example=FEATURES.to(accelerator))
    assert next(model.parameters()).device.type == accelerator.type
    check_same(model.cpu(), exported, 5)


def test_an_interrupted_export_leaves_the_file_before(tmp_path, monkeypatch):
    path, model = tmp_path / "model.pt2", make_small()
    export(model, path, example=FEATURES)
    before = path.read_bytes()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.export, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(model, path, example=FEATURES)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["model", "model.pt", "model.onnx.zip"])
def test_another_ending(tmp_path, name):
    with pytest.raises(ValueError, match=rf"end in .onnx or .pt2, got '{name}'"):
        export(make_model(), tmp_path / name)


def test_what_cannot_be_exported(tmp_path):
    path = tmp_path / "model.pt2"
    with pytest.raises(TypeError, match=r"`model` to be a HashingModel .* got Linear"):
        export(nn.Linear(2, 3), path)
    with pytest.raises(ValueError, match=r"of float32, got bfloat16: export `model.float"):
        export(make_model().bfloat16(), path)
    with pytest.raises(ValueError, match=r"of float32, got float32, float64: export `model.float"):
        export(TwoNetworkHashingModel(make_small(), make_small().double()), path)
    with pytest.raises(ValueError, match="`example` of two samples"):
        export(HashingModel(nn.Identity(), 8, num_features=4), path)
    two = TwoNetworkHashingModel(make_model(), make_model(size=64))
    with pytest.raises(ValueError, match=r"same `data_config` of both networks, got {.*} and "):
        export(two, path)
    assert list(tmp_path.iterdir()) == []


class Stubborn(nn.Module):
    def forward(self, features):
        return features * features.sum().item() if features.sum() > 0 else features


def test_a_model_that_cannot_be_traced(tmp_path):
    model = HashingModel(Stubborn(), 8, num_features=4)
    with pytest.raises(ValueError, match=r"`model` that torch.export can trace .*got an error"):
        export(model, tmp_path / "model.pt2", example=torch.randn(2, 4))


def test_without_the_packages_it_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r'onnxscript: pip install "pml-hashing\[onnx\]"'):
        export(make_small(), tmp_path / "model.onnx", example=FEATURES)


def test_too_large_for_onnx(tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="the extra [onnx] is not installed")
    monkeypatch.setattr(exporting, "LARGEST_ONNX", 1000)
    with pytest.raises(ValueError, match="at most 1,000 bytes, as a file of ONNX holds"):
        export(make_small(code_length=64), tmp_path / "model.onnx", example=FEATURES)


def test_the_example(tmp_path):
    """What onnxruntime, numpy and Pillow make of photographs is what `encode` makes of them."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra [onnx] is not installed")
    model = make_model(code_length=16)
    model.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    shapes = {"wide.png": (40, 71, 3), "high.png": (90, 33, 3), "gray.png": (35, 35)}
    for name, shape in shapes.items():
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name)
    done = run_script(EXAMPLE, "model", "model.onnx", *shapes, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = dict(line.split(": ") for line in done.stdout.splitlines())
    assert printed.keys() == shapes.keys()
    wanted = model.encode([tmp_path / name for name in shapes], progress=False)
    assert list(printed.values()) == [codes.numpy().tobytes().hex() for codes in wanted]
