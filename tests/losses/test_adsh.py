"""ADSHLoss: its printed objective in loops, for `test_objectives.py`, and what it alone does."""

import pytest
import torch
from loops import distances, inner_products
from objectives import Objective
from torch.testing import assert_close

from pml_hashing import CodeBank
from pml_hashing.losses import ADSHLoss

WEIGHTS = {"quantization_weight": 0.5}
CHOICES = {"quantization_weight": [0.0, 0.5, 20.0], "soft_similarity": [True, False]}


def adsh_reference(networks, learned, labels, *, quantization_weight, soft_similarity=True):
    """The terms of J as printed; of several networks, the sum."""
    n, num_bits = len(labels), len(learned[0])
    products = [inner_products(codes, learned, labels, soft_similarity) for codes in networks]
    quantization = sum(distances(codes, learned) for codes in networks)
    return {
        "inner_product_loss": sum(products) / (n * num_bits) ** 2,
        "quantization_loss": quantization_weight * quantization / (n * num_bits**2),
    }


def learned_of(loss_func, bank):
    return (bank.binary_codes.tolist(),)


OBJECTIVE = Objective(
    loss_class=ADSHLoss,
    reference=adsh_reference,
    learned_of=learned_of,
    weights=WEIGHTS,
    choices=CHOICES,
)


def test_start_is_a_code_a_class():
    bank = CodeBank(torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]]), 16)
    loss_func = ADSHLoss(3, 16, code_bank=bank)
    loss_func(torch.randn(2, 16), sample_indices=torch.tensor([0, 1]))
    first, second, last = loss_func.class_codes[[0, 1, 3]]
    expected = torch.stack([first, second, torch.where(first == second, first, last)])
    assert_close(bank.binary_codes.float(), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization_weight": -0.1}, r"`quantization_weight` of at least 0, got -0\.1"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ADSHLoss(**{"num_classes": 3, "code_length": 4, **options})
