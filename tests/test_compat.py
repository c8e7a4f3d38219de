"""What works on the next major version of PML, which has no trainers and testers."""

import os
import subprocess

import pytest
from strict import PYTHON

from pml_hashing import _compat

# None in sys.modules makes an import fail, as in a version without the module.
SCRIPT = """
import sys

for name in (
    "trainers", "testers", "utils.accuracy_calculator", "utils.inference", "utils.logging_presets"
):
    sys.modules[f"pytorch_metric_learning.{name}"] = None

import torch
from pml_hashing import CodeBank, DSAHLoss
from pml_hashing.losses import AffinityGraphLoss
from pml_hashing.testers import HammingTester
from torch.utils.data import TensorDataset
from pml_hashing.trainers import AsymmetricTrainer, Engine, EveryRank

labels = torch.tensor([0, 1, 1])
codes = torch.ones(3, 8, requires_grad=True)
(DSAHLoss(2, 8)(codes, labels) + AffinityGraphLoss()(codes, labels)).backward()
loss_func = DSAHLoss(2, 8, code_bank=CodeBank(labels, 8))
loss_func(codes, sample_indices=torch.arange(3)).backward()
before, after = loss_func.update_codes()
assert after <= before + 1e-6

for removed, arguments in ((AsymmetricTrainer, ({}, {}, 4, {}, [])), (HammingTester, ())):
    try:
        removed(*arguments)
    except ImportError as error:
        assert removed.__name__ in str(error), error
        assert 'pip install "pytorch-metric-learning>=2.9,<3"' in str(error), error
    else:
        raise SystemExit(f"{removed} was made")

def make():
    torch.manual_seed(0)
    labels = torch.arange(24) % 3
    data = TensorDataset(torch.randn(24, 5), labels)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh())
    loss_func = DSAHLoss(3, 8, code_bank=CodeBank(labels, 8))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    return network, Engine(network, loss_func, optimizer, data, 8, checkpoint_folder=sys.argv[1])

network, engine = make()
rounds = []
engine.fit(3, on_round=EveryRank(lambda engine: rounds.append(engine.round)))
other, resumed = make()
assert resumed.resume() == 3
assert rounds == [1, 2, 3]
assert torch.equal(network[0].weight, other[0].weight)
"""


def test_without_trainers_and_testers(tmp_path):
    script = [*PYTHON, "-c", SCRIPT, str(tmp_path)]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    run = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    assert not run.stderr  # nor a bar


def test_present_version_has_them():
    assert _compat.BaseTrainer.__module__.startswith("pytorch_metric_learning.trainers")
    assert _compat.GlobalEmbeddingSpaceTester.__name__ == "GlobalEmbeddingSpaceTester"
    assert _compat.AccuracyCalculator.__name__ == "AccuracyCalculator"
    with pytest.raises(ImportError, match=r"pytorch-metric-learning 2\.9, which version 3 removed"):
        _compat._Removed("anything", key=1)
