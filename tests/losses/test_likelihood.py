"""The likelihood of pairs with a bank: block by block, it is that of all pairs at once."""

import pytest
import torch
from torch.nn.functional import softplus
from torch.testing import assert_close

from pml_hashing import CodeBank
from pml_hashing.losses import _pair_blocks
from pml_hashing.losses.terms import Batch, PairLikelihood
from pml_hashing.pairs import similarity

LABELS = {
    "class_ids": torch.tensor([0, 1, 2, 1, 0, 2, 2]),
    "multi_hot": torch.tensor(
        [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]
    ),
}
ROWS = torch.tensor([3, 0, 6])


def kind_weights(labels, apart, similar_weight):
    """Weights of a similar and of a dissimilar pair, with a mean of 1 over the data set."""
    similar = similarity(labels, labels)
    counted = ~torch.eye(7, dtype=torch.bool) if apart else torch.ones(7, 7, dtype=torch.bool)
    share = similar[counted].double().mean().item()
    ratio = (1 - share) / share if similar_weight == "balanced" else similar_weight
    return ratio / (ratio * share + 1 - share), 1 / (ratio * share + 1 - share)


def whole(codes, others, labels, apart, similar_weight):
    """The formula, for all pairs at once."""
    products, similar = codes @ others.T / 2, similarity(labels[ROWS], labels).to(codes)
    losses = softplus(products) - similar * products
    losses = losses * torch.where(similar > 0, *kind_weights(labels, apart, similar_weight))
    counted = ROWS[:, None] != torch.arange(7) if apart else torch.ones(3, 7, dtype=torch.bool)
    return (losses * counted).sum(dim=1) / counted.sum(dim=1)


@pytest.mark.parametrize(
    ("pairs", "dtype"), [(1, torch.float64), (6, torch.float32), (2**18, torch.float64)]
)
@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("weight", [1, "balanced", 3.0])
def test_blocks_are_the_whole(weight, kind, num_networks, pairs, dtype, monkeypatch, device):
    monkeypatch.setattr(_pair_blocks, "ELEMENTS_OF_A_BLOCK", pairs)
    monkeypatch.setattr(_pair_blocks, "ON_A_GPU", 1)
    bank = CodeBank(LABELS[kind], 5, num_networks=num_networks).to(device)
    for codes in bank.networks:
        codes.normal_()
    batch = [torch.randn(3, 5, dtype=dtype, requires_grad=True) for _ in range(num_networks)]
    moved = [codes.to(device) for codes in batch]
    term = PairLikelihood(7, similar_weight=weight)
    losses = term.losses(Batch(bank, ROWS.to(device), moved), term.start(bank))
    weights = torch.rand(3, dtype=dtype)
    slopes = torch.autograd.grad(losses @ weights.to(device), batch)

    others = [codes.cpu().to(dtype) for codes in bank.networks][::-1]
    sides = [
        whole(u, v, LABELS[kind], num_networks == 1, weight)
        for u, v in zip(batch, others, strict=True)
    ]
    # A pair pulls at both of its ends.
    expected = torch.autograd.grad(sum(sides) @ weights * (3 - num_networks), batch)
    assert_close(losses.cpu(), sum(sides) / num_networks)
    assert_close(slopes, expected)


def test_of_a_bank_of_one_sample_is_nothing():
    bank = CodeBank(torch.tensor([0]), 5)
    batch = Batch(bank, torch.tensor([0]), [torch.ones(1, 5)])
    losses = PairLikelihood(1).losses(batch, PairLikelihood(1).start(bank))
    assert losses.tolist() == [0.0]


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_codes(scale):
    bank = CodeBank(LABELS["class_ids"], 5)
    bank.query_codes.fill_(scale)
    codes = torch.full((3, 5), scale, requires_grad=True)
    term = PairLikelihood(7)
    losses = term.losses(Batch(bank, ROWS, [codes]), term.start(bank))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert codes.grad.isfinite().all()
