"""Two processes train as one process with the doubled batch does; what they share, and errors."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from processes import run_together
from torch import distributed
from torch.testing import assert_close

from pml_hashing.distributed import gather_rows

SCRIPT = Path(__file__).with_name("distributed_training.py")


def load_script():
    spec = importlib.util.spec_from_file_location("distributed_training", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("ranks")
    done = run_together(SCRIPT, [(folder, rank) for rank in "01"], errors=True)
    assert [of.returncode for of in done] == [0, 0], "\n".join(of.stderr for of in done)
    return [torch.load(folder / f"{rank}.pt") for rank in "01"]


@pytest.fixture(scope="module")
def alone():
    """The results of one process."""
    return script.run()


def leaves(state, path=()):
    """Yield every value in nested dicts with its path; a text as its bytes."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, list(state.encode()) if isinstance(state, str) else state


@pytest.mark.parametrize("name", script.TRAININGS)
def test_same_result_as_one_process(name, of_ranks, alone):
    first, second = (dict(leaves(results[name])) for results in of_ranks)
    expected = dict(leaves(alone[name]))
    assert first.keys() == second.keys() == expected.keys()
    for path, value in expected.items():
        assert_close(first[path], second[path], rtol=0, atol=0, equal_nan=True)  # bit for bit
        exact = path[-1] in {"binary_codes", "map", "started"}
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
        assert_close(first[path], value, **tolerance, equal_nan=True)


def test_codes_and_weights_have_moved(alone):
    for name, trained in alone.items():
        if name in script.TRAININGS:
            assert 0 < trained["map"] <= 1
    assert alone["dsah"]["metric_loss"]["assignment.is_made"]
    codes = alone["dsah"]["code_bank"]["binary_codes"]
    assert len(codes.unique(dim=0)) > 1
    start = script.make_trainer(script.ProxyAnchorLoss(3, 8)).models["trunk"].state_dict()
    names = ("all_frozen", "unfrozen", "proxies")
    frozen, *moved = (alone[name]["trunk"]["0.weight"] for name in names)
    assert torch.equal(start["0.weight"], frozen)
    assert not any(torch.equal(start["0.weight"], weight) for weight in moved)


def test_pml_wrapper_gathers_multi_hot_labels(of_ranks, alone):
    for results in of_ranks:
        for gradient, expected in zip(results["wrapped"], alone["wrapped"], strict=True):
            assert expected.abs().max() > 1e-3
            assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_features_come_in_the_order_of_the_data_set(of_ranks, alone):
    assert torch.equal(alone["features"][1], script.CLASS_IDS)
    for results in of_ranks:
        for values, expected in zip(results["features"], alone["features"], strict=True):
            assert_close(values, expected)


def test_every_part_of_a_batch_has_its_own_random_numbers(of_ranks):
    first, second = (results["draws"] for results in of_ranks)
    assert first == second
    assert len(set(first)) == len(first) == 2 * 2 * 3


def test_processes_draw_other_numbers_for_the_same_loss(of_ranks):
    (losses, drawn), (second_losses, second_drawn) = (results["dropout"] for results in of_ranks)
    assert not torch.isclose(drawn, second_drawn).any()
    assert len(losses) == 9
    assert losses == second_losses


def test_what_a_scheduler_sets_in_a_loss_is_that_of_the_first_process(of_ranks):
    (before, first), (_, second) = (results["schedule"] for results in of_ranks)
    assert torch.equal(first, second)
    assert not torch.equal(first, before)


def test_hooks_are_called_in_the_first_process(of_ranks):
    steps = [("step", 0, iteration) for iteration in range(3)]
    expected = [*steps, ("end", 0, 1), *steps, ("end", 0, 2)]
    first, second = (results["hooks"] for results in of_ranks)
    assert first == [*expected, 0.1 / 4]
    assert second == [0.1 / 4]  # the learning rate that a hook of the first process changed


def test_hooks_of_every_rank(of_ranks):
    for results in of_ranks:
        assert results["hooks_of_every_rank"] == ([[0, 1]], [0, 1, 2])


