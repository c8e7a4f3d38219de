"""A training that is killed anywhere goes on as if it had not been; faults of data are named."""

import importlib
import multiprocessing
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import CONTEXT
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.data import RandomSampler, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from pml_hashing.datasets import IndexedDataset
from pml_hashing.trainers._loading import SeededDataset

sys.path.insert(0, str(Path(__file__).parent))  # where a process of the fork server finds it too
script = importlib.import_module("killed_training")


def run(folder, *arguments, seconds=None):
    """Train in a process; kill it after some time if asked. Return whether it came to the end."""
    folder.mkdir(exist_ok=True)
    started = CONTEXT.Event()
    process = CONTEXT.Process(target=script.main, args=(folder, started, *arguments))
    process.start()
    if seconds is not None:
        started.wait(60)
        time.sleep(seconds)
        process.kill()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    assert not (folder / "lost").exists(), "a finished round was lost"
    return process.exitcode == 0


def equal(state, other):
    if isinstance(state, torch.Tensor):
        return torch.equal(state, other)
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(equal(state[k], other[k]) for k in state)
    if isinstance(state, list | tuple):
        return len(state) == len(other) and all(map(equal, state, other))
    return state == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder)
    return torch.load(folder / "result.pt", weights_only=True)


def check_same(folder, whole):
    assert equal(torch.load(folder / "result.pt", weights_only=True), whole)
    assert not list(folder.glob(".checkpoint-*"))  # nothing is left of what was not finished
    assert len(list(folder.glob("checkpoint-*"))) == 2


def test_results_that_differ_are_seen(whole):
    other = [dict(kind) for kind in whole]
    other[0]["trunk"] = {name: value + 1e-7 for name, value in whole[0]["trunk"].items()}
    assert not equal(other, whole)


def test_killed_at_every_place_it_ends_alike(tmp_path, whole):
    kills = [("save", 1), ("step", 5), ("rename", 2), ("discrete", 1), ("sync", 3), ("remove", 1)]
    kills += [("schedule", 9)]
    assert not any(run(tmp_path / "killed", *kill) for kill in kills)
    assert run(tmp_path / "killed")
    check_same(tmp_path / "killed", whole)


def test_killed_at_random_moments_it_ends_alike_with_workers(tmp_path, whole):
    for seconds in (0.02, 0.1):
        run(tmp_path / "killed", seconds=seconds)
    assert run(tmp_path / "killed", None, 0, 2)
    check_same(tmp_path / "killed", whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_ten_times_it_ends_alike(tmp_path, whole, seed):
    generator, kills = random.Random(seed), 0
    folder = tmp_path / "killed"
    while kills < 10:
        if generator.random() < 0.5:  # workers of a killed process live on for some seconds
            place = generator.choice(sorted(script.PLACES))
            ended = run(folder, place, generator.randint(1, 4), generator.randint(0, 1))
        else:
            ended = run(folder, None, 0, 0, seconds=generator.uniform(0, 0.3))
        if ended:  # before it was killed: once more, from the start
            check_same(folder, whole)
            folder = folder.with_name(f"killed_{kills}_{generator.random()}")
        else:
            kills += 1
    while not run(folder):
        pass
    check_same(folder, whole)


class Interrupted(Exception):  # noqa: N818
    pass


def stop_at(epoch, iteration):
    def hook(trainer):
        if (trainer.epoch, trainer.iteration) == (epoch, iteration):
            raise Interrupted

    return hook


class Shuffler:
    """A sampler whose order depends on all it gave before, with a state."""

    def __init__(self):
        self.order = torch.arange(40)

    def __len__(self):
        return len(self.order)

    def __iter__(self):
        self.order = self.order[torch.randperm(40)].clone()
        return iter(self.order.tolist())

    def state_dict(self):
        return {"order": self.order}

    def load_state_dict(self, state):
        self.order = state["order"]


class Stateless(RandomSampler):
    """A sampler that is told the number of the pass, as those of distributed training are."""

    def __init__(self):
        super().__init__(range(40))
        self.generator = torch.Generator()

    def set_epoch(self, epoch):
        self.generator.manual_seed(epoch)


SAMPLERS = {
    "none": lambda: None,
    "shuffles_what_it_holds": lambda: MPerClassSampler(torch.arange(40) % 4, 2, 8, 40),
    "with_a_state": Shuffler,
    "with_an_epoch": Stateless,
}


@pytest.fixture(scope="module", params=SAMPLERS)
def sampled(request):
    """What makes a sampler, and the result of a training that nothing interrupted."""
    make_sampler = SAMPLERS[request.param]
    trainer = script.make_trainer(None, sampler=make_sampler())
    trainer.train(num_epochs=3)
    return make_sampler, script.result_of(trainer)


@pytest.mark.parametrize("at", [(1, 2), (2, 6), (3, 9)])
def test_samplers_go_on_where_they_were(tmp_path, sampled, at):
    make_sampler, whole = sampled
    hook = stop_at(*at)
    with pytest.raises(Interrupted):
        script.make_trainer(
            tmp_path, 0, 1, sampler=make_sampler(), end_of_iteration_hook=hook
        ).train(num_epochs=3)
    resumed = script.make_trainer(tmp_path, 0, None, sampler=make_sampler())
    resumed.train(resumed.resume(), 3)
    assert equal(script.result_of(resumed), whole)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_steps": 2},
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"iterations_per_epoch": 7},
        {"channels_last": True},
    ],
    ids=str,
)
def test_options_go_on_alike(tmp_path, options):
    whole = script.make_trainer(None, **options)
    whole.train(num_epochs=2)
    with pytest.raises(Interrupted):
        script.make_trainer(tmp_path, 0, 1, end_of_iteration_hook=stop_at(2, 4), **options).train(
            num_epochs=2
        )
    resumed = script.make_trainer(tmp_path, 0, 3, **options)
    assert resumed.resume() == 2
    resumed.train(2, 2)
    assert equal(script.result_of(resumed), script.result_of(whole))
    assert resumed.code_update == whole.code_update


