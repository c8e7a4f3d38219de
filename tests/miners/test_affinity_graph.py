"""AffinityGraphMiner against loops, and in PML's losses and trainer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from torch.testing import assert_close

from pml_hashing.codes import binarize
from pml_hashing.distances import HammingDistance
from pml_hashing.miners import AffinityGraphMiner
from pml_hashing.pairs import to_pairs


def affinity_graph_reference(distances, labels, ref_labels, same, num_neighbors, num_dissimilar):
    """Pairs as a set, anchor by anchor: the nearest first, ties in the order of the batch."""
    pairs = {True: [], False: []}
    for i, label in enumerate(labels):
        for kind, k in ((True, num_neighbors), (False, num_dissimilar)):
            others = [
                (distances[i][j], j)
                for j, other in enumerate(ref_labels)
                if share_a_label(label, other) == kind and not (same and i == j)
            ]
            pairs[kind] += [(i, j) for _, j in sorted(others)[:k]]
    return pairs[True], pairs[False]


def share_a_label(y, z):
    return y == z if isinstance(y, int) else any(a and b for a, b in zip(y, z, strict=True))


def as_lists(indices_tuple):
    a1, p, a2, n = (x.tolist() for x in indices_tuple)
    return list(zip(a1, p, strict=True)), list(zip(a2, n, strict=True))


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 8),
    num_ref=st.none() | st.integers(1, 8),
    code_length=st.integers(1, 4),
    multi_hot=st.booleans(),
    num_neighbors=st.none() | st.integers(1, 9),
    num_dissimilar=st.none() | st.integers(1, 9),
)
def test_pairs(seed, n, num_ref, code_length, multi_hot, num_neighbors, num_dissimilar):
    torch.manual_seed(seed)

    def make(size):
        codes = binarize(torch.randn(size, code_length))  # short and binary: many ties
        return codes, torch.randint(2, (size, 3)) if multi_hot else torch.randint(3, (size,))

    codes, labels = make(n)
    refs = () if num_ref is None else make(num_ref)
    miner = AffinityGraphMiner(num_neighbors=num_neighbors, num_dissimilar=num_dissimilar)
    ref_codes, ref_labels = refs or (codes, labels)
    expected = affinity_graph_reference(
        ((code_length - codes @ ref_codes.T) / 2).tolist(),
        labels.tolist(),
        ref_labels.tolist(),
        not refs,
        num_neighbors,
        num_dissimilar,
    )
    assert as_lists(miner(codes, labels, *refs)) == expected


def test_all_pairs_if_nothing_is_cut(device):
    codes, labels = torch.randn(9, 4, device=device), torch.randint(3, (9,), device=device)
    found = AffinityGraphMiner()(codes, labels)
    assert {x.device.type for x in found} == {device.type}
    assert {x.dtype for x in found} == {torch.int64}
    similar, dissimilar = as_lists(to_pairs(None, labels, labels))
    assert tuple(map(sorted, as_lists(found))) == (similar, dissimilar)


def test_labels_may_be_on_another_device(device):
    codes, labels = torch.randn(9, 4, device=device), torch.randint(3, (9,))
    miner = AffinityGraphMiner(num_neighbors=2)
    assert_close(miner(codes, labels), miner(codes, labels.to(device)))


def test_nearest_by_a_similarity_is_the_largest():
    codes, labels = torch.randn(9, 4), torch.randint(2, (9,))
    similarity = AffinityGraphMiner(num_neighbors=2, num_dissimilar=3, distance=CosineSimilarity())(
        codes, labels
    )
    # The relaxed Hamming distance of normalized codes falls as their cosine rises.
    distance = AffinityGraphMiner(num_neighbors=2, num_dissimilar=3)(
        torch.nn.functional.normalize(codes), labels
    )
    assert_close(similarity, distance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    codes, labels = binarize(torch.randn(9, 4)), torch.randint(2, (9,))
    miner = AffinityGraphMiner(num_neighbors=2, distance=HammingDistance())
    assert_close(miner(codes.to(dtype), labels), miner(codes, labels))


def test_no_pair_of_a_kind():
    codes = torch.randn(3, 4)
    similar, dissimilar = as_lists(AffinityGraphMiner(num_neighbors=1)(codes, torch.arange(3)))
    assert (len(similar), len(dissimilar)) == (0, 6)
    similar, dissimilar = as_lists(
        AffinityGraphMiner(num_neighbors=1)(codes, torch.zeros(3).long())
    )
    assert (len(similar), len(dissimilar)) == (3, 0)


def test_contrastive_loss():
    codes, labels = torch.tanh(torch.randn(8, 4)).requires_grad_(), torch.arange(8) % 2
    distance = HammingDistance(binarize=False)
    pairs = AffinityGraphMiner(num_neighbors=1, num_dissimilar=2)(codes, labels)
    loss = ContrastiveLoss(pos_margin=-1, neg_margin=9, distance=distance)(codes, labels, pairs)
    loss.backward()
    d = distance(codes.detach())
    a1, p, a2, n = pairs
    assert (len(a1), len(a2)) == (8, 16)
    assert_close(loss.detach(), (d[a1, p] + 1).mean() + (9 - d[a2, n]).mean())
    assert codes.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # PML's bar
def test_tuple_miner_of_a_trainer():
    features, labels = torch.randn(16, 6), torch.arange(16) % 4
    trunk = torch.nn.Linear(6, 4)
    before = trunk.weight.detach().clone()
    miner = AffinityGraphMiner(num_neighbors=1, num_dissimilar=1, collect_stats=True)
    MetricLossOnly(
        models={"trunk": trunk},
        optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.1)},
        batch_size=8,
        loss_funcs={"metric_loss": ContrastiveLoss(distance=HammingDistance(binarize=False))},
        mining_funcs={"tuple_miner": miner},
        dataset=torch.utils.data.TensorDataset(features, labels),
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
    ).train(num_epochs=1)
    assert miner.num_neg_pairs == 8
    assert not torch.equal(trunk.weight, before)


@pytest.mark.parametrize("name", ["num_neighbors", "num_dissimilar"])
def test_numbers_are_at_least_one(name):
    with pytest.raises(ValueError, match=f"`{name}` of at least 1, got 0"):
        AffinityGraphMiner(**{name: 0})


def test_kinds_of_labels_must_agree():
    codes, labels = torch.randn(4, 3), torch.arange(4)
    with pytest.raises(ValueError, match="`labels` and `ref_labels` of the same kind"):
        AffinityGraphMiner()(codes, labels, codes, torch.eye(4))
