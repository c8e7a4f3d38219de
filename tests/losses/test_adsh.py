"""ADSHLoss against its printed objective, in loops, and against brute force."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing import CodeBank
from pml_hashing.losses import ADSHLoss

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}


def rows_of(labels, num_classes=3):
    """Y as nested lists."""
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels.long(), num_classes)
    return labels.int().tolist()


def adsh_reference(networks, learned_codes, labels, *, gamma, soft_similarity=True):
    """J as printed, from nested lists; of several networks, the sum."""
    n, num_bits = len(labels), len(learned_codes[0])
    similar = [[any(a * b for a, b in zip(y, z, strict=True)) for z in labels] for y in labels]
    num_similar = sum(map(sum, similar))
    ratio = num_similar / (n * n - num_similar) if num_similar < n * n else 0.0
    dissimilar = -ratio if soft_similarity else -1.0
    total = 0.0
    for codes in networks:
        for i, u in enumerate(codes):
            for j, v in enumerate(learned_codes):
                inner = sum(a * b for a, b in zip(u, v, strict=True))
                wanted = num_bits * (1.0 if similar[i][j] else dissimilar)
                total += (inner - wanted) ** 2 / (n * n * num_bits**2)
            own = sum((a - b) ** 2 for a, b in zip(learned_codes[i], u, strict=True))
            total += gamma * own / (n * num_bits**2)
    return total


def make_codes(n=6, code_length=4, num_networks=1, **kwargs):
    return [torch.tanh(torch.randn(n, code_length, **kwargs)) for _ in range(num_networks)]


def as_arguments(codes):
    return {"embeddings": codes[0], **({"ref_emb": codes[1]} if len(codes) == 2 else {})}


def make_bank(labels, num_networks=1, code_length=4, num_classes=3, **options):
    """A loss with a bank that has seen codes of all samples, and these codes."""
    bank = CodeBank(labels, code_length, num_classes=num_classes, num_networks=num_networks)
    loss_func = ADSHLoss(num_classes, code_length, code_bank=bank, **options)
    codes = make_codes(len(labels), code_length, num_networks)
    loss_func(**as_arguments(codes), sample_indices=torch.arange(len(labels)))
    return loss_func, codes


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("options", [{"gamma": 0.5}, {"gamma": 3.0, "soft_similarity": False}])
@pytest.mark.parametrize("num_networks", [1, 2])
def test_value_in_mini_batch_mode(labels, num_networks, options, device, dtype):
    codes = make_codes(num_networks=num_networks, dtype=dtype, device=device)
    loss_func = ADSHLoss(3, 4, **options).to(device)
    bank = CodeBank.of_batch(labels.to(device), 3, *codes)
    loss_func.solve_batch(bank)
    learned, rows = bank.binary_codes.tolist(), rows_of(labels)
    expected = adsh_reference([c.tolist() for c in codes], learned, rows, **options)
    assert loss_func(**as_arguments(codes), labels=labels).item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("soft_similarity", [True, False])
@pytest.mark.parametrize("num_networks", [1, 2])
def test_mean_loss_over_all_batches_is_the_objective(labels, num_networks, soft_similarity):
    options = {"gamma": 0.7, "soft_similarity": soft_similarity}
    loss_func, codes = make_bank(labels, num_networks, **options)
    after = loss_func.update_codes().after
    learned = loss_func.code_bank.binary_codes.tolist()
    expected = adsh_reference([c.tolist() for c in codes], learned, rows_of(labels), **options)
    losses = [
        loss_func(**as_arguments([c[rows] for c in codes]), sample_indices=rows).item()
        for rows in torch.randperm(6).split(2)
    ]
    assert [after, sum(losses) / 3] == pytest.approx([expected] * 2, rel=1e-5)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    code_length=st.integers(1, 5),
    num_classes=st.integers(2, 4),
    num_networks=st.integers(1, 2),
    multi_hot=st.booleans(),
    gamma=st.sampled_from([0.0, 0.5, 20.0]),
    soft_similarity=st.booleans(),
)
@settings(max_examples=50)
def test_discrete_step_lowers_the_objective_of_the_paper(
    seed, n, code_length, num_classes, num_networks, multi_hot, gamma, soft_similarity
):
    torch.manual_seed(seed)
    labels = torch.randint(2, (n, num_classes)) if multi_hot else torch.randint(num_classes, (n,))
    options = {"gamma": gamma, "soft_similarity": soft_similarity}
    loss_func, codes = make_bank(labels, num_networks, code_length, num_classes, **options)
    bank, networks = loss_func.code_bank, [c.tolist() for c in codes]
    rows = rows_of(labels, num_classes)
    for _ in range(2):
        values = [adsh_reference(networks, bank.binary_codes.tolist(), rows, **options)]
        update = loss_func.update_codes()
        values.append(adsh_reference(networks, bank.binary_codes.tolist(), rows, **options))
        assert list(update) == pytest.approx(values, rel=1e-5, abs=1e-6)
        assert values[1] <= values[0] * (1 + 1e-6) + 1e-6
    assert set(bank.binary_codes.unique().tolist()) <= {-1, 1}


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 1, 0]), torch.tensor([[1, 1], [0, 1], [0, 0]])]
)
def test_each_bit_takes_the_best_of_all_its_values(labels, num_networks):
    """With one bit, a sweep finds the best of all codes; with more, the best of the last bit."""
    for code_length in (1, 3):
        loss_func, codes = make_bank(labels, num_networks, code_length, 2, gamma=0.9)
        after, bank = loss_func.update_codes().after, loss_func.code_bank
        networks, rows, learned = [c.tolist() for c in codes], rows_of(labels, 2), bank.binary_codes
        candidates = [learned.clone() for _ in range(8)]
        for candidate, bits in zip(candidates, itertools.product([-1, 1], repeat=3), strict=True):
            candidate[:, -1] = torch.tensor(bits)
        best = min(adsh_reference(networks, c.tolist(), rows, gamma=0.9) for c in candidates)
        assert after == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_gradient_in_mini_batch_mode(labels, num_networks, device):
    codes = make_codes(5, 3, num_networks, dtype=torch.float64, device=device)
    loss_func = ADSHLoss(3, 3, gamma=0.5).to(device)
    codes = [c.requires_grad_() for c in codes]
    assert torch.autograd.gradcheck(
        lambda *c: loss_func(c[0], labels[:5], ref_emb=c[1] if len(c) == 2 else None), codes
    )


@pytest.mark.parametrize("num_networks", [1, 2])
def test_gradient_in_data_set_mode(labels, num_networks):
    loss_func, everyone = make_bank(labels, num_networks, gamma=0.5)
    loss_func.update_codes()
    learned, rows = loss_func.code_bank.binary_codes.tolist(), torch.tensor([4, 1, 2])
    everyone = [c.double() for c in everyone]
    some = [c[rows].requires_grad_() for c in everyone]
    loss = loss_func(**as_arguments(some), sample_indices=rows)
    loss.backward()
    assert loss.dtype == torch.float64
    moved = [c.detach().clone().requires_grad_() for c in some]
    for codes, new in zip(everyone, moved, strict=True):
        codes[rows] = new
    (adsh_reference(everyone, learned, rows_of(labels), gamma=0.5) * 6 / 3).backward()
    for found, expected in zip(some, moved, strict=True):
        assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6)


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
        ({"gamma": -0.1}, r"`gamma` of at least 0, got -0\.1"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ADSHLoss(**{"num_classes": 3, "code_length": 4, **options})
