"""DAPHLoss: its printed objective in loops, for `test_objectives.py`, and what it alone does."""

import itertools

import pytest
import torch
from loops import as_arguments, distances, dot, make_codes, mean_pair_loss, rows_of, values_of
from objectives import Objective

from pml_hashing import CodeBank
from pml_hashing.codes import binarize
from pml_hashing.losses import DAPHLoss

WEIGHTS = {
    "quantization_weight": 1.5,
    "agreement_weight": 0.25,
    "decorrelation_weight": 0.5,
    "balance_weight": 2.0,
    "similar_weight": 1.0,
}
CHOICES = {name: [0.0, 0.5, 2.0] for name in WEIGHTS if name != "similar_weight"}
LIKELIHOOD_WEIGHT = 1.0


def daph_reference(
    networks,
    learned,
    second,
    labels,
    *,
    quantization_weight,
    agreement_weight,
    decorrelation_weight,
    balance_weight,
    similar_weight="balanced",
):
    """The terms of J as printed; `networks` holds U, and Z where there are two.

    `learned` is B; `second` is H, or B again with one network.
    """
    n, num_bits = len(labels), len(learned[0])
    quantization = decorrelation = balance = 0.0
    for codes, own in zip(networks, (learned, second), strict=False):
        quantization += distances(codes, own)
        columns = [[u[k] for u in codes] for k in range(num_bits)]
        balance += sum((sum(column) / n) ** 2 for column in columns)
        for k, m in itertools.product(range(num_bits), repeat=2):
            decorrelation += (dot(columns[k], columns[m]) / n - int(k == m)) ** 2
    return {
        "likelihood_loss": mean_pair_loss(networks, labels, similar_weight),
        "quantization_loss": quantization_weight * quantization / (n * num_bits),
        "agreement_loss": agreement_weight * distances(learned, second) / (n * num_bits),
        "decorrelation_loss": decorrelation_weight * decorrelation / num_bits**2,
        "balance_loss": balance_weight * balance / num_bits,
    }


def learned_of(loss_func, bank):
    """B and H."""
    second = bank.binary_codes.tolist()
    first = bank.variables("first_network").get("binary_codes", bank.binary_codes)
    return first.tolist(), second


OBJECTIVE = Objective(
    loss_class=DAPHLoss,
    reference=daph_reference,
    learned_of=learned_of,
    weights=WEIGHTS,
    choices=CHOICES,
    likelihood_weight=LIKELIHOOD_WEIGHT,
)


@pytest.mark.parametrize("agreement_weight", [0.0, 0.5, 0.99, 2.0])
def test_discrete_step_finds_the_best_of_all_codes(agreement_weight):
    options = {**WEIGHTS, "quantization_weight": 1.0, "agreement_weight": agreement_weight}
    labels = torch.tensor([0, 1])
    bank = CodeBank(labels, 2, num_networks=2)
    loss_func, codes = DAPHLoss(2, 2, code_bank=bank, **options), make_codes(2, 2, 2)
    loss_func(**as_arguments(codes), sample_indices=torch.arange(2))
    after, values = loss_func.update_codes().after, []
    for bits in itertools.product([-1, 1], repeat=8):
        learned = ([bits[:2], bits[2:4]], [bits[4:6], bits[6:]])
        terms = daph_reference(values_of(codes), *learned, rows_of(labels, 2), **options)
        values.append(sum(terms.values()) - terms["likelihood_loss"])
    assert after == pytest.approx(min(values), rel=1e-5)
    if agreement_weight == 2.0:
        assert torch.equal(loss_func.query_binary_codes, bank.binary_codes)


def test_published_step_changes_no_code():
    """B = sign(alpha U + gamma H), then H = sign(alpha Z + gamma B), with alpha = gamma."""
    (u, z), h = make_codes(50, 8, 2), torch.randint(2, (50, 8)) * 2.0 - 1
    b = torch.sign(10 * u + 10 * h)
    assert torch.equal(b, h)
    assert torch.equal(torch.sign(10 * z + 10 * b), h)


def test_codes_of_the_first_network_are_kept_beside_those_to_search_in():
    bank = CodeBank(torch.tensor([0, 1, 0]), 4, num_networks=2)
    loss_func, codes = DAPHLoss(2, 4, agreement_weight=0.0, code_bank=bank), make_codes(3, 4, 2)
    loss_func(**as_arguments(codes), sample_indices=torch.arange(3))
    assert torch.equal(loss_func.query_binary_codes, bank.binary_codes)
    loss_func.update_codes()
    assert torch.equal(loss_func.query_binary_codes, binarize(codes[0]).to(torch.int8))
    assert torch.equal(bank.binary_codes, binarize(codes[1]).to(torch.int8))
    assert DAPHLoss(2, 4).query_binary_codes is None


@pytest.mark.parametrize("num_networks", [1, 2])
def test_samples_that_no_batch_had_keep_their_codes(num_networks):
    labels = torch.arange(12) % 3
    bank = CodeBank(labels, 8, num_networks=num_networks)
    loss_func, codes = DAPHLoss(3, 8, code_bank=bank), make_codes(4, 8, num_networks)
    loss_func(**as_arguments(codes), sample_indices=torch.arange(4))
    before = bank.binary_codes.clone()
    loss_func.update_codes()
    for learned in (bank.binary_codes, loss_func.query_binary_codes):
        assert torch.equal(learned[4:], before[4:])
    assert len(before[4:].unique(dim=0)) == 3
    assert not torch.equal(bank.binary_codes[:4], before[:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization_weight": -1}, "`quantization_weight` of at least 0, got -1"),
        ({"agreement_weight": -0.1}, r"`agreement_weight` of at least 0, got -0\.1"),
        ({"decorrelation_weight": -1}, "`decorrelation_weight` of at least 0, got -1"),
        ({"balance_weight": float("nan")}, "`balance_weight` of at least 0, got nan"),
        ({"bank_samples": -1}, "`bank_samples` of at least 0, got -1"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DAPHLoss(**{"num_classes": 3, "code_length": 4, **options})