def test_resuming_loads_no_sample_again(tmp_path):
    with pytest.raises(Interrupted):
        script.make_trainer(tmp_path, 0, 1, end_of_iteration_hook=stop_at(1, 7)).train()
    trainer, loaded = script.make_trainer(tmp_path), []
    original = trainer.dataset.__class__.__getitem__
    trainer.dataset.__class__ = type(
        "Counted",
        (trainer.dataset.__class__,),
        {"__getitem__": lambda self, index: loaded.append(index) or original(self, index)},
    )
    assert trainer.resume() == 1
    trainer.train()
    assert len(loaded) == 3 * 8  # ten batches a round, of which seven were trained on


def test_a_hook_that_was_not_finished_is_called_again(tmp_path):
    def interrupt(trainer):
        raise Interrupted

    with pytest.raises(Interrupted):
        script.make_trainer(tmp_path, end_of_epoch_hook=interrupt).train(num_epochs=2)
    called, steps = [], []
    trainer = script.make_trainer(
        tmp_path,
        end_of_epoch_hook=lambda trainer: called.append(trainer.epoch),
        end_of_iteration_hook=lambda trainer: steps.append(trainer.epoch),
    )
    trainer.train(trainer.resume(), 2)
    assert called == [1, 2]
    assert steps == [2] * 10


def test_nothing_to_resume_starts_at_the_first_round(tmp_path):
    assert script.make_trainer(tmp_path).resume() == 1
    assert script.make_trainer(None).resume(tmp_path) == 1
    with pytest.raises(ValueError, match="a `folder` or a `checkpoint_folder`, got neither"):
        script.make_trainer(None).resume()


def test_another_folder_is_resumed_from(tmp_path):
    script.make_trainer(tmp_path / "old").train(num_epochs=1)
    trainer = script.make_trainer(tmp_path / "new")
    trainer.train(trainer.resume(tmp_path / "old"), 2)
    whole = script.make_trainer(None)
    whole.train(num_epochs=2)
    assert equal(script.result_of(trainer), script.result_of(whole))
    assert len(list((tmp_path / "old").iterdir())) == 2
    assert script.make_trainer(tmp_path / "new").resume(str(tmp_path / "new")) == 2


def test_a_folder_of_another_training_is_not_trained_into(tmp_path):
    script.make_trainer(tmp_path).train()
    with pytest.raises(ValueError, match="or `resume` before `train`, got"):
        script.make_trainer(tmp_path).train()


def test_checkpoints_of_another_training_are_refused(tmp_path):
    with pytest.raises(Interrupted):
        script.make_trainer(tmp_path, 0, 1, end_of_iteration_hook=stop_at(1, 3)).train()
    with pytest.raises(ValueError, match=r"stands within a round: .*'seed': 0.* got .*'seed': 1"):
        script.make_trainer(tmp_path, seed=1).resume()
    other = script.make_trainer(tmp_path)
    other.models["database_trunk"] = torch.nn.Identity()
    with pytest.raises(ValueError, match="with the `models` trunk, embedder, code_bank, database"):
        other.resume()
    other = script.make_trainer(tmp_path)
    other.models["trunk"] = torch.nn.Linear(6, 15)
    with pytest.raises(ValueError, match=r'of this trainer, got another models\["trunk"\]'):
        other.resume()


