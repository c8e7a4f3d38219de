"""ADSQLoss: its printed objective in loops, for `test_objectives.py`, and what it alone does."""

import pytest
from loops import (
    distance,
    distances,
    inner_products,
    label_codes_of,
    layers_of,
    mean_distance_from_bits,
    mean_label_pair_loss,
    mean_pair_loss,
    squared_bit_sums,
)
from objectives import Objective

from pml_hashing.losses import ADSQLoss

WEIGHTS = {
    "likelihood_weight": 3.0,
    "quantization_weight": 0.5,
    "balance_weight": 4.0,
    "guidance_weight": 2.0,
    "agreement_weight": 0.7,
    "similar_weight": 0.5,
}
CHOICES = {
    "likelihood_weight": [1.0],
    "quantization_weight": [0.0, 0.5, 20.0],
    "balance_weight": [0.0, 3.0],
    "guidance_weight": [1.0],
}
CHOICES |= {"agreement_weight": [0.0, 0.5, 9.0], "soft_similarity": [True, False]}
OPTIONS = {"label_widths": (6, 5), "fit_steps": 3}
CONTINUOUS = {"likelihood_loss", "guidance_loss", "label_loss"}
LIKELIHOOD_WEIGHT = 3.0 / 4**2


def adsq_reference(
    networks,
    learned,
    layers,
    labels,
    *,
    likelihood_weight,
    quantization_weight,
    balance_weight,
    guidance_weight,
    agreement_weight,
    similar_weight="balanced",
    **options,
):
    """The terms of J as printed; `networks` holds U, and V where there are two."""
    n, num_bits, soft = len(labels), len(learned[0]), options.get("soft_similarity", True)
    products = [inner_products(codes, learned, labels, soft) for codes in networks]
    quantization = sum(distances(codes, learned) for codes in networks)
    label_codes, decoded = label_codes_of(layers, labels)
    errors = [distance(y, z) / len(y) for y, z in zip(labels, decoded, strict=True)]
    likelihood = mean_label_pair_loss([label_codes], label_codes, labels, similar_weight)
    guidance = mean_label_pair_loss(networks, label_codes, labels, similar_weight)
    return {
        "inner_product_loss": sum(products) / (n * num_bits) ** 2,
        "likelihood_loss": likelihood_weight
        * mean_pair_loss(networks, labels, similar_weight)
        / num_bits**2,
        "quantization_loss": quantization_weight * quantization / (n * num_bits**2),
        "balance_loss": balance_weight * sum(map(squared_bit_sums, networks)) / (n * num_bits) ** 2,
        "guidance_loss": guidance_weight * guidance / num_bits**2,
        "agreement_loss": agreement_weight * distances(label_codes, learned) / (n * num_bits**2),
        "label_loss": likelihood + 0.005 * mean_distance_from_bits(label_codes) + sum(errors) / n,
    }


def learned_of(loss_func, bank):
    """B, and the label network."""
    return bank.binary_codes.tolist(), layers_of(loss_func.label_network)


OBJECTIVE = Objective(
    loss_class=ADSQLoss,
    reference=adsq_reference,
    learned_of=learned_of,
    weights=WEIGHTS,
    choices=CHOICES,
    options=OPTIONS,
    likelihood_weight=LIKELIHOOD_WEIGHT,
    continuous=frozenset(CONTINUOUS),
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood_weight": -1}, "`likelihood_weight` of at least 0, got -1"),
        ({"quantization_weight": -0.1}, r"`quantization_weight` of at least 0, got -0\.1"),
        ({"balance_weight": float("nan")}, "`balance_weight` of at least 0, got nan"),
        ({"guidance_weight": -1}, "`guidance_weight` of at least 0, got -1"),
        ({"agreement_weight": -1}, "`agreement_weight` of at least 0, got -1"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"bank_samples": -1}, "`bank_samples` of at least 0, got -1"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"label_widths": (4, 0)}, "`label_widths` of at least 1, got 0"),
        ({"fit_steps": -1}, "`fit_steps` of at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ADSQLoss(**{"num_classes": 3, "code_length": 4, **options})
