"""DSAHALoss: its printed objective in loops, for `test_objectives.py`, and what it alone does."""

import math

import pytest
from loops import (
    distances,
    inner_products,
    label_codes_of,
    layers_of,
    mean_distance_from_bits,
    mean_label_pair_loss,
)
from objectives import Objective

from pml_hashing.losses import DSAHALoss

WEIGHTS = {
    "quantization_weight": 0.5,
    "guidance_weight": 2.0,
    "distance_weight": 1.5,
    "agreement_weight": 0.7,
    "similar_weight": 2.0,
}
CHOICES = {
    "quantization_weight": [0.0, 0.5, 20.0],
    "guidance_weight": [1.0],
    "distance_weight": [1.0],
}
CHOICES |= {"agreement_weight": [0.0, 0.5, 9.0], "soft_similarity": [True, False]}
OPTIONS = {"label_widths": (6, 5), "fit_steps": 3}
CONTINUOUS = {"guidance_loss", "distance_loss", "label_loss"}


def cross_entropy(label, logit):
    probability = 1 / (1 + math.exp(-logit))
    return -label * math.log(probability) - (1 - label) * math.log(1 - probability)


def dsaha_reference(
    networks,
    learned,
    layers,
    labels,
    *,
    quantization_weight,
    guidance_weight,
    distance_weight,
    agreement_weight,
    similar_weight="balanced",
    **options,
):
    """The terms of J as printed; of several networks, the sum."""
    n, num_bits, soft = len(labels), len(learned[0]), options.get("soft_similarity", True)
    products = [inner_products(codes, learned, labels, soft) for codes in networks]
    label_codes, decoded = label_codes_of(layers, labels)
    errors = [sum(map(cross_entropy, y, z)) / len(y) for y, z in zip(labels, decoded, strict=True)]
    likelihood = mean_label_pair_loss([label_codes], label_codes, labels, similar_weight)
    guidance = mean_label_pair_loss(networks, label_codes, labels, similar_weight)
    quantization = sum(distances(codes, learned) for codes in networks)
    apart = sum(distances(codes, label_codes) for codes in networks)
    return {
        "inner_product_loss": sum(products) / (n * num_bits) ** 2,
        "quantization_loss": quantization_weight * quantization / (n * num_bits**2),
        "guidance_loss": guidance_weight * guidance / num_bits**2,
        "distance_loss": distance_weight * apart / (n * num_bits**2),
        "agreement_loss": agreement_weight * distances(label_codes, learned) / (n * num_bits**2),
        "label_loss": likelihood + 0.01 * mean_distance_from_bits(label_codes) + sum(errors) / n,
    }


def learned_of(loss_func, bank):
    """B, and the label network."""
    return bank.binary_codes.tolist(), layers_of(loss_func.label_network)


OBJECTIVE = Objective(
    loss_class=DSAHALoss,
    reference=dsaha_reference,
    learned_of=learned_of,
    weights=WEIGHTS,
    choices=CHOICES,
    options=OPTIONS,
    continuous=frozenset(CONTINUOUS),
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization_weight": -0.1}, r"`quantization_weight` of at least 0, got -0\.1"),
        ({"guidance_weight": -1}, "`guidance_weight` of at least 0, got -1"),
        ({"distance_weight": float("nan")}, "`distance_weight` of at least 0, got nan"),
        ({"agreement_weight": -1}, "`agreement_weight` of at least 0, got -1"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"label_widths": (4, 0)}, "`label_widths` of at least 1, got 0"),
        ({"fit_steps": -1}, "`fit_steps` of at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DSAHALoss(**{"num_classes": 3, "code_length": 4, **options})