def test_rows_of_all_processes(of_ranks):
    for rank, results in enumerate(of_ranks):
        rows = results["rows"]
        assert rows["uneven"].tolist() == [[0], [1], [2], [10], [11], [12], [13]]
        assert_close(rows["empty"], torch.ones(1, 2, dtype=torch.bfloat16))
        assert rows["bool"].tolist() == [False, True]
        assert rows["no_width"] == (2, 0)
        assert rows["none"] == (0, 3)
        assert rows["objects"] == ["0", "1"]
        assert rows["parts"] == [(0, 2), (2, 5)]
        assert rows["shard"] == ([0, 1], [2, 3, 4])[rank]


def test_no_gradient_flows_through_rows_of_one_process():
    assert not gather_rows(torch.ones(2, 3, requires_grad=True)).requires_grad


def test_state_of_the_first_process(of_ranks):
    for results in of_ranks:
        (matrix, flag, empty), rank = results["first_process"]
        assert torch.equal(matrix, torch.zeros(3, 2))
        assert flag.item() is True
        assert empty.shape == (0,)
        assert rank == 0


def test_gradients_are_averaged_once_a_batch(of_ranks):
    for results in of_ranks:
        assert results["averages"] == [(6, 6, {0}), (6, 6, {0})]


ERRORS = {
    "samples": "ValueError: Expected the same samples in all processes, got 37, 36.",
    "start": "ValueError: Expected the same start_epoch in all processes, got 1, 2.",
    "batches": "ValueError: Expected batches of at least 2 samples, one per process, got one of 1",
    "subset": "ValueError: Expected no `subset_batch_miner` in several processes, got one.",
    "rates": "ValueError: Expected the same learning rates in all processes, got [0.1, 0.1], [0.2",
    "changed_rate": "ValueError: Expected the same learning rates in all processes, got [0.05, 0",
    "rows": "ValueError: Expected `values` of one width and dtype in all processes, got shapes (1,",
    "width": "ValueError: Expected `values` of one width and dtype in all processes, got shapes (1",
    "shard": "ValueError: Expected a `dataset` of at least 2 samples, one per process, got 1.",
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_in_all_processes(name, of_ranks):
    for results in of_ranks:
        assert results["errors"][name].startswith(ERRORS[name])


def test_failing_hook_stops_all_processes(of_ranks):
    first, second = (results["errors"]["hook"] for results in of_ranks)
    assert first == "OSError: disk full"
    assert second.endswith("Expected the first process to go on, got its OSError('disk full').")


def test_unwritable_folder_stops_all_processes(of_ranks):
    first, second = (results["errors"]["folder"] for results in of_ranks)
    assert first.startswith("NotADirectoryError: ")
    assert second.startswith("RuntimeError: Expected the first process to go on, got its NotADir")


def test_resumed_training_ends_alike(of_ranks):
    """Each process goes on with its own random numbers, from a step within a round."""
    for results in of_ranks:
        (whole, newest), (resumed, newest_resumed) = results["resume"]
        assert newest == newest_resumed == "checkpoint-000003-000000003.pt"
        for (path, value), (_, expected) in zip(leaves(resumed), leaves(whole), strict=True):
            assert_close(value, expected, rtol=0, atol=0, msg=str(path))


def test_wrapped_loss_is_refused():
    loss = script.DistributedLossWrapper(script.ContrastiveLoss())
    with pytest.raises(ValueError, match=r"loss as it is, .* got one in a DistributedLossWrapper"):
        script.make_trainer(loss)


@pytest.fixture
def group_of_one(tmp_path):
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting_point", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def test_a_group_of_one_is_one_process(group_of_one, alone, tmp_path):
    for name in ("dsah", "all_frozen"):
        again = script.seeded(script.TRAININGS[name])
        for (_, value), (_, expected) in zip(leaves(again), leaves(alone[name]), strict=True):
            assert_close(value, expected, rtol=0, atol=0, equal_nan=True)
    assert script.rows()["uneven"].tolist() == [[0], [1], [2]]
    assert script.rows()["objects"] == ["0"]
    assert script.hooks_of_every_rank() == ([[0]], [0, 1, 2])
    assert script.errors(tmp_path)["hook"] == "OSError: disk full"
    assert script.first_process()[1] == 0


def test_one_process_has_all():
    assert script.parts(5) == [slice(0, 5)]
    assert script.gather_rows(torch.arange(3)).tolist() == [0, 1, 2]
    assert script.of_all_ranks("a") == ["a"]
    assert math.isclose(script.from_first_rank(lambda: 0.5), 0.5)
    with pytest.raises(TypeError, match="with a length, got generator"):
        script.shard(item for item in ())
