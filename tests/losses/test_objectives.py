"""Losses with learned codes against their printed objectives, in loops, and brute force.

The file of each loss says what its objective is: see `Objective`.
"""

import itertools

import pytest
import test_adsh
import test_adsq
import test_dadh
import test_daph
import test_dfh
import test_dsaha
import test_dsdh
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import (
    LABELS,
    as_arguments,
    log_1_plus_exp,
    make_codes,
    terms_of,
    values_of,
    weighted_mean,
)
from torch.testing import assert_close

from pml_hashing import CodeBank, DSAHLoss, losses

FILES = (test_adsh, test_adsq, test_dadh, test_daph, test_dfh, test_dsaha, test_dsdh)
CASES = {file.__name__[5:]: file.OBJECTIVE for file in FILES}
PAIRED = [name for name, case in CASES.items() if case.likelihood_weight is not None]
SOFT = [name for name, case in CASES.items() if "soft_similarity" in case.choices]
FIVE = [torch.arange(i, i + 5) % 6 for i in range(6)]
"""Batches of five of six samples, with every sample in five of them."""


def test_every_loss_with_learned_codes_is_here():
    discrete = {losses.DiscreteLoss, losses.DSAHLoss}  # the latter has tests of its own
    classes = {getattr(losses, name) for name in losses.__all__}
    found = {c for c in classes if isinstance(c, type) and issubclass(c, losses.DiscreteLoss)}
    assert found - discrete == {case.loss_class for case in CASES.values()}


@pytest.mark.parametrize(("num_classes", "code_length"), [(1, 4), (3, 0), (3, -1)])
@pytest.mark.parametrize("paper", CASES)
def test_sizes_are_checked_before_weights_are_scaled_by_them(paper, num_classes, code_length):
    name = "num_classes" if num_classes == 1 else "code_length"
    with pytest.raises(ValueError, match=f"`{name}` of at least"):
        CASES[paper].make_loss(num_classes, code_length)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", CASES)
def test_value_in_mini_batch_mode(paper, labels, num_networks, device, dtype):
    case, codes = CASES[paper], make_codes(num_networks=num_networks, dtype=dtype, device=device)
    loss_func = case.make_loss(**case.weights).to(device)
    bank = loss_func.solve_batch(labels.to(device), *codes)
    expected = case.terms(loss_func, bank, values_of(codes), labels)
    found = terms_of(loss_func, codes, labels.to(device))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    loss = loss_func(**as_arguments(codes), labels=labels)
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", CASES)
def test_mean_loss_over_all_batches_is_the_objective(paper, labels, num_networks):
    """With all samples of the bank in the likelihood."""
    case, options = CASES[paper], {"bank_samples": 6} if paper in PAIRED else {}
    loss_func, codes = case.make_bank(labels, num_networks, **case.weights, **options)
    after = loss_func.update_codes().after
    expected = case.terms(loss_func, loss_func.code_bank, values_of(codes), labels)
    means = [
        terms_of(loss_func, [c[rows] for c in codes], None, sample_indices=rows) for rows in FIVE
    ]
    found = {name: sum(terms[name] for terms in means) / 6 for name in expected}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    rest = case.discrete(loss_func, loss_func.code_bank, values_of(codes), labels)
    assert after == pytest.approx(rest, rel=1e-5)


