"""Two networks as one model: what it encodes, that it trains, and that it is saved as a whole."""

import copy
import json

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from pml_hashing import AsymmetricTrainer, DSAHLoss
from pml_hashing._tensor_files import sign, summarize
from pml_hashing.codes import pack
from pml_hashing.models import HashingModel, SumOfCodes, TwoNetworkHashingModel, saving
from pml_hashing.testers import TwoNetworkHammingTester

WEIGHTS = "model.safetensors"
NAMES = ("first", "second", "sum")


def make_model(code_length=12, width=4):
    networks = (HashingModel(nn.Identity(), code_length, num_features=width) for _ in range(2))
    return TwoNetworkHashingModel(*networks)


def make_timm():
    networks = [HashingModel(name, 8, img_size=32) for name in ("test_resnet", "test_vit")]
    for network in networks:
        network(torch.randn(4, 3, 32, 32))  # moves the running means
    return TwoNetworkHashingModel(*networks)


def same(model, other):
    state, others = model.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(
        torch.equal(w, others[n]) for n, w in state.items()
    )


@pytest.mark.parametrize("network", NAMES)
def test_each_network_and_their_sum_encode(network, device, tmp_path):
    model, inputs = make_model().to(device).train(), torch.randn(19, 4)
    outputs = [part(inputs.to(device)) for part in (model.first, model.second)]
    expected = pack([*outputs, sum(outputs)][NAMES.index(network)]).cpu()
    options = {"network": network, "batch_size": 4, "progress": False}
    assert torch.equal(model.encode(inputs, **options), expected)
    path = tmp_path / "codes"
    assert torch.equal(model.encode(TensorDataset(inputs), path=path, **options), expected)
    assert torch.equal(model.encode(inputs, path=path, **options), expected)
    assert all(part.training for part in model.modules())
    for other in set(NAMES) - {network}:
        with pytest.raises(ValueError, match=r"Expected no file at .*, got one for"):
            model.encode(inputs, path=path, network=other, progress=False)


def test_the_model_is_the_sum():
    model, inputs = make_model(), torch.randn(3, 4)
    assert torch.equal(model(inputs), model.first(inputs) + model.second(inputs))
    assert isinstance(model.network("sum"), SumOfCodes)
    assert (model.network("first"), model.network("second")) == (model.first, model.second)


def test_its_parts_train_and_are_tested():
    torch.manual_seed(0)
    model, labels = make_model(8, 6), torch.arange(24) % 3
    inputs = torch.randn(24, 6) + 4 * nn.functional.one_hot(labels, 6)
    splits = dict.fromkeys(("query", "database"), TensorDataset(inputs, labels))
    before = copy.deepcopy(model)
    optimizers = {
        f"{name}_optimizer": torch.optim.Adam(part.parameters(), 0.02)
        for name, part in model.models.items()
        if list(part.parameters())
    }
    AsymmetricTrainer(
        model.models, optimizers, 12, {"metric_loss": DSAHLoss(3, 8)}, splits["database"],
        dataloader_num_workers=0, data_device=torch.device("cpu"),
    ).train(num_epochs=16)  # fmt: skip
    assert not same(model.first, before.first)
    assert not same(model.second, before.second)
    tester = TwoNetworkHammingTester(
        model.database_trunk, model.database_embedder, dataloader_num_workers=0, data_device="cpu"
    )
    scores = tester.test(
        splits, 1, model.trunk, model.embedder, splits_to_eval=[("query", ["database"])]
    )
    assert scores["query"]["hamming_mean_average_precision_level0"] > 0.9


def test_round_trip(tmp_path, device):
    model = make_timm().to(device)
    model.second.data_config["mean"] = (0.1, 0.2, 0.3)
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = TwoNetworkHashingModel.from_pretrained(tmp_path / "new" / "folder", device=device)
    assert same(model, loaded)
    assert not loaded.training
    assert loaded.first.data_config == model.first.data_config
    assert loaded.second.data_config == model.second.data_config
    images = torch.randn(3, 3, 32, 32, device=device)
    assert torch.equal(loaded(images), model.eval()(images))
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert config["format"] == "pml_hashing.TwoNetworkHashingModel"
    assert config["first"]["options"]["backbone"] == "test_resnet"


def test_images_are_encoded_where_both_networks_preprocess_them_alike():
    networks = [HashingModel("test_resnet", 8, img_size=32) for _ in range(2)]
    model, images = TwoNetworkHashingModel(*networks), [Image.new("RGB", (40, 40))]
    samples = torch.stack([model.transform()(image) for image in images])
    codes = model.encode(images, progress=False)
    assert torch.equal(codes, model.encode(samples, progress=False))
    model.second.data_config["mean"] = (0.1, 0.2, 0.3)
    with pytest.raises(ValueError, match="Expected a model with a `data_config`"):
        model.encode(images, progress=False)
    with pytest.raises(ValueError, match="two networks with the same `data_config`"):
        model.transform()


