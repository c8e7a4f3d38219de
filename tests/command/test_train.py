"""`pml-hashing train` and `evaluate`: a model that tells classes apart, scored by its labels."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from command.conftest import MODEL
from PIL import Image
from torch import nn
from torch.testing import assert_close

from pml_hashing import Collection, HashingModel
from pml_hashing.command.training import (
    HEAD_EPOCHS,
    LOSSES,
    Setup,
    make_loss,
    make_model,
    read_images,
    start_or_resume,
    to_images,
)
from pml_hashing.evaluation import mean_average_precision

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30)}


def save_color(path, color, seed):
    noise = np.random.default_rng(seed).normal(COLORS[color], 40, size=(32, 32, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def colors(here):
    for seed in range(40):
        color = ("red", "green")[seed % 2]
        folder = "colors" if seed < 28 else "held_out"
        save_color(here / folder / color / f"{seed:02d}.png", color, seed)
    return here


def scores(run, *options):
    return json.loads(run("evaluate", "--json", *options).stdout)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_is_that_of_its_name(loss):
    setup = Setup("test_resnet", None, 32, 8, loss, False, 16, 0.001, 0)
    loss_func = make_loss(setup, torch.arange(3), 3)
    assert type(loss_func).__name__.lower() == f"{loss}loss"
    assert loss_func(torch.randn(3, 8), torch.arange(3), **places_for(loss_func)).isfinite()


def places_for(loss_func):
    has_bank = getattr(loss_func, "code_bank", None) is not None
    return {"sample_indices": torch.arange(3)} if has_bank else {}


@pytest.mark.parametrize("loss", ["dsah", "hyp2", "dpsh"])  # of a data set, classes, pairs
def test_from_a_folder_to_its_score(run, colors, weights, loss):
    (colors / "colors/red/bad.png").write_bytes(b"no image")
    (colors / "colors/notes.txt").touch()
    (colors / "colors/empty").mkdir()
    training = [
        "--checkpoint",
        weights,
        *MODEL,
        "--loss",
        loss,
        "--lr",
        0.01,
        "--epochs",
        60,
        "--allow-empty",
    ]
    result = run("train", "colors", *training)
    assert "colors.model: 8 bits, 3 classes" in result.stdout
    bad = re.escape(str(colors / "colors/red/bad.png"))
    assert re.search(rf"^left out: {bad} \(Unid.*\)$", result.stderr, flags=re.MULTILINE)
    assert "not used: 1 .txt\n" in result.stderr
    assert "it/s" not in result.stderr  # no bars, as this is no terminal
    (following,) = re.findall(r'Next: "pml-hashing (.*)"', result.stdout)
    assert following == "index colors --model colors.model --labels folders"
    run(*following.split())
    found = scores(run, "--queries", "held_out")
    assert (found["queries"], found["database"], found["without_labels"]) == (12, 28, 0)
    assert found["scores"]["mean_average_precision"] > 0.9


@pytest.mark.parametrize("how", [(), ("--fine-tune", "--batch-size", 10)])
def test_a_training_goes_on(run, colors, weights, how):
    training = ["colors", "--checkpoint", weights, *MODEL, *how]
    run("train", *training, "--epochs", 3, "--output", "whole.model")
    part = run("train", *training, "--epochs", 2, "--output", "part.model")
    assert part.stderr.count("epoch ") == 2
    rest = run("train", *training, "--epochs", 3, "--output", "part.model")
    assert "epoch 1" not in rest.stderr
    models = [HashingModel.from_pretrained(f"{name}.model") for name in ("whole", "part")]
    for mine, other in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(mine, other)
    start = HashingModel("test_resnet", 8, img_size=32, checkpoint_path=weights).trunk.state_dict()
    same = [torch.equal(start[name], w) for name, w in models[0].trunk.state_dict().items()]
    assert all(same) != bool(how)


@pytest.mark.parametrize("fine_tune", [False, True])
def test_class_codes_are_assigned_by_features(colors, weights, fine_tune):
    setup = Setup("test_resnet", weights, 32, 8, "dsah", fine_tune, 16, 0.001, 0)
    images = read_images(colors / "colors")
    model = make_model(setup, "cpu")
    engine = start_or_resume(setup, model, images, colors / "checkpoints", 0, False)
    loss_func = engine.parts.loss_funcs["metric_loss"]
    assert loss_func.wants_features != fine_tune  # for which the hash layer is trained already
    engine.fit(1)
    assert not loss_func.wants_features


def test_images_to_train_on_may_be_smaller(run, colors, weights):
    setup = Setup("test_resnet", weights, 32, 8, "csq", True, 16, 0.001, 0, train_size=24)
    model = make_model(setup, "cpu")
    images = read_images(colors / "colors")
    engine = start_or_resume(setup, model, images, colors / "checkpoints", 0, False)
    assert engine.dataset[0][0][0].shape == (3, 24, 24)
    assert model.data_config["input_size"] == (3, 32, 32)
    training = ["train", "colors", "--checkpoint", weights, *MODEL, "--train-size", 24]
    assert "--train-size needs --fine-tune" in run(*training, code=2).stderr
    run(*training, "--fine-tune", "--epochs", 1)
    other = run(*training[:-1], 28, "--fine-tune", "--epochs", 2, code=1)
    assert "Expected the same train_size" in other.stderr


def test_a_size_to_train_on_that_the_backbone_does_not_take(run, colors):
    torch.save(HashingModel("test_vit", 8, img_size=32).trunk.state_dict(), "vit.pt")
    training = ["--backbone", "test_vit", "--checkpoint", "vit.pt", "--img-size", 32]
    result = run("train", "colors", *training, "--fine-tune", "--train-size", 24, code=1)
    assert "an image of shape (1, 3, 24, 24)" in result.stderr
    assert not (colors / "colors.model").exists()


def test_fine_tuning_starts_with_a_trained_hash_layer(colors, weights):
    models, images = [], read_images(colors / "colors")
    for fine_tune in (False, True):
        setup = Setup("test_resnet", weights, 32, 8, "dsah", fine_tune, 16, 0.001, 0)
        models.append(make_model(setup, "cpu"))
        folder = colors / f"checkpoints {fine_tune}"
        engine = start_or_resume(setup, models[-1], images, folder, 0, False)
        if not fine_tune:
            engine.fit(HEAD_EPOCHS)
    alone, start = ({n: t.clone() for n, t in m.state_dict().items()} for m in models)
    assert all(torch.equal(alone[name], start[name]) for name in alone)
    engine.fit(1)
    end = models[1].state_dict()
    changed = {name for name, tensor in start.items() if not torch.equal(tensor, end[name])}
    assert any(name.startswith("trunk") for name in changed)
    assert not any("running" in name for name in changed)  # of batch normalization
    assert any("running" in name for name in start)
    first = next(module for module in models[1].trunk.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.is_contiguous(memory_format=torch.channels_last)  # which is faster


def test_fine_tuning_keeps_colours_and_most_of_an_image(tmp_path, weights):
    brightness = np.linspace(0, 255, 64).astype(np.uint8)
    (tmp_path / "photos/ramp").mkdir(parents=True)
    Image.fromarray(np.tile(brightness, (64, 1))).save(tmp_path / "photos/ramp/ramp.png")
    setup = Setup("test_resnet", weights, 32, 8, "dsah", True, 16, 0.001, 0)
    model = make_model(setup, "cpu")
    dataset, _ = to_images(model, read_images(tmp_path / "photos"))
    mean, std = (torch.tensor(model.data_config[name])[:, None, None] for name in ("mean", "std"))
    for _ in range(20):
        red, green, blue = dataset[0][0] * std + mean
        assert_close(red, green, atol=1e-5, rtol=0)
        assert_close(red, blue, atol=1e-5, rtol=0)
        assert red.max() - red.min() > 0.7  # a crop of 0.7 of the area is 0.79 wide


def test_another_training_is_refused(run, colors, weights):
    training = ["colors", "--checkpoint", weights, *MODEL, "--epochs", 1]
    run("train", *training)
    result = run("train", *training, "--bits", 16, "--loss", "csq", code=1)
    assert "Expected the same bits, loss as of the training in colors.model" in result.stderr
    save_color(colors / "colors/red/new.png", "red", 99)
    assert "Expected the same images as" in run("train", *training, code=1).stderr
    other = run("train", *training, "--output", "photos", code=1)
    assert "Expected --output to be new or a training's, got photos." in other.stderr


def test_what_is_no_training_of_ours_is_told(here):
    setup = Setup("test_resnet", None, 32, 8, "dsah", False, 16, 0.001, 0)
    save_color(here / "colors/red/1.png", "red", 1)
    images = read_images(here / "colors")
    setup.write(here / "out", images)
    setup.check(here / "out", images)
    (path,) = (here / "out").iterdir()
    for content in (b"", b"[]", b"3", b"{", b"\xff", b"[" * 10**5):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"Expected .*{path.name} as a training wrote it, got"
        ):
            setup.check(here / "out", images)


def test_a_failed_start_leaves_nothing(run, colors, weights):
    run("train", "colors", "--checkpoint", "no.pt", *MODEL, code=1)
    run("train", "colors", "--checkpoint", weights, *MODEL, "--epochs", 1)


def test_a_table_of_several_labels(run, colors, weights):
    lines = [f"colors/{('red', 'green')[n % 2]}/{n:02d}.png,{'ab'[n % 2]}|c" for n in range(27)]
    (colors / "table.csv").write_text("\n".join(["path,label", *lines]))
    result = run("train", "table.csv", "--checkpoint", weights, *MODEL, "--lr", 0.01)
    (following,) = re.findall(r'Next: "pml-hashing (.*)"', result.stdout)
    assert following == "index colors --model table.model --labels table.csv"
    run(*following.split())
    found = scores(run)
    assert (found["queries"], found["without_labels"]) == (27, 1)
    assert found["scores"]["mean_average_precision"] == 1  # all share c


def test_batches_of_one(run, colors, weights):
    training = ["colors", "--checkpoint", weights, *MODEL, "--epochs", 1, "--batch-size", 1]
    run("train", *training, "--output", "alone.model")
    run("train", *training, "--fine-tune")  # its batch normalization needs no batch


def test_data_that_cannot_be_learned(run, colors):
    shutil.rmtree("photos/shoe")
    flat = run("train", "photos/hat", code=1)
    assert "Expected a sub-folder for each class in photos/hat" in flat.stderr
    (colors / "colors/blue").mkdir()
    assert "got none in blue: --allow-empty allows it" in run("train", "colors", code=1).stderr
    assert "nowhere" in run("train", "nowhere", code=1).stderr
    assert "no.csv" in run("train", "no.csv", code=1).stderr
    assert "--loss" in run("train", "colors", "--loss", "best", code=2).stderr


def test_scores_are_those_of_the_library(run, indexed):
    photos = Collection.open("photos.codes")
    codes = photos.codes()
    labels = torch.tensor([name.startswith("shoe/") for name in photos.names]).long()
    expected = mean_average_precision(codes, labels, codes, labels, query_in_database=True)
    found = scores(run, "--top-k", 5, "--top-k", 10, "--radius", 1)
    assert found["scores"]["mean_average_precision"] == pytest.approx(expected, abs=1e-12)
    assert {"precision_at_5", "precision_at_10", "recall_within_radius_1"} <= found["scores"].keys()
    assert scores(run, "--limit", 13)["scores"]["mean_average_precision"] == pytest.approx(expected)
    drawn = scores(run, "--limit", 4, "--seed", 3)
    assert (drawn["queries"], drawn["database"]) == (4, 13)
    assert drawn == scores(run, "--limit", 4, "--seed", 3)
    text = run("evaluate").stdout
    assert f"mean_average_precision                  {expected:.4f}" in text


def test_nothing_to_score_by(run, indexed):
    assert "--query-labels" in run("evaluate", "--queries", "photos/hat", code=1).stderr
    assert "nowhere" in run("evaluate", "--queries", "nowhere", code=1).stderr
    run("index", "--labels", "keep")
    (indexed / "none.csv").write_text("path,label\n")
    run("index", "--labels", "none.csv")
    assert '"pml-hashing index --labels folders"' in run("evaluate", code=1).stderr
