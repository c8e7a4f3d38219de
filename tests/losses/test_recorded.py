"""Losses with learned codes give the results that were recorded: every code, every number."""

import pytest
import torch
from recorded import record, recorded, runs
from torch.testing import assert_close

RESULTS = recorded()


def test_every_run_was_recorded():
    assert {name for name, _ in runs()} == RESULTS.keys()


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("name", "run"), list(runs()), ids=[name for name, _ in runs()])
def test_results_are_those_recorded(name, run, resumed):
    found, expected = record(*run, resumed=resumed), RESULTS[name]
    assert torch.equal(found["binary_codes"], expected["binary_codes"])
    for part in ("floats", "objectives"):
        assert_close(found[part], expected[part], rtol=1e-6, atol=1e-6)
