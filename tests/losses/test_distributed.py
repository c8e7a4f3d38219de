"""Every loss in PML's `DistributedLossWrapper`: two processes with half a batch each are one.

Each process gets the whole loss times their number, and the gradient of its own half: averaged over
the processes, as `DistributedDataParallel` does, that is the gradient of the whole batch.
"""

import copy
import inspect
from pathlib import Path

import pytest
import torch
from processes import run_together
from pytorch_metric_learning.miners import TripletMarginMiner
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch.testing import assert_close

from pml_hashing import CodeBank, losses
from pml_hashing.miners import AffinityGraphMiner

WORKER = Path(__file__).with_name("distributed_worker.py")
CLASSES = {name: getattr(losses, name) for name in sorted(losses.__all__)}
BASES = (losses.BaseHashingLoss, losses.DiscreteLoss)
NAMES = [n for n, c in CLASSES.items() if issubclass(c, BASES) and c not in BASES]
DISCRETE = [name for name in NAMES if issubclass(CLASSES[name], losses.DiscreteLoss)]
SIZES = {
    "num_classes": 3,
    "code_length": 16,
    "label_widths": (16,),
    "fit_steps": 2,
    "features": torch.eye(3),
}
LABELS = {
    "class_ids": torch.tensor([0, 1, 2, 1, 0, 2, 2, 1]),
    "multi_hot": torch.tensor(
        [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0]]
    ),
}


OF_PAIRS = ["DHNLoss", "DNNHLoss", "DPSHLoss", "DTSHLoss", "HashNetLoss"]
MASK = torch.tensor([True, False, False, True] * 2)
NEAREST = {"num_neighbors": 2, "num_dissimilar": 3}
STEPS = [
    *("memory", "miner in memory", "mask", "miner", "efficient miner"),
    *("efficient", "efficient triplets"),
]
"""Cases of several steps, or of miners. PML's efficient form finds pairs by class ids alone."""
IN_STEPS = [
    (name, kind, steps)
    for name in OF_PAIRS
    for kind in LABELS
    for steps in STEPS
    if kind == "class_ids" or steps not in {"efficient", "efficient triplets"}
]


def make_loss(name, **options):
    """Return a loss by its defaults, and the sizes where it asks for them."""
    asked = inspect.signature(CLASSES[name]).parameters
    return CLASSES[name](**{k: v for k, v in SIZES.items() if k in asked}, **options)


def make_batch(kind, num_networks):
    names = ("embeddings", "ref_emb")[:num_networks]
    batch = {name: torch.tanh(torch.randn(8, 16)) for name in names} | {"labels": LABELS[kind]}
    if num_networks == 2:
        batch["ref_labels"] = LABELS[kind].clone()  # the wrapper makes two objects of one
    return batch


def make_steps(name, kind, steps):
    """Return a case of one or more steps: a loss of pairs in a memory, or with a miner."""
    loss_func, miner = make_loss(name), None
    if "memory" in steps or steps == "mask":
        within = AffinityGraphMiner(**NEAREST) if "miner" in steps else None
        loss_func = losses.CrossBatchMemory(loss_func, 16, 24, within)
    elif "miner" in steps:
        miner = AffinityGraphMiner(**NEAREST)
    elif "triplets" in steps:
        miner = TripletMarginMiner(1.0)
    batches = [make_batch(kind, 1) for _ in range(4 if "memory" in steps else 1)]
    if steps == "mask":
        batches = [make_batch(kind, 1) | {"enqueue_mask": MASK} for _ in range(2)]
    batches = [batch | {"labels": batch["labels"].roll(i, 0)} for i, batch in enumerate(batches)]
    efficient = steps.startswith("efficient")
    return {"loss": loss_func, "efficient": efficient, "miner": miner, "batches": batches}


