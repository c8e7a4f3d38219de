"""Losses with learned codes against their printed objectives, in loops, and brute force.

The file of a loss has its reference and, for this one:

- `learned_of`, what stands in the objective beside the networks' codes; the binary codes first;
- `WEIGHTS` of the objective, and `CHOICES` of them for the discrete step;
- `OPTIONS`, if any, of the loss alone;
- `CONTINUOUS`, if not the likelihood alone: terms in which no binary code stands.
"""

import importlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import (
    LABELS,
    as_arguments,
    log_1_plus_exp,
    make_codes,
    rows_of,
    terms_of,
    values_of,
)
from torch.testing import assert_close

from pml_hashing import CodeBank, losses

PAPERS = ["adsh", "adsq", "dadh", "daph", "dsaha", "dsdh"]
PAIRED = ["adsq", "dadh", "daph", "dsdh"]
FIVE = [torch.arange(i, i + 5) % 6 for i in range(6)]
"""Batches of five of six samples, with every sample in five of them."""


class Case:
    """A loss by its paper, and its reference."""

    def __init__(self, paper):
        self.module = importlib.import_module(f"test_{paper}")
        self.loss_class = getattr(losses, f"{paper.upper()}Loss")
        self.reference = getattr(self.module, f"{paper}_reference")
        self.weights = self.module.WEIGHTS
        self.continuous = getattr(self.module, "CONTINUOUS", {"likelihood_loss"})

    def make_loss(self, num_classes=3, code_length=4, **options):
        return self.loss_class(
            num_classes, code_length, **getattr(self.module, "OPTIONS", {}), **options
        )

    def make_bank(self, labels, num_networks=1, code_length=4, num_classes=3, **options):
        """A loss with a bank that has seen codes of all samples, and these codes."""
        bank = CodeBank(
            labels,
            code_length,
            num_classes=num_classes,
            num_networks=num_networks,
            query_binary_codes=num_networks == 2,
        )
        loss_func = self.make_loss(num_classes, code_length, code_bank=bank, **options)
        codes = make_codes(len(labels), code_length, num_networks)
        loss_func(**as_arguments(codes), sample_indices=torch.arange(len(labels)))
        return loss_func, codes

    def terms(self, loss_func, bank, codes, labels, learned=None, **options):
        """The terms of J for what a bank holds, or for other binary codes."""
        known = self.module.learned_of(loss_func, bank)
        known = known if learned is None else (learned, *known[1:])
        options = options or self.weights
        return self.reference(codes, *known, rows_of(labels, bank.num_classes), **options)

    def objective(self, *args, **options):
        """The terms in which binary codes stand."""
        terms = self.terms(*args, **options).items()
        return sum(value for name, value in terms if name not in self.continuous)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", PAPERS)
def test_value_in_mini_batch_mode(paper, labels, num_networks, device, dtype):
    case, codes = Case(paper), make_codes(num_networks=num_networks, dtype=dtype, device=device)
    loss_func = case.make_loss(**case.weights).to(device)
    bank = CodeBank.of_batch(labels.to(device), 3, *codes)
    loss_func.solve_batch(bank)
    expected = case.terms(loss_func, bank, values_of(codes), labels)
    found = terms_of(loss_func, codes, labels.to(device))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    loss = loss_func(**as_arguments(codes), labels=labels)
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", PAPERS)
def test_mean_loss_over_all_batches_is_the_objective(paper, labels, num_networks):
    """With all samples of the bank in the likelihood."""
    case, options = Case(paper), {"bank_samples": 6} if paper in PAIRED else {}
    loss_func, codes = case.make_bank(labels, num_networks, **case.weights, **options)
    after = loss_func.update_codes().after
    expected = case.terms(loss_func, loss_func.code_bank, values_of(codes), labels)
    means = [
        terms_of(loss_func, [c[rows] for c in codes], None, sample_indices=rows) for rows in FIVE
    ]
    found = {name: sum(terms[name] for terms in means) / 6 for name in expected}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    rest = case.objective(loss_func, loss_func.code_bank, values_of(codes), labels)
    assert after == pytest.approx(rest, rel=1e-5)


