"""Tensors are made where what they belong to is, whatever `torch.set_default_device` says.

The device "meta" stands for a GPU here: nothing can be computed with what is made there.
"""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pml_hashing
from pml_hashing import CodeBank, losses
from pml_hashing.codes import pack
from pml_hashing.datasets import retrieval_split
from pml_hashing.evaluation import HammingAccuracyCalculator, mean_average_precision
from pml_hashing.evaluation.statistics import bootstrap_interval
from pml_hashing.miners import AffinityGraphMiner
from pml_hashing.models.encoding import encode
from pml_hashing.search import HammingKNN
from pml_hashing.trainers import Engine

PACKAGE = Path(pml_hashing.__file__).parent
MAKERS = {"arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint"}
MAKERS |= {"randn", "randperm", "tensor", "zeros"}
OF_MODULES = {  # parameters and buffers are made on the default device, as those of torch are
    "losses/_classes.py": 1,
    "losses/_discrete.py": 1,
    "losses/dcwh.py": 1,
    "losses/greedyhash.py": 1,
    "losses/hyp2.py": 1,
    "models/backbones.py": 1,
    "models/continuation.py": 1,
    "models/exporting.py": 2,
}
BASES = (losses.BaseHashingLoss, losses.DiscreteLoss)
CLASSES = {name: getattr(losses, name) for name in sorted(losses.__all__)}
NAMES = [n for n, c in CLASSES.items() if issubclass(c, BASES) and c not in BASES]
SIZES = {"num_classes": 4, "code_length": 16, "label_widths": (8,), "fit_steps": 2}
LABELS = torch.arange(24) % 4
MULTI_HOT = torch.eye(4, dtype=torch.long)[LABELS].index_fill(1, torch.tensor([3]), 1)
CODES = torch.randn(24, 16, generator=torch.Generator().manual_seed(0)).tanh()


@pytest.fixture
def elsewhere():
    with torch.device("meta"):
        yield


def placeless_calls(path):
    """Return the lines of a file that make a tensor without a word on its device."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = node.func if isinstance(node, ast.Call) else None
        if not (isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name)):
            continue
        makes = called.attr in MAKERS or (called.attr == "Generator" and not node.args)
        has_place = any(keyword.arg in ("device", None) for keyword in node.keywords)
        if called.value.id == "torch" and makes and not has_place:
            yield node.lineno


def test_every_tensor_has_a_place():
    found = {str(p.relative_to(PACKAGE)): [*placeless_calls(p)] for p in PACKAGE.rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines}.keys() == OF_MODULES.keys()
    assert {path: len(found[path]) for path in OF_MODULES} == OF_MODULES


def make_loss(name, **options):
    asked = inspect.signature(CLASSES[name]).parameters
    sizes = {key: value for key, value in SIZES.items() if key in asked}
    with torch.device("cpu"):
        options |= {"features": torch.eye(4)} if "features" in asked else {}
        return CLASSES[name](**sizes, **options)


@pytest.mark.parametrize("labels", [LABELS, MULTI_HOT], ids=["class_ids", "multi_hot"])
@pytest.mark.parametrize("name", NAMES)
def test_losses(name, labels, elsewhere):
    codes = CODES.clone().requires_grad_()
    loss = make_loss(name, collect_stats=True)(codes, labels)
    loss.backward()
    assert loss.isfinite()
    if "code_bank" in inspect.signature(CLASSES[name]).parameters:
        loss_func = make_loss(name, code_bank=CodeBank(labels, 16))
        rows = torch.arange(24, device="cpu")
        assert loss_func(codes, labels, sample_indices=rows).isfinite()
        loss_func.update_codes()
        assert loss_func.code_bank.binary_codes.is_cpu


@pytest.mark.parametrize("workers", [0, 1])
def test_training(workers, elsewhere, tmp_path):
    with torch.device("cpu"):
        network = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
    loss_func = make_loss("CSQLoss", class_codes="assigned")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    engine = Engine(
        nn.Sequential(network, nn.Identity()),
        loss_func,
        optimizer,
        TensorDataset(CODES, LABELS),
        8,
        num_workers=workers,
        miner=AffinityGraphMiner(num_neighbors=2),
        checkpoint_folder=tmp_path,
        progress=False,
    )
    engine.fit(2)
    assert engine.resume() == 2


def test_search_and_evaluation(elsewhere, tmp_path):
    knn = HammingKNN(rerank="vectors")
    knn.train(CODES, [f"image {i}" for i in range(24)], kind=["a", "b"] * 12)
    knn.remove(["image 3"])
    knn.add(CODES[3:4], ["again"], kind=["c"])
    knn.save(tmp_path / "index")
    loaded = HammingKNN(rerank="vectors")
    loaded.load(tmp_path / "index")
    for each in (knn, loaded):
        assert each.search(CODES[3:4], 1)[1] == [["again"]]
        assert len(each.range_search(CODES[:2], 3, where={"kind": "a"})[1]) == 2
    score = mean_average_precision(CODES, LABELS, CODES, LABELS, query_in_database=True)
    scores = HammingAccuracyCalculator(device="cpu").get_accuracy(CODES, LABELS)
    assert scores["hamming_mean_average_precision"] == pytest.approx(score)
    low, high = bootstrap_interval(torch.ones(5, device="cpu"))
    assert low == high == 1
    assert len(retrieval_split(LABELS, num_queries=4, num_train=8).train) == 8
    for inputs in (CODES, TensorDataset(CODES)):
        codes = encode(nn.Identity(), 16, None, inputs, device="cpu", progress=False)
        assert torch.equal(codes, pack(CODES))