def make_cases():
    """Return the loss, the batch, and whether the wrapper is "efficient", of every case."""
    cases = {
        (name, kind, num_networks): (make_loss(name), make_batch(kind, num_networks), False)
        for name in NAMES
        for kind in LABELS
        for num_networks in (1, 2)
    }
    for name in DISCRETE:
        bank = CodeBank(LABELS["class_ids"], 16)
        cases[name, "bank"] = (make_loss(name, code_bank=bank), make_batch("class_ids", 1), False)
        cases[name, "efficient"] = (make_loss(name), make_batch("class_ids", 1), True)
    return cases | {key: make_steps(*key) for key in IN_STEPS}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return every case and what the two processes, started once, made of it."""
    torch.manual_seed(0)
    folder, cases = tmp_path_factory.mktemp("distributed"), make_cases()
    torch.save(cases, folder / "cases.pt")
    done = run_together(WORKER, [(folder, rank) for rank in range(2)])
    assert [of.returncode for of in done] == [0, 0], "\n".join(of.stderr for of in done)
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return {key: (case, [of_rank[key] for of_rank in found]) for key, case in cases.items()}


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(name, kind, num_networks, ran):
    (loss_func, batch, _), found = ran[name, kind, num_networks]
    names = ("embeddings", "ref_emb")[:num_networks]
    codes = {key: batch[key].clone().requires_grad_() for key in names}
    loss = loss_func(**batch | codes)
    loss.backward()
    for rank, result in enumerate(found):
        assert result["loss"] == pytest.approx(2 * loss.item())
        for key, whole in codes.items():
            half = None if whole.grad is None else 2 * whole.grad.chunk(2)[rank]
            assert_close(result["codes"][key], half)
        for key, parameter in loss_func.named_parameters():
            assert_close(result["parameters"][key], 2 * parameter.grad)


@pytest.mark.parametrize("name", DISCRETE)
def test_data_set_mode_asks_for_its_sample_indices(name, ran):
    """The wrapper has no way to hand them over."""
    for result in ran[name, "bank"][1]:
        assert result["error"].startswith("ValueError: Expected `sample_indices` of shape (8,)")


@pytest.mark.parametrize("name", DISCRETE)
def test_the_efficient_wrapper_is_refused(name, ran):
    """It hands over the codes of other samples as if they were a second network's."""
    for result in ran[name, "efficient"][1]:
        assert result["error"].startswith("ValueError: Expected `ref_emb` of shape (4, 16)")


def half_against_all(loss_func, miner, batch, rank):
    """Return the loss of one half against both, without the pairs of a sample with itself."""
    codes, others = (batch["embeddings"].chunk(2)[i].clone() for i in (rank, 1 - rank))
    labels, other_labels = (batch["labels"].chunk(2)[i] for i in (rank, 1 - rank))
    codes.requires_grad_()
    every = torch.cat([codes, others]), torch.cat([labels, other_labels])
    choose = miner or (lambda *args: lmu.get_all_pairs_indices(args[1], args[3]))
    a, p, *rest = choose(codes, labels, *every)
    kept = a != p
    rest = [rest[0][kept]] if len(rest) == 1 else rest
    return loss_func(codes, labels, (a[kept], p[kept], *rest), *every), codes


@pytest.mark.parametrize("key", IN_STEPS, ids="-".join)
def test_memories_and_miners_of_two_processes_are_one(key, ran):
    """The memory is a multiple of the batch: each process has its own half first."""
    case, found = ran[key]
    loss_func, miner = copy.deepcopy(case["loss"]), case["miner"]
    for step, batch in enumerate(case["batches"]):
        if case["efficient"]:
            parts = [half_against_all(loss_func, miner, batch, rank) for rank in range(2)]
            gradients = [torch.autograd.grad(loss, codes)[0] for loss, codes in parts]
            values = [loss for loss, _ in parts]
        else:
            whole = {k: v for k, v in batch.items() if k != "embeddings"}
            codes = batch["embeddings"].clone().requires_grad_()
            if miner is not None:
                whole["indices_tuple"] = miner(codes, batch["labels"])
            loss = loss_func(codes, **whole)
            gradients, values = torch.autograd.grad(loss, codes)[0].chunk(2), [loss, loss]
        for rank in range(2):
            assert found[rank][step]["loss"] == pytest.approx(2 * values[rank].item())
            assert_close(found[rank][step]["gradient"], 2 * gradients[rank])
