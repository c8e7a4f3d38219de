"""A training that was killed and resumed ends with the same weights and codes, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import run_script

SCRIPT = Path(__file__).with_name("resumable_training.py")


def fork(folder):
    return run_script(SCRIPT, folder)


def start_anew(folder):
    """Run the script in a new interpreter, whose strings have other hashes, without bars."""
    command, environment = [sys.executable, str(SCRIPT), folder], os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "round " not in done.stderr
    return done


def equal(state, other):
    if isinstance(state, torch.Tensor):
        return torch.equal(state, other)
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(equal(state[k], other[k]) for k in state)
    return state == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    done = run_script(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "result_from_round_1.pth")


# In the middle of rounds 2 and 3 of three steps each.
@pytest.mark.parametrize(("fatal_step", "go_on"), [(4, fork), (8, start_anew)])
def test_killed_training_resumes_to_the_same_result(tmp_path, fatal_step, go_on, whole):
    done = run_script(SCRIPT, tmp_path, fatal_step)
    assert done.returncode == -signal.SIGKILL, done.stderr
    done = go_on(tmp_path)
    assert done.returncode == 0, done.stderr
    killed = torch.load(tmp_path / f"result_from_round_{fatal_step // 3 + 1}.pth")
    assert whole["code_bank"]["_extra_state"]["started"]
    assert equal(killed, whole)
