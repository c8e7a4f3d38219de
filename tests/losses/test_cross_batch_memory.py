"""CrossBatchMemory: the loss over all codes seen, whatever chooses the pairs."""

import copy

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch.testing import assert_close

from pml_hashing.losses import (
    AffinityGraphLoss,
    BaseHashingLoss,
    CrossBatchMemory,
    CSQLoss,
    DNNHLoss,
    DPSHLoss,
    DTSHLoss,
    HashNetLoss,
    SelfSupervisedLoss,
)
from pml_hashing.miners import AffinityGraphMiner

LOSSES = [DPSHLoss, HashNetLoss, DTSHLoss, DNNHLoss, AffinityGraphLoss]
MINERS = {
    "all": lambda: None,
    "pairs": lambda: MultiSimilarityMiner(0.3),
    "triplets": lambda: TripletMarginMiner(0.2),
    "graph": lambda: AffinityGraphMiner(num_neighbors=3, num_dissimilar=4),
}


def make_labels(kind, n):
    return torch.randint(3, (n,)) if kind == "class_ids" else torch.randint(2, (n, 3))


def pairs_reference(labels, all_labels, first):
    """Return all pairs of the last batch with all samples, but of a sample with itself."""
    pairs = ([], [], [], [])
    for i, label in enumerate(labels.tolist()):
        for j, other in enumerate(all_labels.tolist()):
            if first + i != j:
                same = label == other if isinstance(label, int) else any(map(min, label, other))
                pairs[0 if same else 2].append(i)
                pairs[1 if same else 3].append(j)
    return tuple(torch.tensor(places, dtype=torch.long) for places in pairs)


def without_self(chosen, first):
    """Leave out the pairs of a sample with itself."""
    if len(chosen) == 3:
        triplets = zip(*(places.tolist() for places in chosen), strict=True)
        kept = [t for t in triplets if first + t[0] not in t[1:]]
        return tuple(torch.tensor(kept, dtype=torch.long).view(-1, 3).T)
    pairs = (without_self((*chosen[i : i + 2], -torch.ones_like(chosen[i])), first) for i in (0, 2))
    return tuple(places for similar in pairs for places in similar[:2])


@pytest.mark.parametrize(
    ("miner", "kind"),  # PML's miners take class ids
    [*((miner, "class_ids") for miner in MINERS), ("all", "multi_hot"), ("graph", "multi_hot")],
)
@pytest.mark.parametrize("loss_class", LOSSES)
def test_is_the_loss_over_all_codes_seen(loss_class, miner, kind, device):
    choose, loss_func = MINERS[miner](), loss_class()
    memory = CrossBatchMemory(loss_func, 16, 40, MINERS[miner]())
    seen, seen_labels = torch.empty(0, 16, device=device), make_labels(kind, 0).to(device)
    for size in (8, 1, 5, 8):
        codes, labels = torch.randn(size, 16, device=device).tanh(), make_labels(kind, size)
        codes, labels, first = codes.requires_grad_(), labels.to(device), len(seen)
        seen, seen_labels = torch.cat([seen, codes.detach()]), torch.cat([seen_labels, labels])
        chosen = pairs_reference(labels, seen_labels, first)
        if choose is not None:
            chosen = without_self(choose(codes, labels, seen, seen_labels), first)
        chosen = tuple(places.to(device) for places in chosen)
        expected = loss_func(codes, labels, chosen, seen, seen_labels)
        loss = memory(codes, labels)
        assert_close(loss, expected)
        for found, wanted in zip(
            torch.autograd.grad(loss, codes, retain_graph=True),
            torch.autograd.grad(expected, codes),
            strict=True,
        ):
            assert_close(found, wanted)


def test_is_that_of_pml_on_class_ids():
    """With pairs that are given, a mask of what is remembered, and a memory that is full."""
    ours = CrossBatchMemory(pml_losses.ContrastiveLoss(), 16, 12, MultiSimilarityMiner(0.3))
    theirs = pml_losses.CrossBatchMemory(
        pml_losses.ContrastiveLoss(), 16, 12, MultiSimilarityMiner(0.3)
    )
    for step in range(5):
        codes, labels = torch.randn(8, 16), torch.randint(3, (8,))
        for options in (
            {},
            {"indices_tuple": lmu.get_all_pairs_indices(labels)},
            {"indices_tuple": lmu.get_all_triplets_indices(labels)},
            {"enqueue_mask": torch.arange(8) % 2 == step % 2},
        ):
            assert_close(ours(codes, labels, **options), theirs(codes, labels, **options))
    assert_close(ours.embedding_memory, theirs.embedding_memory)


@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
def test_what_is_remembered_is_saved(kind):
    memory, labels = CrossBatchMemory(DPSHLoss(), 16, 20), make_labels(kind, 8)
    memory(torch.randn(8, 16), labels)
    restored = CrossBatchMemory(DPSHLoss(), 16, 20)
    restored.load_state_dict(copy.deepcopy(memory.state_dict()))
    for _ in range(3):
        codes, labels = torch.randn(8, 16), make_labels(kind, 8)
        assert torch.equal(restored(codes, labels), memory(codes, labels))


def test_wrong_arguments_are_named():
    memory = CrossBatchMemory(DPSHLoss(), 16, 20)
    with pytest.raises(ValueError, match=r"`embeddings` of shape \(batch_size, 16\)"):
        memory(torch.randn(8, 12), torch.arange(8))
    memory(torch.randn(8, 16), torch.arange(8))
    with pytest.raises(ValueError, match=r"`labels` of shape \('batch_size',\), as those remember"):
        memory(torch.randn(8, 16), torch.ones(8, 3))
    for wrapper in (lambda loss: CrossBatchMemory(loss, 16), SelfSupervisedLoss):
        with pytest.raises(Exception, match="not supported for ArcFaceLoss"):
            wrapper(pml_losses.ArcFaceLoss(3, 16))
        with pytest.raises(ValueError, match="got CSQLoss, which holds each sample against its"):
            wrapper(CSQLoss(3, 16))


class OwnPairs(BaseHashingLoss):
    """A loss that this library does not know."""

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        a, p = indices_tuple[:2]
        losses = -(embeddings[a] * ref_emb[p]).sum(dim=1)
        return {"loss": self.pair_loss(losses, (a, p), "pos")}


def test_takes_losses_of_users():
    memory = CrossBatchMemory(OwnPairs(), 2, 4)
    memory(torch.ones(1, 2), torch.tensor([0]))
    assert memory(torch.ones(1, 2), torch.tensor([0])) == -2


@pytest.mark.parametrize("loss_class", LOSSES)
def test_two_views_are_similar(loss_class):
    """SelfSupervisedLoss: views as samples of a class of their own."""
    first, second, labels = torch.randn(5, 16).tanh(), torch.randn(5, 16).tanh(), torch.arange(5)
    loss = SelfSupervisedLoss(loss_class())(first, second)
    assert_close(loss, loss_class()(torch.cat([first, second]), labels.repeat(2)))
    loss = SelfSupervisedLoss(loss_class(), symmetric=False)(first, second)
    expected = loss_class()(first, labels, ref_emb=second, ref_labels=labels.clone())
    assert_close(loss, expected)