@pytest.mark.parametrize("paper", PAPERS)
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
    case = Case(paper)
    choices = {name: st.sampled_from(values) for name, values in case.module.CHOICES.items()}
    weights = data.draw(st.fixed_dictionaries(choices))
    torch.manual_seed(seed)
    labels = torch.randint(2, (n, num_classes)) if multi_hot else torch.randint(num_classes, (n,))
    loss_func, codes = case.make_bank(labels, num_networks, code_length, num_classes, **weights)
    state = (loss_func, loss_func.code_bank, values_of(codes), labels)
    for _ in range(2):
        before = case.objective(*state, **weights)
        update = loss_func.update_codes()
        after = case.objective(*state, **weights)
        assert list(update) == pytest.approx([before, after], rel=1e-5, abs=1e-6)
        assert after <= before + 1e-6 * max(1, abs(before))
    assert set(loss_func.code_bank.binary_codes.unique().tolist()) <= {-1, 1}


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 1, 0]), torch.tensor([[1, 1], [0, 1], [0, 0]])]
)
@pytest.mark.parametrize("paper", [paper for paper in PAPERS if paper != "daph"])  # has two sets
def test_last_bit_takes_the_best_of_all_its_values(paper, labels, num_networks):
    """With one bit, these are all codes."""
    case = Case(paper)
    for code_length in (1, 3):
        loss_func, codes = case.make_bank(labels, num_networks, code_length, 2, **case.weights)
        after, bank, values = loss_func.update_codes().after, loss_func.code_bank, []
        for bits in itertools.product([-1, 1], repeat=3):
            candidate = bank.binary_codes.clone()
            candidate[:, -1] = torch.tensor(bits)
            learned = candidate.tolist()
            values.append(case.objective(loss_func, bank, values_of(codes), labels, learned))
        assert after == pytest.approx(min(values), rel=1e-5)


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", PAPERS)
def test_gradient_in_mini_batch_mode(paper, labels, num_networks, device):
    case, codes = Case(paper), make_codes(5, 3, num_networks, dtype=torch.float64, device=device)
    loss_func = case.make_loss(code_length=3, **case.weights).to(device).double()
    codes = [c.requires_grad_() for c in codes]
    assert torch.autograd.gradcheck(
        lambda *c: loss_func(c[0], labels[:5], ref_emb=c[1] if len(c) == 2 else None), codes
    )


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("paper", PAPERS)
def test_gradient_in_data_set_mode(paper, labels, num_networks):
    """The batch moves, at both ends of its pairs, and the rest stays as the bank has it."""
    case, options = Case(paper), {"bank_samples": 100} if paper in PAIRED else {}
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
    case, codes = Case(paper), make_codes(num_networks=num_networks)
    loss_func = case.make_loss(**case.weights)
    pairs = tuple(torch.tensor(x) for x in ([0, 0, 4], [1, 5, 2], [0], [3]))
    thetas = [codes[0][i] @ codes[-1][j] / 2 for i, j in ((0, 1), (0, 5), (4, 2), (0, 3))]
    similar = (1, 1, 1, 0)
    expected = sum(log_1_plus_exp(t) - s * t for t, s in zip(thetas, similar, strict=True)) / 4
    loss_dict = loss_func.compute_loss(codes[0], labels, pairs, codes[-1], labels)
    found = loss_dict["likelihood_loss"]["losses"]
    assert_close(found.mean(), expected * case.module.LIKELIHOOD_WEIGHT, rtol=1e-5, atol=1e-6)
    none = (torch.tensor([], dtype=torch.long),) * 4
    loss_dict = loss_func.compute_loss(codes[0], labels, none, codes[-1], labels)
    assert (loss_dict["likelihood_loss"]["losses"] == 0).all()


@pytest.mark.parametrize("paper", PAIRED)
def test_some_samples_of_the_bank_stand_for_all(paper, labels):
    """Drawn with replacement: on average, the likelihood with all."""
    case, values = Case(paper), {}
    for samples in (3, 6):
        torch.manual_seed(1)
        loss_func, codes = case.make_bank(labels, 2, **case.weights, bank_samples=samples)
        rows = torch.arange(6)
        draws = [terms_of(loss_func, codes, None, sample_indices=rows) for _ in range(300)]
        values[samples] = [draw["likelihood_loss"] for draw in draws]
    assert len(set(values[6])) == 1
    assert len(set(values[3])) > 30
    assert sum(values[3]) / 300 == pytest.approx(values[6][0], rel=0.05)


@pytest.mark.parametrize("paper", ["adsh", "adsq", "dadh", "dsaha"])
def test_hard_similarity_is_a_flag(paper, labels):
    case, codes = Case(paper), make_codes(num_networks=2)
    options = {**case.weights, "soft_similarity": False}
    loss_func = case.make_loss(**options)
    bank = CodeBank.of_batch(labels, 3, *codes)
    loss_func.solve_batch(bank)
    expected = case.terms(loss_func, bank, values_of(codes), labels, **options)
    assert terms_of(loss_func, codes, labels) == pytest.approx(expected, rel=1e-5, abs=1e-6)
