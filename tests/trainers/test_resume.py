"""A training that was killed and resumed ends with the same weights and codes, bit for bit."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("resumable_training.py")


def run(folder, *fatal_step):
    command = [sys.executable, str(SCRIPT), str(folder), *map(str, fatal_step)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if fatal_step else 0), done.stderr
    return done


def equal(state, other):
    if isinstance(state, torch.Tensor):
        return torch.equal(state, other)
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(equal(state[k], other[k]) for k in state)
    return state == other


@pytest.mark.parametrize(
    "fatal_step", [4, 8]
)  # in the middle of rounds 2 and 3 of three steps each
def test_killed_training_resumes_to_the_same_result(tmp_path, fatal_step):
    run(tmp_path / "whole")
    run(tmp_path / "killed", fatal_step)
    run(tmp_path / "killed")
    whole = torch.load(tmp_path / "whole" / "result_from_round_1.pth")
    killed = torch.load(tmp_path / "killed" / f"result_from_round_{fatal_step // 3 + 1}.pth")
    assert whole["code_bank"]["_extra_state"]["started"]
    assert equal(killed, whole)
