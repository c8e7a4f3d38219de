"""DADHLoss: its printed objective in loops, for `test_objectives.py`, and what it alone does."""

import pytest
from loops import distances, inner_products, mean_pair_loss, squared_bit_sums
from objectives import Objective

from pml_hashing.losses import DADHLoss

WEIGHTS = {
    "likelihood_weight": 3.0,
    "quantization_weight": 0.5,
    "balance_weight": 4.0,
    "similar_weight": 3.0,
}
CHOICES = {
    "likelihood_weight": [1.0],
    "quantization_weight": [0.0, 0.5, 20.0],
    "balance_weight": [0.0, 3.0],
}
CHOICES |= {"soft_similarity": [True, False]}
LIKELIHOOD_WEIGHT = 3.0 / 4**2


def dadh_reference(
    networks,
    learned,
    labels,
    *,
    likelihood_weight,
    quantization_weight,
    balance_weight,
    soft_similarity=True,
    similar_weight="balanced",
):
    """The terms of J as printed; `networks` holds U, and V where there are two."""
    n, num_bits = len(labels), len(learned[0])
    products = [inner_products(codes, learned, labels, soft_similarity) for codes in networks]
    quantization = sum(distances(codes, learned) for codes in networks)
    return {
        "inner_product_loss": sum(products) / (n * num_bits) ** 2,
        "likelihood_loss": likelihood_weight
        * mean_pair_loss(networks, labels, similar_weight)
        / num_bits**2,
        "quantization_loss": quantization_weight * quantization / (n * num_bits**2),
        "balance_loss": balance_weight * sum(map(squared_bit_sums, networks)) / (n * num_bits) ** 2,
    }


def learned_of(loss_func, bank):
    return (bank.binary_codes.tolist(),)


OBJECTIVE = Objective(
    loss_class=DADHLoss,
    reference=dadh_reference,
    learned_of=learned_of,
    weights=WEIGHTS,
    choices=CHOICES,
    likelihood_weight=LIKELIHOOD_WEIGHT,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood_weight": -1}, "`likelihood_weight` of at least 0, got -1"),
        ({"quantization_weight": -0.1}, r"`quantization_weight` of at least 0, got -0\.1"),
        ({"balance_weight": float("nan")}, "`balance_weight` of at least 0, got nan"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"bank_samples": -1}, "`bank_samples` of at least 0, got -1"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DADHLoss(**{"num_classes": 3, "code_length": 4, **options})