@pytest.mark.parametrize("paper", CASES)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    code_length=st.integers(1, 5),
    num_classes=st.integers(2, 4),
    num_networks=st.integers(1, 2),
    multi_hot=st.booleans(),
    data=st.data(),
)
@settings(max_examples=30)
def test_discrete_step_lowers_the_objective_of_the_paper(
    paper, seed, n, code_length, num_classes, num_networks, multi_hot, data
):
    case = CASES[paper]
    choices = {name: st.sampled_from(values) for name, values in case.choices.items()}
    weights = data.draw(st.fixed_dictionaries(choices))
    torch.manual_seed(seed)
    labels = torch.randint(2, (n, num_classes)) if multi_hot else torch.randint(num_classes, (n,))
    loss_func, codes = case.make_bank(labels, num_networks, code_length, num_classes, **weights)
    state = (loss_func, loss_func.code_bank, values_of(codes), labels)
    for _ in range(2):
        before = case.discrete(*state, **weights)
        update = loss_func.update_codes()
        after = case.discrete(*state, **weights)
        assert list(update) == pytest.approx([before, after], rel=1e-5, abs=1e-6)
        assert after <= before + 1e-6 * max(1, abs(before))
    assert set(loss_func.code_bank.binary_codes.unique().tolist()) <= {-1, 1}


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 1, 0]), torch.tensor([[1, 1], [0, 1], [0, 0]])]
)
@pytest.mark.parametrize("paper", [paper for paper in CASES if paper != "daph"])  # has two sets
def test_last_bit_takes_the_best_of_all_its_values(paper, labels, num_networks):
    """With one bit, these are all codes."""
    case = CASES[paper]
    for code_length in (1, 3):
        loss_func, codes = case.make_bank(labels, num_networks, code_length, 2, **case.weights)
        after, bank, values = loss_func.update_codes().after, loss_func.code_bank, []
        for bits in itertools.product([-1, 1], repeat=3):
            candidate = bank.binary_codes.clone()
            candidate[:, -1] = torch.tensor(bits)
            learned = candidate.tolist()
            values.append(case.discrete(loss_func, bank, values_of(codes), labels, learned))
        assert after == pytest.approx(min(values), rel=1e-5)


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", CASES)
def test_gradient_in_mini_batch_mode(paper, labels, num_networks, device):
    case, codes = CASES[paper], make_codes(5, 3, num_networks, dtype=torch.float64, device=device)
    loss_func = case.make_loss(code_length=3, **case.weights).to(device).double()
    codes = [c.requires_grad_() for c in codes]
    assert torch.autograd.gradcheck(
        lambda *c: loss_func(c[0], labels[:5], ref_emb=c[1] if len(c) == 2 else None), codes
    )


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", CASES)
def test_gradient_in_data_set_mode(paper, labels, num_networks):
    """The batch moves, at both ends of its pairs, and the rest stays as the bank has it."""
    case, options = CASES[paper], {"bank_samples": 100} if paper in PAIRED else {}
    loss_func, everyone = case.make_bank(labels, num_networks, **case.weights, **options)
    loss_func.update_codes()
    rows = torch.tensor([4, 1, 2, 5, 0])
    some = [c.requires_grad_() for c in make_codes(5, 4, num_networks)]
    loss_func(**as_arguments(some), sample_indices=rows).backward()
    everyone = [c.double() for c in everyone]
    moved = [c.detach().double().requires_grad_() for c in some]
    for codes, new in zip(everyone, moved, strict=True):
        codes[rows] = new
    terms = case.terms(loss_func, loss_func.code_bank, everyone, labels)
    (sum(terms.values()) * 6 / 5).backward()
    for found, expected in zip(some, moved, strict=True):
        assert_close(found.grad.double(), expected.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", PAIRED)
def test_pairs_of_a_miner_replace_those_of_the_likelihood(paper, labels, num_networks):
    case, codes = CASES[paper], make_codes(num_networks=num_networks)
    loss_func = case.make_loss(**case.weights)
    pairs = tuple(torch.tensor(x) for x in ([0, 0, 4], [1, 5, 2], [0], [3]))
    thetas = [codes[0][i] @ codes[-1][j] / 2 for i, j in ((0, 1), (0, 5), (4, 2), (0, 3))]
    similar = (1, 1, 1, 0)
    losses = [log_1_plus_exp(t) - s * t for t, s in zip(thetas, similar, strict=True)]
    expected = weighted_mean(losses, similar, case.weights["similar_weight"])
    loss_dict = loss_func.compute_loss(codes[0], labels, pairs, codes[-1], labels)
    found = loss_dict["likelihood_loss"]["losses"]
    assert_close(found.mean(), expected * case.likelihood_weight, rtol=1e-5, atol=1e-6)
    none = (torch.tensor([], dtype=torch.long),) * 4
    loss_dict = loss_func.compute_loss(codes[0], labels, none, codes[-1], labels)
    assert (loss_dict["likelihood_loss"]["losses"] == 0).all()


@pytest.mark.parametrize("paper", PAIRED)
def test_some_samples_of_the_bank_stand_for_all(paper, labels):
    """Drawn with replacement: on average, the likelihood with all."""
    case, values = CASES[paper], {}
    for samples in (3, 6):
        torch.manual_seed(1)
        loss_func, codes = case.make_bank(labels, 2, **case.weights, bank_samples=samples)
        rows = torch.arange(6)
        draws = [terms_of(loss_func, codes, None, sample_indices=rows) for _ in range(300)]
        values[samples] = [draw["likelihood_loss"] for draw in draws]
    assert len(set(values[6])) == 1
    assert len(set(values[3])) > 30
    assert sum(values[3]) / 300 == pytest.approx(values[6][0], rel=0.05)


@pytest.mark.parametrize("paper", SOFT)
def test_hard_similarity_is_a_flag(paper, labels):
    case, codes = CASES[paper], make_codes(num_networks=2)
    options = {**case.weights, "soft_similarity": False}
    loss_func = case.make_loss(**options)
    bank = loss_func.solve_batch(labels, *codes)
    expected = case.terms(loss_func, bank, values_of(codes), labels, **options)
    assert terms_of(loss_func, codes, labels) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", CASES)
def test_is_right_on_a_bank_that_another_loss_started_and_changes(paper, labels, num_networks):
    case, rows = CASES[paper], torch.arange(6)
    bank = CodeBank(labels, 4, num_classes=3, num_networks=num_networks)
    other = DSAHLoss(3, 4, code_bank=bank, inner_product_weight=5.0, quantization_weight=9.0)
    options = {"bank_samples": 6} if paper in PAIRED else {}
    loss_func = case.make_loss(code_bank=bank, **case.weights, **options)
    for _ in range(2):
        codes = make_codes(num_networks=num_networks)
        other(**as_arguments(codes), sample_indices=rows)
        other.update_codes()
        found = terms_of(loss_func, codes, None, sample_indices=rows)
        expected = case.terms(loss_func, bank, values_of(codes), labels)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    before, after = loss_func.update_codes()
    assert after <= before + 1e-6
