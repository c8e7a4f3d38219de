"""DFHLoss against its printed objective, in loops, and against brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_hashing import CodeBank
from pml_hashing.losses import DFHLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}
WEIGHTS = {"margin": 0.7, "eta": 1.5, "mu": 0.6, "nu": 2.0}


def rows_of(labels, num_classes=3):
    """Y as nested lists."""
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels.long(), num_classes)
    return labels.int().tolist()


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def distance(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def pairs_reference(networks, labels, margin):
    """The sums over similar and over dissimilar pairs, and the number of all."""
    sums, num_pairs = [0.0, 0.0], 0
    for i, j in itertools.product(range(len(labels)), repeat=2):
        if len(networks) == 1 and i == j:
            continue
        theta = dot(networks[0][i], networks[-1][j]) / 2
        similar = any(a * b for a, b in zip(labels[i], labels[j], strict=True))
        sums[0 if similar else 1] += math.log1p(
            math.exp(margin - theta if similar else margin + theta)
        )
        num_pairs += 1
    return sums, num_pairs


def dfh_reference(networks, learned, centers, labels, *, margin, eta, mu, nu):
    """The terms of J as printed; `networks` holds U, and V where there are two."""
    n, num_bits, num_classes = len(labels), len(learned[0]), len(centers)
    (similar, dissimilar), num_pairs = pairs_reference(networks, labels, margin)
    quantization = within = between = 0.0
    for codes in networks:
        quantization += sum(distance(u, b) for u, b in zip(codes, learned, strict=True))
    for code, label in zip(learned, labels, strict=True):
        mean = [sum(y * c[k] for y, c in zip(label, centers, strict=True)) for k in range(num_bits)]
        within += distance(code, mean)
    for a, b in itertools.permutations(range(num_classes), 2):
        between += (dot(centers[a], centers[b]) / num_bits + 1) ** 2
    return {
        "pos_loss": similar / max(1, num_pairs),
        "neg_loss": dissimilar / max(1, num_pairs),
        "quantization_loss": eta * quantization / (n * num_bits),
        "center_loss": eta * mu * (within / (n * num_bits) + nu * between / num_classes**2),
    }


def learned_of(bank):
    """B and C."""
    return bank.binary_codes.tolist(), bank.class_weights[0].T.tolist()


def discrete_reference(bank, codes, labels, **options):
    """The terms of J in which B and C stand, for what a bank holds."""
    rows = rows_of(labels, bank.num_classes)
    terms = dfh_reference(codes, *learned_of(bank), rows, **options)
    return terms["quantization_loss"] + terms["center_loss"]


def make_codes(n=6, code_length=4, num_networks=1, **kwargs):
    return [torch.tanh(torch.randn(n, code_length, **kwargs)) for _ in range(num_networks)]


def as_arguments(codes):
    return {"embeddings": codes[0], **({"ref_emb": codes[1]} if len(codes) == 2 else {})}


def make_bank(labels, num_networks=1, code_length=4, num_classes=3, **options):
    """A loss with a bank that has seen codes of all samples, and these codes as lists."""
    bank = CodeBank(labels, code_length, num_classes=num_classes, num_networks=num_networks)
    loss_func = DFHLoss(num_classes, code_length, code_bank=bank, **options)
    codes = make_codes(len(labels), code_length, num_networks)
    loss_func(**as_arguments(codes), sample_indices=torch.arange(len(labels)))
    return loss_func, [c.tolist() for c in codes]


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("num_networks", [1, 2])
def test_value_in_mini_batch_mode(labels, num_networks, device, dtype):
    codes = make_codes(num_networks=num_networks, dtype=dtype, device=device)
    loss_func = DFHLoss(3, 4, collect_stats=True, **WEIGHTS).to(device)
    bank = CodeBank.of_batch(labels.to(device), 3, *codes)
    loss_func.solve_batch(bank)
    values = [c.tolist() for c in codes]
    expected = dfh_reference(values, *learned_of(bank), rows_of(labels), **WEIGHTS)
    loss = loss_func(**as_arguments(codes), labels=labels)
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    found = {name: getattr(loss_func, name) for name in expected}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.tensor([[1, 1], [0, 0]])])
@pytest.mark.parametrize("num_networks", [1, 2])
def test_codes_of_a_batch_are_the_best_for_its_centers(labels, num_networks):
    codes = make_codes(2, 3, num_networks)
    bank = CodeBank.of_batch(labels, 2, *codes)
    DFHLoss(2, 3, **WEIGHTS).solve_batch(bank)
    values, (learned, centers) = [c.tolist() for c in codes], learned_of(bank)
    objectives = {
        bits: sum(
            dfh_reference(values, [bits[:3], bits[3:]], centers, rows_of(labels, 2), **WEIGHTS)[
                name
            ]
            for name in ("quantization_loss", "center_loss")
        )
        for bits in itertools.product([-1, 1], repeat=6)
    }
    assert objectives[tuple(learned[0] + learned[1])] == pytest.approx(min(objectives.values()))


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    code_length=st.integers(1, 5),
    num_classes=st.integers(2, 4),
    num_networks=st.integers(1, 2),
    multi_hot=st.booleans(),
    weights=st.fixed_dictionaries(
        {name: st.sampled_from([0.0, 0.5, 2.0]) for name in ("eta", "mu", "nu")}
    ),
    sweeps=st.integers(1, 2),
)
@settings(max_examples=60)
def test_discrete_step_lowers_the_objective(
    seed, n, code_length, num_classes, num_networks, multi_hot, weights, sweeps
):
    torch.manual_seed(seed)
    labels = torch.randint(2, (n, num_classes)) if multi_hot else torch.randint(num_classes, (n,))
    loss_func, codes = make_bank(
        labels, num_networks, code_length, num_classes, sweeps=sweeps, **weights
    )
    bank, weights = loss_func.code_bank, {**weights, "margin": 0.0}
    for _ in range(2):
        before = discrete_reference(bank, codes, labels, **weights)
        update = loss_func.update_codes()
        after = discrete_reference(bank, codes, labels, **weights)
        assert list(update) == pytest.approx([before, after], rel=1e-5, abs=1e-6)
        assert after <= before + 1e-6 * max(1, before)
    assert set(bank.binary_codes.unique().tolist()) <= {-1, 1}
    assert set(bank.class_weights[0].unique().tolist()) <= {-1, 1}


@pytest.mark.parametrize("nu", [0.03, 0.11, 0.37, 1.3])
def test_each_bit_of_each_center_takes_its_best_value(labels, nu):
    weights = {**WEIGHTS, "nu": nu}
    for seed in range(5):
        torch.manual_seed(seed)
        loss_func, codes = make_bank(labels, code_length=3, **weights)
        bank = loss_func.code_bank
        bank.class_weights[0].copy_(torch.randint(2, (3, 3)) * 2 - 1)
        learned, centers = learned_of(bank)
        for center, k in itertools.product(centers, range(3)):
            values = []
            for _ in range(2):  # the other value of the bit, then the old one again
                center[k] = -center[k]
                terms = dfh_reference(codes, learned, centers, rows_of(labels), **weights)
                values.append(terms["center_loss"])
            if values[0] < values[1] - 1e-9:
                center[k] = -center[k]
        loss_func._solve_centers(bank)
        assert learned_of(bank)[1] == centers


@pytest.mark.parametrize("num_networks", [1, 2])
def test_gradient_in_mini_batch_mode(labels, num_networks, device):
    codes = make_codes(5, 3, num_networks, dtype=torch.float64, device=device)
    loss_func = DFHLoss(3, 3, **WEIGHTS).to(device)
    codes = [c.requires_grad_() for c in codes]
    assert torch.autograd.gradcheck(
        lambda *c: loss_func(c[0], labels[:5], ref_emb=c[1] if len(c) == 2 else None), codes
    )


def test_pairs_of_a_miner_replace_those_of_the_labels(labels):
    codes, loss_func = make_codes()[0], DFHLoss(3, 4, margin=0.5, eta=0)
    pairs = tuple(torch.tensor(x) for x in ([0, 0, 4], [1, 5, 2], [0], [3]))
    theta = codes @ codes.T / 2
    logits = torch.cat([0.5 - theta[pairs[0], pairs[1]], 0.5 + theta[pairs[2], pairs[3]]])
    expected = torch.log(1 + logits.exp()).mean().item()
    assert loss_func(codes, labels, pairs).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -1}, "`margin` of at least 0, got -1"),
        ({"eta": -1}, "`eta` of at least 0, got -1"),
        ({"mu": float("nan")}, "`mu` of at least 0, got nan"),
        ({"nu": -1}, "`nu` of at least 0, got -1"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DFHLoss(**{"num_classes": 3, "code_length": 4, **options})
