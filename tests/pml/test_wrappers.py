"""CrossBatchMemory as PML has it: the queue, the mask, what is recorded, and every miner."""

import pytest
import torch
from compatibility import LABELS, MULTI_HOT, make_codes
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, reducers
from torch.testing import assert_close

from pml_hashing import losses

OF_PAIRS = [
    losses.AffinityGraphLoss,
    losses.DHNLoss,
    losses.DNNHLoss,
    losses.DPSHLoss,
    losses.DTSHLoss,
    losses.HashNetLoss,
]
MINERS = [
    miners.AngularMiner,
    miners.BatchEasyHardMiner,
    miners.BatchHardMiner,
    miners.DistanceWeightedMiner,
    miners.MultiSimilarityMiner,
    miners.PairMarginMiner,
    miners.TripletMarginMiner,
    miners.UniformHistogramMiner,
]


EQUAL_TO_THE_BATCH = [c for c in OF_PAIRS if c is not losses.AffinityGraphLoss]
"""Without a miner that one weighs its pairs by the classes, and a memory chooses pairs."""


def mask(*places):
    return torch.zeros(12, dtype=torch.bool).index_fill(
        0, torch.tensor(places, dtype=torch.long), 1
    )


@pytest.mark.parametrize("labels", [LABELS, MULTI_HOT], ids=["class_ids", "multi_hot"])
@pytest.mark.parametrize("loss_class", EQUAL_TO_THE_BATCH)
def test_a_memory_of_one_batch_is_no_memory(loss_class, labels):
    memory, loss_func = losses.CrossBatchMemory(loss_class(), 16, 12), loss_class()
    for seed in range(3):
        codes = make_codes(seed)
        assert_close(memory(codes, labels), loss_func(codes, labels))


def test_the_latest_codes_are_remembered():
    memory = losses.CrossBatchMemory(losses.DPSHLoss(), 16, 30)
    seen, seen_labels = torch.empty(0, 16), torch.empty(0, dtype=torch.long)
    for step in range(7):
        codes, labels = make_codes(step).detach(), LABELS + step
        memory(codes, labels)
        seen, seen_labels = torch.cat([seen, codes]), torch.cat([seen_labels, labels])
        assert memory.queue_idx == len(seen) % 30
        assert memory.has_been_filled == (len(seen) >= 30)
        for place in range(max(0, len(seen) - 30), len(seen)):
            assert torch.equal(memory.embedding_memory[place % 30], seen[place])
            assert memory.label_memory[place % 30] == seen_labels[place]
    memory.reset_queue()
    assert (memory.queue_idx, memory.has_been_filled) == (0, False)
    codes = make_codes()
    assert_close(memory(codes, MULTI_HOT), losses.DPSHLoss()(codes, MULTI_HOT))
    assert memory.label_memory.shape == (30, 4)


@pytest.mark.parametrize("labels", [LABELS, MULTI_HOT], ids=["class_ids", "multi_hot"])
@pytest.mark.parametrize("loss_class", EQUAL_TO_THE_BATCH)
def test_a_mask_parts_what_is_remembered_from_the_batch(loss_class, labels):
    memory, loss_func = losses.CrossBatchMemory(loss_class(), 16, 30), loss_class()
    chosen, codes = mask(0, 1, 2, 5, 7, 11), make_codes()
    expected = loss_func(
        codes[~chosen], labels[~chosen], None, codes[chosen].detach(), labels[chosen]
    )
    assert_close(memory(codes, labels, enqueue_mask=chosen), expected)
    assert memory.queue_idx == 6


