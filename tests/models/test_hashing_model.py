"""HashingModel over families of backbones, and over modules of one's own."""

import copy
import io

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pml_hashing.datasets import load_image
from pml_hashing.models import HashingModel, TwoNetworkHashingModel

FAMILIES = [
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "mobilenetv3_small_050",  # features wider than its `num_features`
    "swin_tiny_patch4_window7_224",
]


class Spy(nn.Module):
    """A backbone that remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 1)
        self.norm = nn.BatchNorm2d(5).eval()  # frozen, in a module in train mode
        self.shapes = []

    def forward(self, images):
        self.shapes.append((tuple(images.shape), self.training, torch.is_grad_enabled()))
        return self.norm(self.conv(images)).mean((2, 3))


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name, device):
    model = HashingModel(name, 12, img_size=32).to(device)
    images = torch.randn(4, 3, 32, 32, device=device)
    codes = model(images)
    assert codes.shape == (4, model.code_length) == (4, 12)
    assert (codes.abs() < 1).all()
    assert codes.abs().mean() < 0.8
    codes.square().sum().backward()
    for part in (model.trunk, model.embedder):
        gradients = [p.grad for p in part.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients)
        assert any((g != 0).any() for g in gradients)
    model.eval()
    assert torch.equal(model(images), model.embedder(model.trunk(images)))


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # PML's progress bar
def test_pml_trains_the_model_through_its_parts():
    model = HashingModel("test_resnet", 8, img_size=32)
    before = copy.deepcopy(model)
    models = {"trunk": model.trunk, "embedder": model.embedder}
    trainer = MetricLossOnly(
        models=models,
        optimizers={
            f"{key}_optimizer": torch.optim.SGD(part.parameters(), lr=0.1)
            for key, part in models.items()
        },
        batch_size=8,
        loss_funcs={"metric_loss": ContrastiveLoss()},
        dataset=TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 2),
        data_device="cpu",
        dataloader_num_workers=0,
    )
    trainer.train(num_epochs=1)
    for part, old in [(model.trunk, before.trunk), (model.embedder, before.embedder)]:
        pairs = zip(part.parameters(), old.parameters(), strict=True)
        assert any(not torch.equal(p, q) for p, q in pairs)


def test_options_reach_timm():
    model = HashingModel("test_resnet", 8, in_chans=1, drop_rate=0.3, img_size=32, head="mlp")
    assert model.trunk.drop_rate == model.embedder.head[2].p == 0.3
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 8)
    assert model.data_config["input_size"] == (1, 32, 32)


def test_size_of_images_reaches_the_backbones_that_fix_it():
    model = HashingModel("test_vit", 8, img_size=48)
    assert model.trunk.patch_embed.img_size == (48, 48)
    assert HashingModel("test_vit", 8).data_config["input_size"] == (3, 160, 160)


def test_bound_none():
    model = HashingModel(nn.Identity(), 3, bound="none", num_features=2)
    codes = model(torch.full((1, 2), 1e3))
    assert codes.abs().max() > 1


def test_probe_runs_in_eval_mode_and_leaves_no_trace():
    trunk = Spy()
    before = copy.deepcopy(trunk.state_dict())
    model = HashingModel(trunk, 8, in_chans=2, img_size=16)
    assert trunk.shapes == [((1, 2, 16, 16), False, False)]
    assert model.embedder.in_features == 5
    assert trunk.training
    assert not trunk.norm.training
    assert_close(trunk.state_dict(), before, rtol=0, atol=0)


def test_probe_takes_images_of_224_for_a_module_and_is_left_out_if_the_width_is_known():
    trunk = Spy()
    HashingModel(trunk, 8, in_chans=2)
    assert trunk.shapes[0][0] == (1, 2, 224, 224)
    HashingModel(trunk, 8, num_features=5)
    assert len(trunk.shapes) == 1


def test_parameters_of_a_lazy_backbone_exist_before_the_optimizer():
    model = HashingModel(nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), 8, img_size=4)
    assert model.trunk[1].weight.shape == (5, 48)


@pytest.mark.parametrize("trunk", [nn.Identity(), nn.Sequential(nn.Linear(10, 10), nn.ReLU())])
def test_features_instead_of_images(trunk):
    model = HashingModel(trunk, 8, num_features=10)
    assert model(torch.randn(4, 10)).shape == (4, 8)
    assert all(isinstance(p, nn.Parameter) and p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (nn.Conv2d(3, 5, 1), r"\(1, 3, 8, 8\) to features of shape .* got \(1, 5, 8, 8\)"),
        (nn.Identity(), r"got \(1, 3, 8, 8\).*`num_features` if it takes no images"),
        (nn.Flatten(0), r"got \(192,\)"),
        (nn.Unflatten(0, (1, 1)), r"got \(1, 1, 3, 8, 8\)"),
        (nn.Linear(10, 10), r"got an error \(RuntimeError: .*`num_features` if it takes no"),
        (nn.MultiheadAttention(8, 1), r"got an error \(TypeError: "),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), "got tuple"),
    ],
)
def test_backbone_that_gives_no_features(trunk, message):
    with pytest.raises(ValueError, match=message):
        HashingModel(trunk, 8, img_size=8)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnt18", "'resnet18'"),
        ("vit_tiny_patch16_244", "'vit_tiny_patch16_224'"),
        ("resnet18.no_such_tag", "'resnet18'"),
        ("?", "none"),
    ],
)
def test_unknown_name_gets_the_nearest(name, nearest):
    with pytest.raises(
        ValueError, match=rf"got '{name}'. The nearest are .*{nearest}".replace("?", r"\?")
    ):
        HashingModel(name, 8)


def test_name_may_have_the_tag_of_its_weights():
    model = HashingModel("test_vit.r160_in1k", 8, img_size=32)
    assert model.trunk.pretrained_cfg["tag"] == "r160_in1k"


@pytest.mark.parametrize("options", [{"pretrained": True}, {"checkpoint_path": "weights.pth"}])
def test_a_module_has_its_weights_already(options):
    with pytest.raises(ValueError, match=r"`checkpoint_path` only for a name .* got Identity"):
        HashingModel(nn.Identity(), 8, num_features=4, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": 18}, TypeError, "`backbone` to be a name .* got int"),
        ({"in_chans": 0}, ValueError, "`in_chans` of at least 1, got 0"),
        ({"img_size": 0}, ValueError, "`img_size` of at least 1, got 0"),
        ({"code_length": 0}, ValueError, "`code_length` of at least 1, got 0"),
        ({"img_size": 50}, ValueError, r"\(1, 3, 50, 50\) .* got an error .* divisible by patch"),
    ],
)
def test_wrong_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        HashingModel(**{"backbone": "test_vit", "code_length": 8} | options)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_transform_gives_what_the_model_takes(mode):
    image = Image.new("RGB", (40, 30), (255, 0, 51)).convert(mode)
    model = HashingModel("test_resnet", 8, img_size=32)
    pixels = model.transform()(image)
    color = torch.tensor(image.convert("RGB").getpixel((0, 0))) / 255
    mean, std = (torch.tensor(model.data_config[key]) for key in ("mean", "std"))
    assert_close(pixels, ((color - mean) / std)[:, None, None].expand(3, 32, 32))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_transform_of_a_model_for_gray_images(mode):
    image = Image.new("L", (40, 30), 51).convert(mode)
    model = HashingModel("test_resnet", 8, img_size=32, in_chans=1)
    mean, std = (sum(model.trunk.pretrained_cfg[key]) / 3 for key in ("mean", "std"))
    pixels = model.transform()(image)
    assert_close(pixels, torch.full((1, 32, 32), (0.2 - mean) / std))


def photograph(kind):
    """Return a PIL image whose pixels are not what people see."""
    pixels = np.random.default_rng(0).integers(256, size=(40, 30), dtype=np.uint16)
    if kind == "16 bits":
        return Image.fromarray(pixels * 257)
    image = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    if kind == "transparent":
        image.putalpha(Image.fromarray((pixels % 7 * 40).astype(np.uint8)))
        return image
    exif = image.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("kind", ["16 bits", "transparent", "turned"])
def test_transform_sees_an_image_as_encode_does(kind, in_chans):
    model = HashingModel("test_resnet", 32, img_size=32, in_chans=in_chans)
    image = photograph(kind)
    seen = model.transform()(load_image(image))
    assert seen.std() > 0.1
    assert_close(model.transform()(image), seen, rtol=0, atol=0)
    real = [model.encode(x, packed=False, progress=False) for x in ([image], seen[None])]
    assert_close(*real, rtol=0, atol=0)


@pytest.mark.parametrize("value", [Image.new("RGB", (40, 30)), np.zeros((40, 30, 3)), None])
def test_an_image_is_given_to_the_transform_itself(value):
    model = HashingModel("test_resnet", 8, img_size=32)
    two = TwoNetworkHashingModel(model, copy.deepcopy(model))
    for each in (model, two):
        with pytest.raises(
            TypeError, match=r"`is_training` of True or False, got .*called with an"
        ):
            each.transform(value)


def test_transform_for_more_channels():
    model = HashingModel("test_convnext", 8, img_size=32, in_chans=5)
    mean = model.trunk.pretrained_cfg["mean"]
    assert model.data_config["mean"] == (*mean, *mean[:2])
    assert model.transform()(torch.rand(5, 40, 40)).shape == (5, 32, 32)


def test_transform_for_training_is_random():
    transform = HashingModel("test_resnet", 8, img_size=32).transform(is_training=True)
    image = Image.effect_noise((40, 40), 100)
    assert transform(image).shape == (3, 32, 32)
    assert not torch.equal(transform(image), transform(image))


def test_augmentation_is_that_of_timm_but_for_what_is_given():
    model = HashingModel("test_resnet", 8, img_size=32)
    image = Image.fromarray(np.arange(3 * 40 * 40, dtype=np.uint8).reshape(40, 40, 3))
    gentle = {"scale": (1, 1), "ratio": (1, 1), "hflip": 0, "color_jitter": None}
    whole, again = (model.transform(is_training=True, **gentle)(image) for _ in range(2))
    assert_close(whole, again)  # nothing is random any more
    mirrored = model.transform(is_training=True, **gentle | {"hflip": 1})(image)
    assert_close(mirrored, whole.flip(-1))
    with pytest.raises(TypeError, match="shift"):
        model.transform(is_training=True, shift=3)
    with pytest.raises(ValueError, match="Expected no `hflip` without `is_training`, got nothing"):
        model.transform(hflip=1)
    two = TwoNetworkHashingModel(model, HashingModel("test_resnet", 8, img_size=32))
    assert_close(two.transform(is_training=True, **gentle)(image), whole)


def test_transform_of_a_module():
    model = HashingModel(Spy(), 8, in_chans=2)
    with pytest.raises(ValueError, match=r"a backbone of timm, .* got Spy: set `data_config`"):
        model.transform()
    model.data_config = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert model.transform()(Image.new("RGB", (20, 20))).shape == (3, 16, 16)
    model = HashingModel(timm.create_model("test_vit", num_classes=0, img_size=32), 8, img_size=32)
    assert model.transform()(Image.new("RGB", (40, 40))).shape == (3, 32, 32)
