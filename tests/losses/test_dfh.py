"""DFHLoss: its printed objective in loops, for `test_objectives.py`, and what it alone does."""

import itertools

import pytest
import torch
from loops import (
    LABELS,
    distance,
    distances,
    dot,
    log_1_plus_exp,
    make_codes,
    mean_pair_loss,
    rows_of,
    values_of,
)
from objectives import Objective

from pml_hashing.losses import DFHLoss

WEIGHTS = {
    "quantization_weight": 1.5,
    "center_weight": 0.6,
    "separation_weight": 2.0,
    "similar_weight": "balanced",
}
CHOICES = {name: [0.0, 0.5, 2.0] for name in WEIGHTS if name != "similar_weight"} | {
    "sweeps": [1, 2]
}


def mean_margin_pair_loss(networks, labels, margin, similar_weight):
    """The likelihood of U and V, or of different samples of U where there is one network."""

    def loss(x, y, similar):
        theta = dot(x, y) / 2
        return log_1_plus_exp(margin - theta if similar else margin + theta)

    return mean_pair_loss(networks, labels, similar_weight, loss)


def dfh_reference(
    networks,
    learned,
    centers,
    labels,
    *,
    quantization_weight,
    center_weight,
    separation_weight,
    margin=0.0,
    similar_weight="balanced",
    **_,
):
    """The terms of J as printed; `networks` holds U, and V where there are two."""
    n, num_bits, num_classes = len(labels), len(learned[0]), len(centers)
    quantization = within = between = 0.0
    for codes in networks:
        quantization += distances(codes, learned)
    for code, label in zip(learned, labels, strict=True):
        mean = [sum(y * c[k] for y, c in zip(label, centers, strict=True)) for k in range(num_bits)]
        within += distance(code, mean)
    for a, b in itertools.permutations(range(num_classes), 2):
        between += (dot(centers[a], centers[b]) / num_bits + 1) ** 2
    return {
        "likelihood_loss": mean_margin_pair_loss(networks, labels, margin, similar_weight),
        "quantization_loss": quantization_weight * quantization / (n * num_bits),
        "center_loss": quantization_weight
        * center_weight
        * (within / (n * num_bits) + separation_weight * between / num_classes**2),
    }


def learned_of(loss_func, bank):
    """B and C."""
    centers = bank.variables("center").get("centers", loss_func.class_codes[:-1])
    return bank.binary_codes.tolist(), centers.tolist()


OBJECTIVE = Objective(
    loss_class=DFHLoss,
    reference=dfh_reference,
    learned_of=learned_of,
    weights=WEIGHTS,
    choices=CHOICES,
    options={"margin": 0.0},
    likelihood_weight=1.0,
)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("num_networks", [1, 2])
def test_margin(labels, num_networks):
    codes = make_codes(num_networks=num_networks)
    loss_func = DFHLoss(3, 4, margin=0.7, **WEIGHTS)
    learned = learned_of(loss_func, loss_func.solve_batch(labels, *codes))
    expected = dfh_reference(values_of(codes), *learned, rows_of(labels), margin=0.7, **WEIGHTS)
    ref = {"ref_emb": codes[1]} if num_networks == 2 else {}
    loss = loss_func(codes[0], labels, **ref)
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.tensor([[1, 1], [0, 0]])])
@pytest.mark.parametrize("num_networks", [1, 2])
def test_codes_of_a_batch_are_the_best_for_its_centers(labels, num_networks):
    codes, loss_func = make_codes(2, 3, num_networks), DFHLoss(2, 3, **WEIGHTS)
    bank = loss_func.solve_batch(labels, *codes)
    learned, centers = learned_of(loss_func, bank)
    assert torch.equal(bank.variables("center")["centers"], loss_func.class_codes[:-1])
    objectives = {}
    for bits in itertools.product([-1, 1], repeat=6):
        candidate = [bits[:3], bits[3:]]
        terms = dfh_reference(values_of(codes), candidate, centers, rows_of(labels, 2), **WEIGHTS)
        objectives[bits] = terms["quantization_loss"] + terms["center_loss"]
    assert objectives[tuple(learned[0] + learned[1])] == pytest.approx(min(objectives.values()))


@pytest.mark.parametrize("separation_weight", [0.03, 0.11, 0.37, 1.3])
def test_each_bit_of_each_center_takes_its_best_value(labels, separation_weight):
    weights = {**WEIGHTS, "separation_weight": separation_weight}
    for seed in range(5):
        torch.manual_seed(seed)
        loss_func, codes = OBJECTIVE.make_bank(labels, code_length=3, **weights)
        bank, term = loss_func.code_bank, loss_func.terms["center"]
        learned, _ = learned_of(loss_func, bank)
        first = (torch.randint(2, (3, 3)) * 2 - 1).float()
        centers = first.tolist()
        for center, k in itertools.product(centers, range(3)):
            values = []
            for _ in range(2):  # the other value of the bit, then the old one again
                center[k] = -center[k]
                terms = dfh_reference(
                    values_of(codes), learned, centers, rows_of(labels), **weights
                )
                values.append(terms["center_loss"])
            if values[0] < values[1] - 1e-9:
                center[k] = -center[k]
        assert term.fit(bank, {"centers": first})["centers"].tolist() == centers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -1}, "`margin` of at least 0, got -1"),
        ({"quantization_weight": -1}, "`quantization_weight` of at least 0, got -1"),
        ({"center_weight": float("nan")}, "`center_weight` of at least 0, got nan"),
        ({"separation_weight": -1}, "`separation_weight` of at least 0, got -1"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DFHLoss(**{"num_classes": 3, "code_length": 4, **options})
