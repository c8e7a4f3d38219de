"""DSDHLoss against its printed objective, in loops, and against brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing import CodeBank
from pml_hashing.losses import DSDHLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}
WEIGHTS = {"mu": 1.5, "nu": 0.8, "eta": 2.0}
LIKELIHOOD_WEIGHT = 1.0


def rows_of(labels, num_classes=3):
    """Y as nested lists."""
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels.long(), num_classes)
    return labels.int().tolist()


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def distance(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def log_1_plus_exp(x):
    return torch.log1p(x.exp()) if isinstance(x, torch.Tensor) else math.log1p(math.exp(x))


def dsdh_reference(networks, learned, weights, labels, *, mu, nu, eta):
    """The terms of J as printed; `networks` holds U, and V where there are two."""
    n, num_bits = len(labels), len(learned[0])
    similar = [[any(a * b for a, b in zip(y, z, strict=True)) for z in labels] for y in labels]
    likelihood = 0.0
    for i, j in itertools.product(range(n), repeat=2):
        if len(networks) == 1 and i == j:
            continue
        theta = dot(networks[0][i], networks[-1][j]) / 2
        loss = log_1_plus_exp(theta) - similar[i][j] * theta
        likelihood += loss / (n * n if len(networks) == 2 else n * (n - 1))
    errors = quantization = 0.0
    for code, label in zip(learned, labels, strict=True):
        fit = [dot(code, column) for column in zip(*weights, strict=True)]
        errors += mu * distance(label, fit)
    for codes in networks:
        quantization += sum(distance(u, b) for u, b in zip(codes, learned, strict=True))
    penalty = nu * sum(w * w for row in weights for w in row)
    return {
        "likelihood_loss": likelihood,
        "regression_loss": (errors + penalty) / n,
        "quantization_loss": eta * quantization / (n * num_bits),
    }


def learned_of(bank):
    """B and W."""
    return bank.binary_codes.tolist(), bank.class_weights[0].tolist()


def make_codes(n=6, code_length=4, num_networks=1, **kwargs):
    return [torch.tanh(torch.randn(n, code_length, **kwargs)) for _ in range(num_networks)]


def as_arguments(codes):
    return {"embeddings": codes[0], **({"ref_emb": codes[1]} if len(codes) == 2 else {})}


def make_bank(labels, num_networks=1, code_length=4, num_classes=3, **options):
    """A loss with a bank that has seen codes of all samples, and these codes."""
    bank = CodeBank(labels, code_length, num_classes=num_classes, num_networks=num_networks)
    loss_func = DSDHLoss(num_classes, code_length, code_bank=bank, **options)
    codes = make_codes(len(labels), code_length, num_networks)
    loss_func(**as_arguments(codes), sample_indices=torch.arange(len(labels)))
    return loss_func, codes


def bank_reference(bank, codes, labels, **options):
    """The terms of J for what a bank holds."""
    rows = rows_of(labels, bank.num_classes)
    return dsdh_reference(codes, *learned_of(bank), rows, **options)


def values_of(codes):
    return [c.tolist() for c in codes]


def terms_of(loss_func, codes, labels, **kwargs):
    """The mean of every sub-loss."""
    loss_dict = loss_func.compute_loss(codes[0], labels, None, codes[-1], labels, **kwargs)
    return {name: loss["losses"].mean().item() for name, loss in loss_dict.items()}


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("num_networks", [1, 2])
def test_value_in_mini_batch_mode(labels, num_networks, device, dtype):
    codes = make_codes(num_networks=num_networks, dtype=dtype, device=device)
    loss_func = DSDHLoss(3, 4, **WEIGHTS).to(device)
    bank = CodeBank.of_batch(labels.to(device), 3, *codes)
    loss_func.solve_batch(bank)
    expected = bank_reference(bank, values_of(codes), labels, **WEIGHTS)
    found = terms_of(loss_func, codes, labels.to(device))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    loss = loss_func(**as_arguments(codes), labels=labels)
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_mean_loss_over_all_batches_is_the_objective(labels, num_networks):
    """With all samples of the bank in the likelihood. The discrete step leaves that one out."""
    loss_func, codes = make_bank(labels, num_networks, **WEIGHTS, bank_samples=6)
    after = loss_func.update_codes().after
    expected = bank_reference(loss_func.code_bank, values_of(codes), labels, **WEIGHTS)
    means = [
        terms_of(loss_func, [c[rows] for c in codes], None, sample_indices=rows)
        for rows in torch.randperm(6).split(2)
    ]
    found = {name: sum(terms[name] for terms in means) / 3 for name in expected}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    rest = [value for name, value in expected.items() if name != "likelihood_loss"]
    assert after == pytest.approx(sum(rest), rel=1e-5)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    code_length=st.integers(1, 5),
    num_classes=st.integers(2, 4),
    num_networks=st.integers(1, 2),
    multi_hot=st.booleans(),
    weights=st.fixed_dictionaries(
        {name: st.sampled_from([0.0, 0.5, 2.0]) for name in ("mu", "eta")}
        | {"nu": st.sampled_from([0.1, 3.0])}
    ),
)
@settings(max_examples=40)
def test_discrete_step_lowers_the_objective_of_the_paper(
    seed, n, code_length, num_classes, num_networks, multi_hot, weights
):
    torch.manual_seed(seed)
    labels = torch.randint(2, (n, num_classes)) if multi_hot else torch.randint(num_classes, (n,))
    loss_func, codes = make_bank(labels, num_networks, code_length, num_classes, **weights)
    codes = values_of(codes)
    for _ in range(2):
        values = []
        terms = bank_reference(loss_func.code_bank, codes, labels, **weights)
        values.append(sum(terms.values()) - terms["likelihood_loss"])
        update = loss_func.update_codes()
        terms = bank_reference(loss_func.code_bank, codes, labels, **weights)
        values.append(sum(terms.values()) - terms["likelihood_loss"])
        assert list(update) == pytest.approx(values, rel=1e-5, abs=1e-6)
        assert values[1] <= values[0] + 1e-6 * max(1, abs(values[0]))
    assert set(loss_func.code_bank.binary_codes.unique().tolist()) <= {-1, 1}


@pytest.mark.parametrize("num_networks", [1, 2])
def test_gradient_in_mini_batch_mode(labels, num_networks, device):
    codes = make_codes(5, 3, num_networks, dtype=torch.float64, device=device)
    loss_func = DSDHLoss(3, 3, **WEIGHTS).to(device)
    codes = [c.requires_grad_() for c in codes]
    assert torch.autograd.gradcheck(
        lambda *c: loss_func(c[0], labels[:5], ref_emb=c[1] if len(c) == 2 else None), codes
    )


@pytest.mark.parametrize("num_networks", [1, 2])
def test_gradient_in_data_set_mode(labels, num_networks):
    """The batch moves, at both ends of its pairs, and the rest stays as the bank has it."""
    loss_func, everyone = make_bank(labels, num_networks, **WEIGHTS, bank_samples=100)
    loss_func.update_codes()
    bank, rows = loss_func.code_bank, torch.tensor([4, 1, 2])
    some = [c.requires_grad_() for c in make_codes(3, 4, num_networks)]
    loss = loss_func(**as_arguments(some), sample_indices=rows)
    loss.backward()
    everyone = [c.double() for c in everyone]
    moved = [c.detach().double().requires_grad_() for c in some]
    for codes, new in zip(everyone, moved, strict=True):
        codes[rows] = new
    terms = bank_reference(bank, everyone, labels, **WEIGHTS)
    (sum(terms.values()) * 6 / 3).backward()
    for found, expected in zip(some, moved, strict=True):
        assert_close(found.grad.double(), expected.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_pairs_of_a_miner_replace_those_of_the_likelihood(labels, num_networks):
    codes, loss_func = make_codes(num_networks=num_networks), DSDHLoss(3, 4, **WEIGHTS)
    pairs = tuple(torch.tensor(x) for x in ([0, 0, 4], [1, 5, 2], [0], [3]))
    thetas = [dot(codes[0][i], codes[-1][j]) / 2 for i, j in ((0, 1), (0, 5), (4, 2), (0, 3))]
    similar = (1, 1, 1, 0)
    expected = sum(log_1_plus_exp(t) - s * t for t, s in zip(thetas, similar, strict=True)) / 4
    loss_dict = loss_func.compute_loss(codes[0], labels, pairs, codes[-1], labels)
    found = loss_dict["likelihood_loss"]["losses"]
    assert_close(found.mean(), expected * LIKELIHOOD_WEIGHT, rtol=1e-5, atol=1e-6)
    none = (torch.tensor([], dtype=torch.long),) * 4
    loss_dict = loss_func.compute_loss(codes[0], labels, none, codes[-1], labels)
    assert (loss_dict["likelihood_loss"]["losses"] == 0).all()


def test_some_samples_of_the_bank_stand_for_all(labels):
    """Drawn with replacement: on average, the likelihood with all."""
    losses = {}
    for samples in (3, 6):
        torch.manual_seed(1)
        loss_func, codes = make_bank(labels, 2, **WEIGHTS, bank_samples=samples)
        rows = torch.arange(6)
        draws = [terms_of(loss_func, codes, None, sample_indices=rows) for _ in range(300)]
        losses[samples] = [draw["likelihood_loss"] for draw in draws]
    assert len(set(losses[6])) == 1
    assert len(set(losses[3])) > 30
    assert sum(losses[3]) / 300 == pytest.approx(losses[6][0], rel=0.05)


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 1, 0]), torch.tensor([[1, 1], [0, 1], [0, 0]])]
)
def test_last_bit_takes_the_best_of_all_its_values(labels, num_networks):
    for code_length in (1, 3):
        loss_func, codes = make_bank(labels, num_networks, code_length, 2, **WEIGHTS)
        after, (learned, weights) = loss_func.update_codes().after, learned_of(loss_func.code_bank)
        values = []
        for bits in itertools.product([-1, 1], repeat=3):
            candidate = [[*code[:-1], bit] for code, bit in zip(learned, bits, strict=True)]
            rows = rows_of(labels, 2)
            terms = dsdh_reference(values_of(codes), candidate, weights, rows, **WEIGHTS)
            values.append(sum(terms.values()) - terms["likelihood_loss"])
        assert after == pytest.approx(min(values), rel=1e-5)


def test_map_is_that_of_ridge_regression(labels):
    loss_func, _ = make_bank(labels, **WEIGHTS)
    bank = loss_func.code_bank
    codes, rows = bank.binary_codes.double(), torch.tensor(rows_of(labels)).double()
    loss_func.update_codes()
    system = codes.T @ codes + 0.8 / 1.5 * torch.eye(4)
    expected = torch.linalg.solve(system, codes.T @ rows)
    assert_close(bank.class_weights[0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": -1}, "`mu` of at least 0, got -1"),
        ({"nu": 0}, "positive `nu`, got 0"),
        ({"eta": float("nan")}, "`eta` of at least 0, got nan"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"bank_samples": -1}, "`bank_samples` of at least 0, got -1"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DSDHLoss(**{"num_classes": 3, "code_length": 4, **options})
