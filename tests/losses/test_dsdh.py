"""DSDHLoss: its printed objective in loops, for `test_objectives.py`, and what it alone does."""

import itertools

import pytest
import torch
from loops import LABELS, distance, distances, dot, make_codes, mean_pair_loss, rows_of
from objectives import Objective
from torch.testing import assert_close

from pml_hashing import CodeBank
from pml_hashing.losses import DSDHLoss

WEIGHTS = {
    "regression_weight": 1.5,
    "ridge_penalty": 0.8,
    "quantization_weight": 2.0,
    "similar_weight": "balanced",
}
CHOICES = {
    "regression_weight": [0.0, 0.5, 2.0],
    "ridge_penalty": [0.1, 3.0],
    "quantization_weight": [0.0, 0.5, 2.0],
}
LIKELIHOOD_WEIGHT = 1.0


def dsdh_reference(
    networks,
    learned,
    weights,
    labels,
    *,
    regression_weight,
    ridge_penalty,
    quantization_weight,
    similar_weight="balanced",
):
    """The terms of J as printed; `networks` holds U, and V where there are two."""
    n, num_bits, errors = len(labels), len(learned[0]), 0.0
    for code, label in zip(learned, labels, strict=True):
        fit = [dot(code, column) for column in zip(*weights, strict=True)]
        errors += regression_weight * distance(label, fit)
    penalty = ridge_penalty * sum(w * w for row in weights for w in row)
    quantization = sum(distances(codes, learned) for codes in networks)
    return {
        "likelihood_loss": mean_pair_loss(networks, labels, similar_weight),
        "regression_loss": (errors + penalty) / n,
        "quantization_loss": quantization_weight * quantization / (n * num_bits),
    }


def learned_of(loss_func, bank):
    """B and W."""
    return bank.binary_codes.tolist(), bank.variables("regression")["weights"][0].tolist()


OBJECTIVE = Objective(
    loss_class=DSDHLoss,
    reference=dsdh_reference,
    learned_of=learned_of,
    weights=WEIGHTS,
    choices=CHOICES,
    likelihood_weight=LIKELIHOOD_WEIGHT,
)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_map_is_that_of_ridge_regression(labels):
    bank = CodeBank(labels, 4, num_classes=3)
    loss_func = DSDHLoss(3, 4, code_bank=bank, **WEIGHTS)
    loss_func(*make_codes(), sample_indices=torch.arange(6))
    codes, rows = bank.binary_codes.double(), torch.tensor(rows_of(labels)).double()
    loss_func.update_codes()
    system = codes.T @ codes + 0.8 / 1.5 * torch.eye(4)
    expected = torch.linalg.solve(system, codes.T @ rows)
    assert_close(
        bank.variables("regression")["weights"][0].double(), expected, rtol=1e-5, atol=1e-5
    )


def test_a_pair_pulls_at_both_of_its_ends():
    """With all pairs of a data set, twice the gradient of code that takes the bank as fixed."""
    labels, others = torch.arange(12) % 3, torch.randn(12, 4)
    bank = CodeBank(labels, 4)
    options = {"regression_weight": 0, "quantization_weight": 0, "similar_weight": 1}
    loss_func = DSDHLoss(3, 4, bank_samples=12, code_bank=bank, **options)
    codes = others.clone().requires_grad_()
    loss_func(codes, sample_indices=torch.arange(12)).backward()
    moved, total = others.clone().requires_grad_(), 0.0
    for i, j in itertools.permutations(range(12), 2):
        theta = moved[i] @ others[j] / 2
        total = total + theta.exp().log1p() - (labels[i] == labels[j]) * theta
    (total / (12 * 11)).backward()
    assert_close(codes.grad, 2 * moved.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regression_weight": -1}, "`regression_weight` of at least 0, got -1"),
        ({"ridge_penalty": 0}, "positive `ridge_penalty`, got 0"),
        ({"quantization_weight": float("nan")}, "`quantization_weight` of at least 0, got nan"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"bank_samples": -1}, "`bank_samples` of at least 0, got -1"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DSDHLoss(**{"num_classes": 3, "code_length": 4, **options})
