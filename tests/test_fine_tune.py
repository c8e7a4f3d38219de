"""examples/fine_tune.py on a small folder of generated images."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pml_hashing import Engine, HashingModel

pytest.importorskip("tensorboard", reason="needs the extra examples")
SCRIPT = Path(__file__).parents[1] / "examples" / "fine_tune.py"
OPTIONS = ["--backbone", "test_resnet", "--image-size", "32", "--batch-size", "16"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for color in range(3):
        (folder / f"class {color}").mkdir()
        for number in range(30):
            pixels = rng.integers(0, 100, size=(40, 40, 3))
            pixels[..., color] += 120
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / f"class {color}" / f"{number}.png")
    return folder


@pytest.fixture
def example():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def run(example, monkeypatch, capsys):
    """Return a function that runs the script in this process, and returns what it prints."""

    def run_main(data, output, *arguments):
        given = [str(SCRIPT), str(data), "--output", str(output), *OPTIONS, *arguments]
        monkeypatch.setattr(sys, "argv", given)
        example["main"]()
        return capsys.readouterr().out

    return run_main


def test_it_learns_is_watched_and_goes_on_where_it_was(run, photos, tmp_path):
    printed = run(photos, tmp_path / "whole", "--epochs", "3")
    scores = [float(score) for score in re.findall(r"validation mAP (\d\.\d+)", printed)]
    assert len(scores) == 3
    assert scores[-1] > 0.9
    assert list((tmp_path / "whole" / "tensorboard").iterdir())
    again = run(photos, tmp_path / "whole", "--epochs", "3")  # nothing is left to train
    assert "epoch 1" not in again
    model = HashingModel.from_pretrained(tmp_path / "whole" / "model")
    assert model.code_length == 32


def test_a_run_that_was_stopped_ends_with_the_same_model(example, run, photos, tmp_path):
    run(photos, tmp_path / "whole", "--epochs", "2")

    def stop(watch, engine):
        raise KeyboardInterrupt

    watch = example["Watch"]
    goes_on, watch.epoch = watch.epoch, stop
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "stopped", "--epochs", "2")
    watch.epoch = goes_on
    run(photos, tmp_path / "stopped", "--epochs", "2")
    states = [
        HashingModel.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("whole", "stopped")
    ]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize(
    "changed", [("--seed", "1"), ("--lr", "0.1"), ("--epochs", "2"), ("--validation", "0.3")]
)
def test_another_training_does_not_go_on_in_its_place(run, photos, tmp_path, changed):
    run(photos, tmp_path, "--epochs", "1")
    with pytest.raises(SystemExit, match=f"the same {changed[0].strip('-')} as of the training"):
        run(photos, tmp_path, "--epochs", "1", *changed)
    run(photos, tmp_path, "--epochs", "1", "--workers", "1")  # which is the same training


def test_other_images_do_not_go_on_in_its_place(run, photos, tmp_path):
    run(photos, tmp_path / "output", "--epochs", "1")
    shutil.copytree(photos, tmp_path / "photos")
    for name in ("0", "1"):  # as many, but other labels
        (tmp_path / "photos" / f"class {name}").rename(tmp_path / "photos" / f"sort {name}")
    with pytest.raises(SystemExit, match="the same data as of the training"):
        run(tmp_path / "photos", tmp_path / "output", "--epochs", "1")


def test_images_to_train_on_may_be_smaller(example, run, photos, tmp_path, monkeypatch):
    sizes, make_engine = [], example["make_engine"]

    def remember(model, loss_func, part, args):
        sizes.append((part[0][0].shape, model.transform()(Image.new("RGB", (40, 40))).shape))
        return make_engine(model, loss_func, part, args)

    monkeypatch.setitem(example["run"].__globals__, "make_engine", remember)
    assert "epoch 1" in run(photos, tmp_path, "--epochs", "1", "--train-size", "24")
    assert sizes == [((3, 24, 24), (3, 32, 32))]


def test_images_too_few_to_be_scored_are_told_before_the_training(run, photos, tmp_path):
    with pytest.raises(SystemExit, match=r"share a label.* got 1 with different ones"):
        run(photos, tmp_path, "--validation", "0.01")
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_table_whose_ending_is_in_capitals_is_a_table(run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    paths = [path.relative_to(photos) for path in sorted(photos.rglob("*.png"))]
    rows = [f"{path},{path.parent.name}" for path in paths]
    table = tmp_path / "photos" / "LABELS.CSV"
    table.write_text("path,label\n" + "\n".join(rows))
    assert "epoch 1" in run(table, tmp_path / "output", "--epochs", "1")


def test_validation_images_are_not_trained_on(example, photos, tmp_path, monkeypatch):
    seen = {"training": set()}
    space = example["run"].__globals__
    subset = space["Subset"]

    def remember_subset(dataset, indices):
        seen["training"] |= set(indices)
        return subset(dataset, indices)

    def remember(self, model, images, validation, log):
        seen["validation"] = validation
        raise RuntimeError("enough")

    monkeypatch.setitem(space, "Subset", remember_subset)
    monkeypatch.setattr(example["Watch"], "__init__", remember)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(photos), *OPTIONS, "--validation", "0.2"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"fine_tune.py: error: enough"):
        example["main"]()
    assert len(seen["validation"]) == 18
    assert len(seen["training"]) == 72
    assert not set(seen["validation"].tolist()) & seen["training"]


def test_rates_grow_then_fall_to_0(example):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 2.0)
    schedule = example["make_schedule"](optimizer, steps=50, warm_up=10)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [2 * (0.01 + 0.99 * step / 10) for step in range(10)]
    expected += [1 + np.cos(np.pi * step / 40) for step in range(40)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_training_of_a_few_steps_has_a_schedule(example, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 2.0)
    schedule = example["make_schedule"](optimizer, steps=steps, warm_up=steps)
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    assert 0 <= optimizer.param_groups[0]["lr"] <= 2


def test_wrong_arguments_end_with_one_line(run, tmp_path):
    with pytest.raises(SystemExit, match=r"fine_tune.py: error: .*nowhere"):
        run(tmp_path / "nowhere", tmp_path / "output")


@pytest.mark.parametrize("has_weights", [False, True])
def test_the_hash_layer_is_trained_first_and_only_once(
    example, photos, tmp_path, monkeypatch, has_weights
):
    engines, space = [], example["run"].__globals__

    class Remembered(Engine):
        def fit(self, *args, **options):
            engines.append(self)
            super().fit(*args, **options)

    arguments = [str(SCRIPT), str(photos), *OPTIONS, "--epochs", "1", "--output", str(tmp_path)]
    if has_weights:
        weights = HashingModel("test_resnet", 8).trunk.state_dict()
        torch.save(weights, tmp_path / "weights.pt")
        arguments += ["--checkpoint", str(tmp_path / "weights.pt")]
    monkeypatch.setitem(space, "Engine", Remembered)
    monkeypatch.setattr(sys, "argv", arguments)
    for _ in range(2):  # the second time, the latest checkpoint is of a training that is finished
        example["main"]()
    assert [engine.round for engine in engines] == [12, 1, 1]
    layer, whole, _ = engines
    (alone,), (model,) = (engine.parts.networks.values() for engine in (layer, whole))
    assert alone[1] is model.embedder
    assert [engine.freeze_batch_norm for engine in engines] == [False, has_weights, has_weights]
