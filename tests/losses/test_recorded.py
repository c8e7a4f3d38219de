"""Losses with learned codes give the results that were recorded: every code, every number."""

import pytest
import torch
from recorded import record, recorded, runs
from torch.testing import assert_close

RESULTS, RUNS = recorded(), dict(runs())


def test_every_run_was_recorded():
    assert RUNS.keys() == RESULTS.keys()


@pytest.mark.parametrize(("name", "run"), RUNS.items(), ids=RUNS)
def test_results_are_those_recorded(name, run):
    check_results(record(*run), RESULTS[name])


@pytest.mark.parametrize("name", [name for name in RUNS if "-default-" in name and name[-1] == "2"])
def test_results_of_a_resumed_run_are_the_same(name):
    check_results(record(*RUNS[name], resumed=True), RESULTS[name])


def check_results(found, expected):
    assert torch.equal(found["binary_codes"], expected["binary_codes"])
    for part in ("floats", "objectives"):
        assert_close(found[part], expected[part], rtol=1e-6, atol=1e-6)
