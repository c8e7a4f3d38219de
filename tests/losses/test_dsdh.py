"""DSDHLoss: its printed objective in loops, for `test_objectives.py`, and what it alone does."""

import pytest
import torch
from loops import LABELS, distance, distances, dot, make_codes, mean_pair_loss, rows_of
from torch.testing import assert_close

from pml_hashing import CodeBank
from pml_hashing.losses import DSDHLoss

WEIGHTS = {"mu": 1.5, "nu": 0.8, "eta": 2.0}
CHOICES = {"mu": [0.0, 0.5, 2.0], "nu": [0.1, 3.0], "eta": [0.0, 0.5, 2.0]}
LIKELIHOOD_WEIGHT = 1.0


def dsdh_reference(networks, learned, weights, labels, *, mu, nu, eta):
    """The terms of J as printed; `networks` holds U, and V where there are two."""
    n, num_bits, errors = len(labels), len(learned[0]), 0.0
    for code, label in zip(learned, labels, strict=True):
        fit = [dot(code, column) for column in zip(*weights, strict=True)]
        errors += mu * distance(label, fit)
    penalty = nu * sum(w * w for row in weights for w in row)
    quantization = sum(distances(codes, learned) for codes in networks)
    return {
        "likelihood_loss": mean_pair_loss(networks, labels),
        "regression_loss": (errors + penalty) / n,
        "quantization_loss": eta * quantization / (n * num_bits),
    }


def learned_of(loss_func, bank):
    """B and W."""
    return bank.binary_codes.tolist(), bank.class_weights[0].tolist()


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_map_is_that_of_ridge_regression(labels):
    bank = CodeBank(labels, 4, num_classes=3)
    loss_func = DSDHLoss(3, 4, code_bank=bank, **WEIGHTS)
    loss_func(*make_codes(), sample_indices=torch.arange(6))
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