@pytest.mark.parametrize("loss", [losses.DPSHLoss, losses.DTSHLoss, pml_losses.ContrastiveLoss])
def test_a_mask_may_leave_nothing(loss):
    """No sample to remember, which is no full memory, or none to compare."""
    memory, codes = losses.CrossBatchMemory(loss(), 16, 30), make_codes()
    none = torch.empty(0, dtype=torch.long)
    expected = loss()(codes, LABELS, (none,) * 4)  # its terms of samples alone
    assert_close(memory(codes, LABELS, enqueue_mask=mask()), expected)
    assert (memory.queue_idx, memory.has_been_filled) == (0, False)
    found = memory(codes, LABELS, enqueue_mask=~mask())
    found.backward()
    assert found == 0
    assert (codes.grad == 0).all()
    assert torch.equal(memory.embedding_memory[:12], codes)
    others = make_codes(1)
    expected = loss()(others, LABELS, None, codes.detach(), LABELS.clone())
    assert_close(memory(others, LABELS, enqueue_mask=mask()), expected)
    assert (memory.queue_idx, memory.has_been_filled) == (12, False)


def test_half_precision_and_other_dtypes_follow_each_other():
    memory, found = losses.CrossBatchMemory(losses.DPSHLoss(), 16, 60), []
    for dtype in (torch.float16, torch.float32, torch.float64, torch.bfloat16):
        found.append(memory(make_codes().to(dtype), LABELS))
        assert memory.embedding_memory.dtype == dtype
    assert {loss.isfinite().item() for loss in found} == {True}
    assert [loss.dtype for loss in found] == [
        torch.float32,
        torch.float32,
        torch.float64,
        torch.float32,
    ]


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("loss_class", OF_PAIRS)
def test_any_miner_of_pml_chooses(loss_class, miner):
    memory = losses.CrossBatchMemory(loss_class(), 16, 30, miner())
    for seed in range(4):
        codes = make_codes(seed)
        loss = memory(codes, LABELS)
        loss.backward()
        assert loss.isfinite()
        assert codes.grad.isfinite().all()


def test_its_sizes_are_recorded():
    memory = losses.CrossBatchMemory(losses.DPSHLoss(), 16, 30, collect_stats=True)
    assert memory.collect_stats
    memory(make_codes(), LABELS)
    found = {name: getattr(memory, name) for name in memory._record_these}
    assert found == {"embedding_size": 16, "memory_size": 30, "queue_idx": 12}


def test_is_one_of_several_losses():
    several = pml_losses.MultipleLosses(
        {
            "memory": losses.CrossBatchMemory(losses.DPSHLoss(), 16, 30),
            "batch": losses.CSQLoss(4, 16),
        },
        weights={"memory": 1, "batch": 2},
    )
    codes = make_codes()
    expected = losses.DPSHLoss()(codes, LABELS) + 2 * losses.CSQLoss(4, 16)(codes, LABELS)
    assert_close(several(codes, LABELS), expected)


def test_what_does_not_fit_is_named():
    memory = losses.CrossBatchMemory(losses.DPSHLoss(), 16, 10)
    with pytest.raises(ValueError, match="at most `memory_size`=10 codes in `embeddings`, got 12"):
        memory(make_codes(), LABELS)
    with pytest.raises(ValueError, match=r"`memory_size`=10 samples chosen by `enqueue_m.* got 12"):
        memory(make_codes(), LABELS, enqueue_mask=~mask())
    for wrong in (mask()[:5], mask().long(), mask()[:, None]):
        with pytest.raises(ValueError, match=r"boolean `enqueue_mask` of shape \(12,\), got"):
            memory(make_codes(), LABELS, enqueue_mask=wrong)
    none = torch.empty(0, dtype=torch.long)
    with pytest.raises(ValueError, match="mutually exclusive"):
        memory(make_codes(), LABELS, (none,) * 4, mask(1))
    assert memory.queue_idx == 0
    of_anchors = losses.HashNetLoss(reducer=reducers.PerAnchorReducer())
    memory = losses.CrossBatchMemory(of_anchors, 16, 30)
    memory(make_codes(), LABELS)
    with pytest.raises(ValueError, match="other than PerAnchorReducer"):
        memory(make_codes(), LABELS)


@pytest.mark.parametrize("loss_class", OF_PAIRS)
def test_two_views_train_both(loss_class):
    first, second = make_codes(), make_codes(1)
    losses.SelfSupervisedLoss(loss_class())(first, second).backward()
    assert first.grad.abs().sum() > 0
    assert second.grad.abs().sum() > 0
