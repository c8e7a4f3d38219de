"""FastHash: a block's cut is the best of all its bits, and never raises the objective."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pml_hashing.baselines import FastHash, fasthash
from pml_hashing.baselines._residue import SimilarityResidue
from pml_hashing.baselines.fasthash import best_block, minimum_cut, similar_blocks, spectral_bit

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 3, 20)
HOT = (RNG.random((20, 4)) < 0.4).astype(np.uint8)
HOT[3] = 0
LABELS = pytest.mark.parametrize("labels", [IDS, HOT], ids=["ids", "multi-hot"])


def fasthash_reference(labels, bits, code_length):
    """|K S - sum_q b_q b_q'|^2, pair by pair."""
    total = 0
    for i in range(len(labels)):
        for j in range(len(labels)):
            same = labels[i] == labels[j] if labels.ndim == 1 else (labels[i] * labels[j]).any()
            total += (code_length * (1 if same else -1) - sum(b[i] * b[j] for b in bits)) ** 2
    return total


@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 7), strength=st.integers(0, 40))
def test_cut_equals_brute_force(seed, m, strength):
    rng = np.random.default_rng(seed)
    coupling = np.triu(rng.integers(0, 6, (m, m)), 1)
    coupling += coupling.T
    pull = rng.integers(-strength, strength + 1, m)

    def gain(bits):
        return bits @ coupling @ bits + 2 * bits @ pull

    found = minimum_cut(coupling, pull)
    assert set(found) <= {-1.0, 1.0}
    every = itertools.product((-1.0, 1.0), repeat=m)
    assert gain(found) == max(gain(np.array(bits)) for bits in every)


def test_cut_of_pulls_beyond_int32():
    pull = np.array([10**12, -(10**12), 10**12])
    assert minimum_cut(
        np.ones((3, 3), dtype=np.int64) - np.eye(3, dtype=np.int64), pull
    ).tolist() == [1, -1, 1]


@LABELS
def test_block_is_the_best_given_all_others(labels):
    previous = list(RNG.choice([-1.0, 1.0], (3, 20)))
    residue = SimilarityResidue(labels, 6)
    for bit in previous:
        residue.subtract(bit)
    bit = RNG.choice([-1.0, 1.0], 20)
    values = [fasthash_reference(labels, [*previous, bit], 6)]
    for block in similar_blocks(labels, 5):
        assert (residue.block(block) - np.diag(np.diag(residue.block(block))) >= 0).all()
        every = []
        for bits in itertools.product((-1.0, 1.0), repeat=len(block)):
            other = bit.copy()
            other[block] = bits
            every.append(fasthash_reference(labels, [*previous, other], 6))
        bit[block] = best_block(bit, residue, block)
        values.append(fasthash_reference(labels, [*previous, bit], 6))
        assert values[-1] == min(every)
    assert values[-1] < values[0]


@LABELS
def test_blocks_from_many_starts(labels):
    """The same, by the matrix: late bits, whose blocks pull one another less than the rest does."""
    for _ in range(30):
        residue = SimilarityResidue(labels, 6)
        for bit in RNG.choice([-1.0, 1.0], (5, 20)):
            residue.subtract(bit)
        dense, bit = residue.block(np.arange(20)), RNG.choice([-1.0, 1.0], 20)
        for block in similar_blocks(labels, 6):
            every = np.tile(bit, (2 ** len(block), 1))
            every[:, block] = list(itertools.product((-1.0, 1.0), repeat=len(block)))
            bit[block] = best_block(bit, residue, block)
            assert bit @ dense @ bit == ((every @ dense) * every).sum(axis=1).max()


def test_blocks_cover_all_and_share_a_label():
    blocks = list(similar_blocks(IDS, 4))
    assert sorted(np.concatenate(blocks)) == list(range(20))
    assert all(1 <= len(block) <= 4 and len(set(IDS[block])) == 1 for block in blocks)
    blocks = list(similar_blocks(HOT, 4))
    assert set(np.concatenate(blocks)) == set(range(20))
    assert all(len(block) == 1 or HOT[block].all(axis=0).any() for block in blocks)
    assert list(similar_blocks(np.array([[0, 1]]), 4)) == [[0]]  # a class without samples


@LABELS
def test_start_is_the_first_eigenvector(labels):
    residue = SimilarityResidue(labels, 6)
    first = RNG.choice([-1.0, 1.0], 20)
    residue.subtract(first)
    vectors = np.linalg.eigh(residue.block(np.arange(20)))[1]
    signs = np.where(vectors[:, -1] >= 0, 1.0, -1.0)
    agreement = abs(signs @ spectral_bit(residue, np.random.RandomState(0)))
    assert agreement >= 18  # of 20: its precision is three digits


@LABELS
def test_every_bit_lowers_the_objective(labels):
    features = np.repeat(RNG.normal(size=(20, 3)), 25, axis=0)  # leaves hold 20 samples
    hasher = FastHash(6, num_trees=10, random_state=0).fit(features, np.repeat(labels, 25, axis=0))
    bits = list(hasher.transform(features[::25]).T.astype(float))
    values = [fasthash_reference(labels, bits[:count], 6) for count in range(7)]
    assert (np.diff(values) < 0).all()


def test_what_trees_say_is_subtracted_and_all_blocks_are_swept(monkeypatch):
    """Of 20 samples, all in one leaf, trees say another bit than the one that was inferred."""
    said, visited, features = [], [], RNG.normal(size=(20, 3))

    def visit(bit, _, block):
        visited.append(block)
        return bit[block]

    monkeypatch.setattr(SimilarityResidue, "subtract", lambda _, bit: said.append(bit))
    monkeypatch.setattr(fasthash, "best_block", visit)
    hasher = FastHash(2, num_trees=1, sweeps=5, random_state=0).fit(features, IDS)
    assert np.array_equal(np.column_stack(said), hasher.transform(features))
    assert len(visited) == 2 * 5 * 3


def test_arguments_reach_the_trees():
    hasher = FastHash(2, num_trees=3, max_depth=2, learning_rate=0.7, random_state=0)
    for trees in hasher.fit(RNG.normal(size=(20, 3)), IDS).estimators_:
        assert (trees.max_iter, trees.n_iter_, trees.max_depth) == (3, 3, 2)
        assert trees.learning_rate == 0.7