def test_backbones_of_ones_own(tmp_path):
    model = TwoNetworkHashingModel(
        *(HashingModel(nn.Linear(4, width), 8, num_features=width) for width in (3, 5))
    )
    model.save_pretrained(tmp_path)
    given = {"backbone": nn.Linear(4, 3), "database_backbone": nn.Linear(4, 5)}
    loaded = TwoNetworkHashingModel.from_pretrained(tmp_path, **given)
    assert same(model, loaded)
    assert loaded.trunk is given["backbone"]
    for name in given:
        missing = {other: module for other, module in given.items() if other != name}
        with pytest.raises(ValueError, match=f"`{name}` to be the module .* got NoneType"):
            TwoNetworkHashingModel.from_pretrained(tmp_path, **missing)
    swapped = dict(zip(given, reversed(given.values()), strict=True))
    with pytest.raises(ValueError, match="Expected weights of this model in"):
        TwoNetworkHashingModel.from_pretrained(tmp_path, **swapped)


def test_interrupted_save_leaves_one_whole_save(tmp_path, monkeypatch):
    old, new = make_timm(), make_timm()
    old.save_pretrained(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    for function, expected in (("write_tensors", old), ("write_atomically", new)):
        with monkeypatch.context() as patch:
            patch.setattr(saving, function, interrupted)
            with pytest.raises(KeyboardInterrupt):
                new.save_pretrained(tmp_path)
        assert same(expected, TwoNetworkHashingModel.from_pretrained(tmp_path))


def test_files_of_one_and_of_two_networks_are_told_apart(tmp_path):
    make_model().first.save_pretrained(tmp_path / "one")
    make_model().save_pretrained(tmp_path / "two")
    for kind, folder in ((TwoNetworkHashingModel, "one"), (HashingModel, "two")):
        message = f"a whole file that {kind.__name__}.save_pretrained wrote, .* its metadata say"
        with pytest.raises(ValueError, match=message):
            kind.from_pretrained(tmp_path / folder)
    with pytest.raises(FileNotFoundError, match="`folder` to hold a saved model"):
        TwoNetworkHashingModel.from_pretrained(tmp_path / "none")


def rewrite(folder, change, weights=None):
    """Change the file, and the checksum with it."""
    found = safetensors.torch.load_file(folder / WEIGHTS) | (weights or {})
    with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata[saving.CONFIG_KEY])
    change(config)
    metadata[saving.CONFIG_KEY] = json.dumps(config)
    del metadata["sha256"]
    safetensors.torch.save_file(found, folder / WEIGHTS, sign(metadata, summarize(found)))


@pytest.mark.parametrize(
    ("change", "weights", "message"),
    [
        (lambda c: c.pop("second"), None, r"its networks are \['first'\]"),
        (lambda c: c.update(third=c["first"]), None, "its networks are"),
        (lambda c: c["second"]["options"].update(code_length="8"), None, "`code_length` is '8'"),
        (lambda c: c["second"]["options"].update(code_length=9), None, r"lengths, \[8, 9\]"),
        (lambda c: c["second"].update(dtype="load"), None, "its dtype is 'load'"),
        (lambda c: c["second"]["options"].update(num_features=10**9), None, "got others .*shape"),
        (lambda c: c["second"]["data_config"].update(crop_pct=7), None, "`crop_pct` is 7"),
        (lambda c: None, {"third.weight": torch.ones(1)}, r"got others \(third.weight\)"),
        (lambda c: None, {"first.more": torch.ones(1)}, "more is unexpected"),
    ],
)
def test_files_of_no_two_networks(tmp_path, change, weights, message):
    make_timm().save_pretrained(tmp_path)
    rewrite(tmp_path, change, weights)
    with pytest.raises(ValueError, match=message):
        TwoNetworkHashingModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_truncated(tmp_path, size):
    make_timm().save_pretrained(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"file that TwoNetworkHashingModel\.save_pretrained"):
        TwoNetworkHashingModel.from_pretrained(tmp_path)


def test_preprocessing_is_that_of_both():
    first, second = (HashingModel("test_vit", 8, img_size=32) for _ in range(2))
    model = TwoNetworkHashingModel(first, second)
    assert str(model.transform()) == str(first.transform())
    second.data_config["mean"] = (0.1, 0.2, 0.3)
    with pytest.raises(ValueError, match="two networks with the same `data_config`"):
        model.transform()


def test_bad_arguments_are_named():
    first, second = (HashingModel(nn.Identity(), k, num_features=4) for k in (8, 9))
    with pytest.raises(TypeError, match="`second` to be a HashingModel, got Identity"):
        TwoNetworkHashingModel(first, nn.Identity())
    with pytest.raises(ValueError, match="two models, got one twice"):
        TwoNetworkHashingModel(first, first)
    with pytest.raises(ValueError, match="same code length, got 8 and 9"):
        TwoNetworkHashingModel(first, second)
    with pytest.raises(ValueError, match=r"`network` to be one of 'first', .* got 'third'"):
        make_model().encode(torch.randn(2, 4), network="third")
