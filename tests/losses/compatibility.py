"""What each loss does with what PML has a slot for: found by trying, and written as a table.

python tests/losses/compatibility.py
"""

import inspect
from pathlib import Path
from unittest.mock import patch

import torch
from pytorch_metric_learning import reducers
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils import distributed
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

from pml_hashing import CodeBank, losses

PAGE = Path(__file__).parents[2] / "docs" / "generated" / "compatibility.md"
BASES = (losses.BaseHashingLoss, losses.DiscreteLoss)
CLASSES = {name: getattr(losses, name) for name in sorted(losses.__all__)}
NAMES = [n for n, c in CLASSES.items() if issubclass(c, BASES) and c not in BASES]
SIZES = {
    "num_classes": 4,
    "code_length": 16,
    "label_widths": (8,),
    "fit_steps": 0,
    "features": torch.eye(4),
}
LABELS = torch.arange(12) % 4
MULTI_HOT = torch.eye(4, dtype=torch.long)[LABELS].index_fill(1, torch.tensor([3]), 1)
REFUSED = (TypeError, ValueError)
REDUCERS = {
    "AvgNonZero": reducers.AvgNonZeroReducer,
    "ClassWeighted": lambda: reducers.ClassWeightedReducer(torch.arange(4.0)),
    "Divisor": reducers.DivisorReducer,
    "DoNothing": reducers.DoNothingReducer,
    "Mean": reducers.MeanReducer,
    "PerAnchor": reducers.PerAnchorReducer,
    "Sum": reducers.SumReducer,
    "Threshold": lambda: reducers.ThresholdReducer(low=0),
}


def make_loss(name, **options):
    """Return a loss by its defaults, and the sizes where it asks for them."""
    sizes = {k: v for k, v in SIZES.items() if k in inspect.signature(CLASSES[name]).parameters}
    torch.manual_seed(0)
    return CLASSES[name](**sizes, **options)


def make_codes(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 16, generator=generator).tanh().requires_grad_()


def works(call):
    """Return whether a call is not refused. Whatever else it raises is an error of ours."""
    try:
        call()
    except REFUSED as error:
        if not str(error).startswith("Expected "):
            raise
        return False
    return True


def miner(name):
    """A subset of the pairs: as pairs, or as weights of the samples of all sub-losses."""
    loss_func, codes = make_loss(name, reducer=reducers.DoNothingReducer()), make_codes()
    chosen = tuple(places[::3] for places in lmu.get_all_pairs_indices(LABELS))
    weights = lmu.convert_to_weights(chosen, LABELS, torch.float32)
    plain, mined = loss_func(codes, LABELS), loss_func(codes, LABELS, chosen)
    weighted = all(
        len(plain[key]["losses"]) == 12
        and torch.allclose(mined[key]["losses"], plain[key]["losses"] * weights)
        for key in plain
    )
    changed = any(
        plain[key]["losses"].shape != mined[key]["losses"].shape
        or not torch.equal(plain[key]["losses"], mined[key]["losses"])
        for key in plain
    )
    assert changed, f"{name} ignores a miner"
    return "weighs samples" if weighted else "chooses pairs"


def distance(name):
    return "used" if works(lambda: make_loss(name, distance=CosineSimilarity())) else "refused"


def cross_batch_memory(name):
    def run():
        memory = losses.CrossBatchMemory(make_loss(name), 16, 30)
        for labels in (LABELS, LABELS.flip(0)):
            assert memory(make_codes(), labels).isfinite()
        assert losses.SelfSupervisedLoss(make_loss(name))(make_codes(), make_codes(1)).isfinite()

    return "yes" if works(run) else "no"


def distributed_loss_wrapper(name):
    """As the first of two processes, which have the halves of a batch."""
    loss_func, codes, given = make_loss(name), make_codes(), {}

    def run(efficient):
        wrapped = distributed.DistributedLossWrapper(loss_func, efficient)
        halves = {torch.float32: codes[6:], torch.int64: LABELS[6:]}
        with (
            patch.object(distributed, "is_distributed", lambda: True),
            patch.object(distributed, "all_gather", lambda x: halves[x.dtype]),
            patch.object(torch.distributed, "get_world_size", lambda: 2),
        ):
            given[efficient] = wrapped(codes[:6], LABELS[:6]) / 2

    assert works(lambda: run(efficient=False))
    torch.testing.assert_close(given[False], loss_func(codes, LABELS))
    return "both forms" if works(lambda: run(efficient=True)) else "`efficient=False`"


def reducer(name):
    """Which reducers of PML are refused, for class ids and for multi-hot rows."""
    codes, refused = make_codes(), {}
    for kind, labels in (("all", LABELS), ("several labels", MULTI_HOT)):
        for key, make_reducer in REDUCERS.items():
            loss_func = make_loss(name, reducer=make_reducer())
            if not works(lambda loss_func=loss_func, labels=labels: loss_func(codes, labels)):
                refused.setdefault(key, kind)
    return "all but " + ", ".join(
        key if kind == "all" else f"{key} ({kind})" for key, kind in sorted(refused.items())
    )


def several_labels(name):
    assert make_loss(name)(make_codes(), MULTI_HOT).isfinite()
    return "yes"


def two_networks(name):
    codes, ref_codes = make_codes(), make_codes(1)
    make_loss(name)(codes, LABELS, ref_emb=ref_codes, ref_labels=LABELS).backward()
    assert codes.grad is not None
    return "no" if ref_codes.grad is None else "yes"


def code_bank(name):
    if "code_bank" not in inspect.signature(CLASSES[name]).parameters:
        return "no"
    loss_func = make_loss(name, code_bank=CodeBank(LABELS, 16))
    loss_func(make_codes(), sample_indices=torch.arange(12))
    before, after = loss_func.update_codes()
    assert after <= before + 1e-5
    return "yes"


COLUMNS = {
    "Miner": miner,
    "CrossBatchMemory, SelfSupervisedLoss": cross_batch_memory,
    "DistributedLossWrapper": distributed_loss_wrapper,
    "Reducers of PML": reducer,
    "`distance`": distance,
    "Several labels": several_labels,
    "Two networks": two_networks,
    "Code bank": code_bank,
}


def to_markdown():
    """Return the table: one row for each loss."""
    rows = [["Loss", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    for name in NAMES:
        page = CLASSES[name].__module__.rsplit(".", 1)[-1]
        rows.append([f"[{name}]({page}.md)", *(check(name) for check in COLUMNS.values())])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    PAGE.write_text(to_markdown(), encoding="utf-8")
