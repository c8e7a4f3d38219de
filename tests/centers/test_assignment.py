"""The assignment of codes to classes against all permutations, and all swaps of two."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.centers import assign_codes, assignment, linear_codes, spread_codes


def assignment_reference(codes, similarity):
    """The printed objective, pair by pair."""
    return sum(
        similarity[i][j] * sum(a * b for a, b in zip(codes[i], codes[j], strict=True))
        for i, j in itertools.permutations(range(len(similarity)), 2)
    )


def make_problem(seed, num_classes, code_length, num_codes=None):
    """Return codes, some of them equal, and similarities, half of them whole numbers with ties."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_codes or num_classes, code_length)
    codes = torch.randint(2, shape, generator=generator) * 2.0 - 1
    similarity = torch.randn(num_classes, num_classes, generator=generator)
    return codes, similarity.round() if seed % 2 else similarity


def best_of_all(codes, similarity):
    rows, size = codes.tolist(), len(similarity)
    return max(
        assignment_reference([rows[k] for k in order], similarity.tolist())
        for order in itertools.permutations(range(len(rows)), size)
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.integers(2, 5),
    code_length=st.integers(1, 6),
    more=st.integers(0, 1),
)
@settings(max_examples=60)
def test_never_below_the_codes_as_given_nor_above_the_best(seed, num_classes, code_length, more):
    codes, similarity = make_problem(seed, num_classes, code_length, num_classes + more)
    found = assign_codes(codes, similarity)
    assert sorted(found.tolist()) == sorted(codes.tolist())
    value = assignment_reference(found.tolist(), similarity.tolist())
    assert value >= assignment_reference(codes.tolist(), similarity.tolist()) - 1e-4
    assert value <= best_of_all(codes, similarity) + 1e-4


def test_the_best_of_all_permutations_is_found_most_of_the_time():
    found = 0
    for seed in range(20):
        codes, similarity = make_problem(seed, 6, 8)
        value = assignment_reference(assign_codes(codes, similarity).tolist(), similarity.tolist())
        found += value >= best_of_all(codes, similarity) - 1e-3
    assert found >= 18  # a local search: it is not certain to


@pytest.mark.parametrize("more", [0, 3])
@pytest.mark.parametrize("seed", range(3))
def test_no_swap_of_two_is_better(seed, more):
    codes, similarity = make_problem(seed, 20, 12, 20 + more)
    found = assign_codes(codes, similarity, seed=seed).tolist()
    value = assignment_reference(found, similarity.tolist())
    for i, j in itertools.combinations(range(20 + more), 2):
        swapped = list(found)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        assert assignment_reference(swapped, similarity.tolist()) <= value + 0.05


def test_swaps_of_many_blocks_end_where_no_swap_is_better(monkeypatch):
    monkeypatch.setattr(assignment, "CLASSES_OF_A_BLOCK", 4)
    test_no_swap_of_two_is_better(0, 0)


@pytest.mark.parametrize("size", [30, 60])
def test_a_search_that_does_not_see_all_pairs_still_gains(monkeypatch, size):
    codes, similarity = make_problem(0, size, 16)
    complete = assign_codes(codes, similarity, starts=1)
    monkeypatch.setattr(assignment, "MOST_PARTNERS", 10)
    monkeypatch.setattr(assignment, "CLASSES_OF_A_BLOCK", 7)
    some = assign_codes(codes, similarity, starts=1)
    before, after, most = (
        assignment_reference(c.tolist(), similarity.tolist()) for c in (codes, some, complete)
    )
    assert sorted(some.tolist()) == sorted(codes.tolist())
    assert after - before > 0.7 * (most - before)


def chain_of_classes(size):
    places = torch.arange(size, dtype=torch.float32)[:, None]
    return -torch.cdist(places, places)


def test_classes_that_are_alike_get_near_codes():
    codes = spread_codes(100, 16)
    found = assign_codes(codes, chain_of_classes(100))
    neighbours = [(c[1:] * c[:-1]).sum(dim=1).mean() for c in (codes, found)]
    assert neighbours[1] > neighbours[0] + 4  # two bits nearer


def test_thousands_of_classes():
    codes = linear_codes(2000, 16)
    similarity = chain_of_classes(2000)
    found = assign_codes(codes, similarity)
    ranks = [(similarity * (c @ c.T)).sum() for c in (codes, found)]
    assert ranks[1] > ranks[0]
    assert torch.equal(found.unique(dim=0), codes.unique(dim=0))


@given(seed=st.integers(0, 999), shift=st.floats(-5, 5), stretch=st.sampled_from([0.25, 4.0]))
@settings(max_examples=20)
def test_only_differences_and_ratios_of_similarities_matter(seed, shift, stretch):
    codes, similarity = make_problem(seed, 5, 8)
    both = [
        assignment_reference(assign_codes(codes, s).tolist(), similarity.tolist())
        for s in (similarity, stretch * similarity + shift)
    ]
    assert both[1] == pytest.approx(both[0], abs=1e-3)  # ten starts find the best of 120


def test_the_diagonal_does_not_matter_and_the_mean_of_two_entries_does():
    codes, similarity = make_problem(0, 12, 8)
    expected = assign_codes(codes, similarity)
    symmetric = (similarity + similarity.T) / 2
    assert_close(assign_codes(codes, symmetric.fill_diagonal_(7)), expected, rtol=0, atol=0)


def test_it_is_deterministic_and_leaves_its_arguments_and_the_seed_alone():
    codes, similarity = make_problem(0, 30, 16)
    kept = codes.clone(), similarity.clone()
    state = torch.get_rng_state()
    found = assign_codes(codes, similarity, seed=3)
    assert_close(assign_codes(codes, similarity, seed=3), found, rtol=0, atol=0)
    assert_close((codes, similarity), kept, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", [torch.int8, torch.float16, torch.float64])
def test_codes_keep_their_dtype_and_device(kind, device):
    codes, similarity = make_problem(0, 6, 8)
    found = assign_codes(codes.to(device, kind), similarity.to(device))
    assert (found.dtype, found.device.type) == (kind, device.type)
    assert_close(found.float().cpu(), assign_codes(codes, similarity))


def test_classes_that_are_all_alike_keep_their_codes():
    codes, _ = make_problem(0, 6, 8)
    assert_close(assign_codes(codes, torch.zeros(6, 6)), codes, rtol=0, atol=0)
    assert_close(assign_codes(codes[:1], torch.zeros(1, 1)), codes[:1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("codes", "similarity", "options", "message"),
    [
        (torch.ones(2, 4), torch.zeros(3, 3), {}, r"at least 3 of them, .* got \(2, 4\)"),
        (torch.ones(3), torch.zeros(3, 3), {}, r"`codes` of shape .* got \(3,\)"),
        (torch.ones(3, 4), torch.zeros(3, 2), {}, r"`class_similarity` of shape .* got \(3, 2\)"),
        (
            torch.ones(3, 4),
            torch.full((3, 3), torch.nan),
            {},
            "finite values in `class_similarity`",
        ),
        (torch.ones(3, 4), torch.zeros(3, 3), {"starts": 0}, "`starts` of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(codes, similarity, options, message):
    with pytest.raises(ValueError, match=message):
        assign_codes(codes, similarity, **options)