def test_a_full_disk_leaves_the_training_and_the_checkpoint(tmp_path, monkeypatch):
    calls, sync = [], script.os.fsync

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(script.os, "fsync", fail)
    trainer = script.make_trainer(tmp_path, 0, 1)
    with pytest.raises(OSError, match=r"write a checkpoint .* No space left"):
        trainer.train(num_epochs=2)
    monkeypatch.undo()
    resumed = script.make_trainer(tmp_path, 0, 1)
    resumed.train(resumed.resume(), 2)
    whole = script.make_trainer(None)
    whole.train(num_epochs=2)
    assert equal(script.result_of(resumed), script.result_of(whole))
    with pytest.raises(ValueError, match=r"with a new `sampler` to resume, .* from 1 times"):
        trainer.resume()


def test_a_trainer_resumes_itself(tmp_path):
    trainer = script.make_trainer(tmp_path, 0, 2, sampler=None, end_of_iteration_hook=stop_at(1, 4))
    with pytest.raises(Interrupted):
        trainer.train(num_epochs=2)
    trainer.end_of_iteration_hook = lambda _: None
    trainer.train(trainer.resume(), 2)
    whole = script.make_trainer(None, sampler=None)
    whole.train(num_epochs=2)
    assert equal(script.result_of(trainer), script.result_of(whole))


class Faulty(script.Augmented):
    """A data set with a sample that does not load, is not finite, or kills who loads it."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def __getitem__(self, index):
        if index == 17:
            self.fault()
        return super().__getitem__(index)


def fail():
    raise OSError("cannot identify image file")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_does_not_load_is_named(workers):
    trainer = script.make_trainer(None, workers)
    trainer.engine.dataset.dataset = Faulty(fail)
    with pytest.raises(RuntimeError, match="Expected sample 17 to load, got OSError: cannot id"):
        trainer.train()


def test_a_worker_that_dies_is_named_with_its_sample():
    trainer = script.make_trainer(None, 1)
    trainer.engine.dataset.dataset = Faulty(script.die)
    with pytest.raises(RuntimeError, match=r"one dead while they were at sample 17: "):
        trainer.train()
    assert not multiprocessing.active_children()


def test_no_worker_is_left_after_training():
    trainer, alive = script.make_trainer(None, 2), []
    trainer.end_of_epoch_hook = lambda _: alive.append(len(multiprocessing.active_children()))
    trainer.train(num_epochs=2)
    assert alive == [2, 2]
    assert not multiprocessing.active_children()


def test_an_image_that_does_not_decode_is_named_by_its_path(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "whole.png").touch()
    images = Subset(ImageFolder(tmp_path, transform=pil_to_tensor), [0])
    samples = SeededDataset(IndexedDataset(images), 0)
    with pytest.raises(RuntimeError, match=r"sample 0 \(.*cat.whole\.png\) to load, got Unident"):
        samples.__getitems__([(0, 0)])


def test_a_loss_that_is_not_finite_leaves_a_checkpoint(tmp_path):
    trainer = script.make_trainer(tmp_path, 0, 1)
    trainer.dataset.images[5] = float("nan")
    with pytest.raises(
        FloatingPointError, match=r"finite loss, got nan in round 1, .*\b5\b"
    ) as caught:
        trainer.train()
    step = trainer.iteration
    assert str(trainer.checkpoints.newest) in str(caught.value)
    mended = script.make_trainer(tmp_path)
    assert mended.resume() == 1
    assert mended.iteration == step - 1
    assert all(p.isfinite().all() for p in mended.models["trunk"].parameters())
    assert mended.models["code_bank"].query_codes.isfinite().all()
    mended.train()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    def spoil(trainer):
        if trainer.iteration == 3:
            next(trainer.models["trunk"].parameters()).data[0, 0] = float("inf")

    trainer = script.make_trainer(tmp_path, 0, 1, end_of_iteration_hook=spoil)
    with pytest.raises(FloatingPointError, match="finite weights, got others in round 1, step 3"):
        trainer.train()
    assert [path.stem[-1] for path in trainer.checkpoints.paths()] == ["2", "3"]
