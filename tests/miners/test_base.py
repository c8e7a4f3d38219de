"""BaseHashingMiner.forward: PML's on class ids, and multi-hot labels besides."""

import pytest
import torch
from pytorch_metric_learning.miners import BaseMiner
from torch.testing import assert_close

from pml_hashing.distances import HammingDistance
from pml_hashing.miners import BaseHashingMiner
from pml_hashing.pairs import to_pairs


class AllPairs(BaseHashingMiner):
    def mine(self, embeddings, labels, ref_emb, ref_labels):
        assert not torch.is_grad_enabled()
        assert {x.device for x in (labels, ref_emb, ref_labels)} == {embeddings.device}
        return to_pairs(None, labels, ref_labels)


class Triplets(BaseHashingMiner):
    def mine(self, embeddings, labels, ref_emb, ref_labels):
        return (torch.arange(2),) * 3


@pytest.mark.parametrize("with_ref", [False, True])
def test_agrees_with_pml_on_class_ids(with_ref, device):
    codes, labels = torch.randn(8, 4, device=device), torch.randint(3, (8,))
    refs = (torch.randn(5, 4, device=device), torch.randint(3, (5,))) if with_ref else ()
    miner, pml_miner = AllPairs(collect_stats=True), AllPairs(collect_stats=True)
    found = miner(codes, labels, *refs)
    assert_close(found, BaseMiner.forward(pml_miner, codes, labels, *refs))
    assert (miner.num_pos_pairs, miner.num_neg_pairs) == (len(found[0]), len(found[2]))
    assert (pml_miner.num_pos_pairs, pml_miner.num_neg_pairs) == (len(found[0]), len(found[2]))


def test_one_hot_labels_are_class_ids():
    codes, labels = torch.randn(8, 4), torch.randint(3, (8,))
    one_hot = torch.nn.functional.one_hot(labels, 3)
    assert_close(AllPairs()(codes, one_hot), AllPairs()(codes, labels))


def test_a_second_network_of_the_same_samples_makes_no_self_pairs(device):
    codes, labels = torch.randn(4, 4, device=device), torch.tensor([0, 0, 1, 1])
    anchors, positives, _, _ = AllPairs()(codes, labels, torch.randn_like(codes), labels)
    assert (anchors.tolist(), positives.tolist()) == ([0, 1, 2, 3], [1, 0, 3, 2])
    anchors, positives, _, _ = AllPairs()(codes, labels, torch.randn_like(codes), labels.clone())
    assert len(anchors) == len(positives) == 8


def test_triplets_may_be_mined():
    miner = Triplets(collect_stats=True)
    assert len(miner(torch.randn(3, 4), torch.arange(3))) == 3
    assert miner.num_triplets == 2


def test_default_distance_is_relaxed():
    assert isinstance(AllPairs().distance, HammingDistance)
    assert AllPairs().distance.binarize is False


@pytest.mark.parametrize(
    ("codes_shape", "labels_shape", "message"),
    [
        ((4, 3, 2), (4,), r"`embeddings` of shape \(batch_size, .*\), not empty, got \(4, 3, 2\)"),
        ((0, 3), (0,), r"`embeddings` of shape .* got \(0, 3\)"),
        ((4, 3), (5,), r"`labels` of shape \(4,\) .* got \(5,\)"),
        ((4, 3), (4, 2, 2), r"`labels` of shape \(4,\) .* got \(4, 2, 2\)"),
    ],
)
def test_wrong_shapes_are_named(codes_shape, labels_shape, message):
    codes, labels = torch.zeros(codes_shape), torch.zeros(labels_shape).long()
    with pytest.raises(ValueError, match=message):
        AllPairs()(codes, labels)
    message = message.replace("`labels`", "`ref_labels`").replace("`embeddings`", "`ref_emb`")
    with pytest.raises(ValueError, match=message.replace("batch_size, .*", "batch_size, 3")):
        AllPairs()(torch.zeros(4, 3), torch.zeros(4).long(), codes, labels)


def test_reference_needs_labels_and_the_same_code_length():
    codes, labels = torch.zeros(4, 3), torch.zeros(4).long()
    with pytest.raises(ValueError, match="`ref_labels` together with `ref_emb`"):
        AllPairs()(codes, labels, ref_emb=codes)
    with pytest.raises(ValueError, match=r"`ref_emb` of shape \(batch_size, 3\), .* got \(4, 2\)"):
        AllPairs()(codes, labels, torch.zeros(4, 2), labels)
    with pytest.raises(TypeError, match=r"`labels` to be a torch\.Tensor, got list"):
        AllPairs()(codes, [0, 0, 1, 1])


@pytest.mark.parametrize("values", [[torch.nan, -1.0], [torch.inf, 0.5], [0.0, 1.0]])
def test_codes_that_have_no_bits_are_named(values):
    codes, labels = torch.tensor(values).expand(4, 2), torch.arange(4)
    for given, name in (
        ((codes, labels), "embeddings"),
        ((-torch.ones(4, 2), labels, codes, labels), "ref_emb"),
    ):
        with pytest.raises(ValueError, match=rf"Expected .*`{name}`.* (NaN|0 and 1 alone)"):
            AllPairs()(*given)


def test_class_ids_are_integers():
    with pytest.raises(TypeError, match=r"`labels` with integer class ids, got torch\.float32"):
        AllPairs()(torch.randn(4, 2), torch.tensor([0.0, 1.0, torch.nan, 1.0]))


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, "tensors of int64 or int32, got NoneType"),
        (([0], [1], [2]), TypeError, "got list, list, list"),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(2)), TypeError, r"got torch\.float32"),
        ((torch.ones(2, 2).long(),) * 3, ValueError, r"got shapes \(2, 2\)"),
        ((torch.tensor([0]),) * 2, ValueError, r"or pairs, .* got shapes \(1,\), \(1,\)"),
        ((torch.tensor([9]),) * 3, ValueError, "in tensor 0 places from 0 to 3, got 9 to 9"),
    ],
)
def test_what_a_miner_of_your_own_returns_is_checked(returned, error, message):
    class Wrong(BaseHashingMiner):
        def mine(self, embeddings, labels, ref_emb, ref_labels):
            return returned

    with pytest.raises(error, match=f"Expected what `mine` of Wrong returns to hold .*{message}"):
        Wrong()(torch.randn(4, 8), torch.tensor([0, 0, 1, 1]))
