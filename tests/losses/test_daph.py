"""DAPHLoss against its printed objective, in loops, and against brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing import CodeBank
from pml_hashing.losses import DAPHLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}
WEIGHTS = {"alpha": 1.5, "gamma": 0.25, "lambda_": 0.5, "beta": 2.0}
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


def daph_reference(networks, learned, second, labels, *, alpha, gamma, lambda_, beta):
    """The terms of J as printed; `networks` holds U, and Z where there are two.

    `learned` is B; `second` is H, or B again with one network.
    """
    n, num_bits = len(labels), len(learned[0])
    similar = [[any(a * b for a, b in zip(y, z, strict=True)) for z in labels] for y in labels]
    likelihood = quantization = independence = balance = 0.0
    for codes, own in zip(networks, (learned, second), strict=False):
        quantization += sum(distance(u, b) for u, b in zip(codes, own, strict=True))
        columns = [[u[k] for u in codes] for k in range(num_bits)]
        balance += sum((sum(column) / n) ** 2 for column in columns)
        for k, m in itertools.product(range(num_bits), repeat=2):
            independence += (dot(columns[k], columns[m]) / n - int(k == m)) ** 2
    for i, j in itertools.product(range(n), repeat=2):
        if len(networks) == 1 and i == j:
            continue
        theta = dot(networks[0][i], networks[-1][j]) / 2
        loss = log_1_plus_exp(theta) - similar[i][j] * theta
        likelihood += loss / (n * n if len(networks) == 2 else n * (n - 1))
    apart = sum(distance(b, h) for b, h in zip(learned, second, strict=True))
    return {
        "likelihood_loss": likelihood,
        "quantization_loss": alpha * quantization / (n * num_bits),
        "agreement_loss": gamma * apart / (n * num_bits),
        "independence_loss": lambda_ * independence / num_bits**2,
        "balance_loss": beta * balance / num_bits,
    }


def learned_of(bank):
    """B and H."""
    second = bank.binary_codes.tolist()
    first = bank.query_binary_codes if len(bank.networks) == 2 else bank.binary_codes
    return first.tolist(), second


def make_codes(n=6, code_length=4, num_networks=1, **kwargs):
    return [torch.tanh(torch.randn(n, code_length, **kwargs)) for _ in range(num_networks)]


def as_arguments(codes):
    return {"embeddings": codes[0], **({"ref_emb": codes[1]} if len(codes) == 2 else {})}


def make_bank(labels, num_networks=1, code_length=4, num_classes=3, **options):
    """A loss with a bank that has seen codes of all samples, and these codes."""
    bank = CodeBank(
        labels,
        code_length,
        num_classes=num_classes,
        num_networks=num_networks,
        query_binary_codes=num_networks == 2,
    )
    loss_func = DAPHLoss(num_classes, code_length, code_bank=bank, **options)
    codes = make_codes(len(labels), code_length, num_networks)
    loss_func(**as_arguments(codes), sample_indices=torch.arange(len(labels)))
    return loss_func, codes


def bank_reference(bank, codes, labels, **options):
    """The terms of J for what a bank holds."""
    rows = rows_of(labels, bank.num_classes)
    return daph_reference(codes, *learned_of(bank), rows, **options)


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
    loss_func = DAPHLoss(3, 4, **WEIGHTS).to(device)
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
        {name: st.sampled_from([0.0, 0.5, 2.0]) for name in ("alpha", "gamma", "lambda_", "beta")}
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
    loss_func = DAPHLoss(3, 3, **WEIGHTS).to(device)
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
    codes, loss_func = make_codes(num_networks=num_networks), DAPHLoss(3, 4, **WEIGHTS)
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


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 2.0])
def test_discrete_step_finds_the_best_of_all_codes(gamma):
    options = {**WEIGHTS, "alpha": 1.0, "gamma": gamma}
    labels = torch.tensor([0, 1])
    loss_func, codes = make_bank(labels, 2, 2, 2, **options)
    after, values = loss_func.update_codes().after, []
    for bits in itertools.product([-1, 1], repeat=8):
        learned = ([bits[:2], bits[2:4]], [bits[4:6], bits[6:]])
        terms = daph_reference(values_of(codes), *learned, rows_of(labels, 2), **options)
        values.append(sum(terms.values()) - terms["likelihood_loss"])
    assert after == pytest.approx(min(values), rel=1e-5)
    learned = loss_func.code_bank.query_binary_codes, loss_func.code_bank.binary_codes
    if gamma == 2.0:
        assert torch.equal(*learned)


def test_published_step_changes_no_code():
    """B = sign(alpha U + gamma H), then H = sign(alpha Z + gamma B), with alpha = gamma."""
    (u, z), h = make_codes(50, 8, 2), torch.randint(2, (50, 8)) * 2.0 - 1
    b = torch.sign(10 * u + 10 * h)
    assert torch.equal(b, h)
    assert torch.equal(torch.sign(10 * z + 10 * b), h)


def test_two_networks_need_two_sets_of_codes():
    bank = CodeBank(torch.tensor([0, 1]), 4, num_networks=2)
    with pytest.raises(ValueError, match=r"binary codes for both of its networks .* single set"):
        DAPHLoss(2, 4, code_bank=bank)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, "`alpha` of at least 0, got -1"),
        ({"gamma": -0.1}, r"`gamma` of at least 0, got -0\.1"),
        ({"lambda_": -1}, "`lambda_` of at least 0, got -1"),
        ({"beta": float("nan")}, "`beta` of at least 0, got nan"),
        ({"bank_samples": -1}, "`bank_samples` of at least 0, got -1"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DAPHLoss(**{"num_classes": 3, "code_length": 4, **options})
