"""DSAHLoss against its printed objective, in loops, and against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing import CodeBank, DSAHLoss, code_bank
from pml_hashing.losses import (
    AffinityGraphLoss,
    ClassStructureQuantizationLoss,
    DualSemanticRegressionLoss,
)

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}
INTER = ("center", "simplex", "complement", "none")
WEIGHTS = {
    "intra_weight": 1.5,
    "inter_weight": 0.75,
    "quantization_weight": 0.5,
    "graph_weight": 0.25,
    "ridge_penalty": 0.8,
}
SETTINGS = [
    {},
    {
        "class_share": 0.3,
        "inner_product_weight": 0.7,
        "regression": "label_to_code",
        "inter_label": "simplex",
    },
    {"class_share": 0.0, "inner_product_weight": 2.0, "inter_label": "complement"},
    {"regression": "label_to_code", "inter_label": "none"},
    {"inner_product_weight": 1.0, "inter_label": "none"},
    {
        "class_share": 0.6,
        "regression": "label_to_code",
        "inter_label": "complement",
        "warm_start": 0,
    },
]


def distance(x, z):
    return sum((a - b) ** 2 for a, b in zip(x, z, strict=True))


def affinity_and_similarity(labels):
    """A and S, from the rows of Y."""
    sizes = [max(1, sum(column)) for column in zip(*labels, strict=True)]
    shared = [[[a * b for a, b in zip(y, z, strict=True)] for z in labels] for y in labels]
    affinity = [
        [sum(s / n for s, n in zip(row, sizes, strict=True)) / max(1, sum(y)) for row in rows]
        for y, rows in zip(labels, shared, strict=True)
    ]
    similar = [[any(row) for row in rows] for rows in shared]
    num_similar, pairs = sum(map(sum, similar)), len(labels) ** 2
    ratio = num_similar / (pairs - num_similar) if num_similar < pairs else 0.0
    return affinity, [[1.0 if x else -ratio for x in row] for row in similar]


def inter_labels(labels, inter_label):
    """The second label, from the rows of Y."""
    shares = [sum(column) / len(labels) for column in zip(*labels, strict=True)]
    label = {
        "center": lambda y, share: y - share,
        "simplex": lambda y, _: 1.0 if y else -1 / (len(shares) - 1),
        "complement": lambda y, _: 1 - y,
    }[inter_label]
    return [[label(y, share) for y, share in zip(row, shares, strict=True)] for row in labels]


def squared_errors(codes, labels, weights, regression):
    """|Y - B W|^2, or |B - Y M| ^2 where `weights` is the transpose of M."""
    bits, classes = range(len(codes[0])), range(len(labels[0]))
    total = 0.0
    for code, label in zip(codes, labels, strict=True):
        if regression == "code_to_label":
            fit = [sum(code[k] * weights[k][c] for k in bits) for c in classes]
            total += distance(label, fit)
        else:
            total += distance(code, [sum(label[c] * weights[k][c] for c in classes) for k in bits])
    return total


def dsah_reference(
    networks,
    binary_codes,
    weights,
    labels,
    *,
    intra_weight=1.0,
    inter_weight=1.0,
    quantization_weight=0.5,
    graph_weight=0.5,
    ridge_penalty=1.0,
    class_share=1.0,
    inner_product_weight=0.0,
    inter_label="center",
    regression="code_to_label",
    **_,
):
    """The terms of J, which is their sum, from nested lists: nothing but loops.

    `networks` holds U, and V where there are two; `labels` is Y, of zeros and ones; `weights` are
    W1 and W2, or the transposes of M1 and M2.
    """
    n, num_bits = len(labels), len(binary_codes[0])
    affinity, similarity = affinity_and_similarity(labels)
    quantization = graph = inner_product = 0.0
    for i, j in itertools.product(range(n), repeat=2):
        q = (1 - class_share) * (i == j) + class_share * affinity[i][j]
        for codes in networks:
            quantization += quantization_weight / num_bits * q * distance(codes[i], binary_codes[j])
            inner = sum(a * b for a, b in zip(codes[i], binary_codes[j], strict=True))
            inner_product += inner_product_weight / n * (inner / num_bits - similarity[i][j]) ** 2
        between = distance(networks[0][i], networks[-1][j])
        graph += graph_weight / num_bits * affinity[i][j] * between
    errors = intra_weight * squared_errors(binary_codes, labels, weights[0], regression)
    if inter_label != "none":
        others = inter_labels(labels, inter_label)
        errors += inter_weight * squared_errors(binary_codes, others, weights[1], regression)
    return {
        "quantization_loss": quantization,
        "graph_loss": graph,
        "regression_loss": errors
        + ridge_penalty * sum(w * w for m in weights for row in m for w in row),
        "inner_product_loss": inner_product,
    }


def rows_of(labels, num_classes):
    """Return Y as nested lists."""
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels.long(), num_classes)
    return labels.int().tolist()


def bank_reference(bank, labels, **options):
    """Return the terms of J for what a bank holds."""
    networks = [bank.query_codes.tolist()]
    if bank.database_codes is not None:
        networks.append(bank.database_codes.tolist())
    return dsah_reference(
        networks,
        bank.binary_codes.tolist(),
        bank.variables("regression")["weights"].tolist(),
        rows_of(labels, bank.num_classes),
        **options,
    )


def make_codes(n=6, code_length=4, num_networks=1, **kwargs):
    return [torch.tanh(torch.randn(n, code_length, **kwargs)) for _ in range(num_networks)]


def as_arguments(codes):
    """Return the codes of one or two networks as arguments of a loss."""
    return {"embeddings": codes[0], **({"ref_emb": codes[1]} if len(codes) == 2 else {})}


def make_bank(labels, num_networks=1, code_length=4, num_classes=3, **options):
    """Return a loss with a bank that has seen codes of all samples, and the codes."""
    bank = CodeBank(labels, code_length, num_classes=num_classes, num_networks=num_networks)
    loss_func = DSAHLoss(num_classes, code_length, code_bank=bank, **options)
    codes = make_codes(len(labels), code_length, num_networks)
    loss_func(**as_arguments(codes), sample_indices=torch.arange(len(labels)))
    return loss_func, codes


def terms_of(loss_func, codes, labels, **kwargs):
    """Return the mean of every sub-loss."""
    loss_dict = loss_func.compute_loss(codes[0], labels, None, codes[-1], labels, **kwargs)
    assert all(loss["reduction_type"] == "element" for loss in loss_dict.values())
    return {name: loss["losses"].mean().item() for name, loss in loss_dict.items()}


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("num_networks", [1, 2])
def test_value_in_mini_batch_mode(labels, num_networks, options, device, dtype):
    codes = make_codes(num_networks=num_networks, dtype=dtype, device=device)
    loss_func = DSAHLoss(3, 4, **WEIGHTS, **options).to(device)
    bank = loss_func.solve_batch(labels.to(device), *codes)
    expected = bank_reference(bank, labels, **WEIGHTS, **options)
    expected = {name: value / 6 for name, value in expected.items()}
    assert terms_of(loss_func, codes, labels.to(device)) == pytest.approx(expected, rel=1e-5)
    loss = loss_func(**as_arguments(codes), labels=labels)
    assert_close(loss.item(), sum(expected.values()), rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    code_length=st.integers(1, 5),
    num_classes=st.integers(2, 4),
    num_networks=st.integers(1, 2),
    multi_hot=st.booleans(),
    weights=st.fixed_dictionaries(
        {
            name: st.sampled_from([0.0, 0.5, 2.0])
            for name in ("intra_weight", "inter_weight", "quantization_weight", "graph_weight")
        }
        | {
            "ridge_penalty": st.sampled_from([0.1, 3.0]),
            "class_share": st.sampled_from([0.0, 0.4, 1.0]),
        }
        | {
            "inner_product_weight": st.sampled_from([0.0, 1.5]),
            "inter_label": st.sampled_from(INTER),
        }
        | {"regression": st.sampled_from(["code_to_label", "label_to_code"])}
    ),
    warm_start=st.sampled_from([0, 1, 3]),
    sweeps=st.integers(1, 2),
)
@settings(max_examples=60)
def test_discrete_step_lowers_the_objective_of_the_paper(
    seed, n, code_length, num_classes, num_networks, multi_hot, weights, warm_start, sweeps
):
    torch.manual_seed(seed)
    labels = torch.randint(num_classes, (n,))
    if multi_hot:  # rows without a label and classes without a sample among them
        labels = torch.randint(2, (n, num_classes))
    options = {**weights, "warm_start": warm_start, "sweeps": sweeps}
    loss_func, codes = make_bank(labels, num_networks, code_length, num_classes, **options)
    bank = loss_func.code_bank
    for _ in range(2):
        expected_before = sum(bank_reference(bank, labels, **weights).values()) / n
        before, after = loss_func.update_codes()
        expected_after = sum(bank_reference(bank, labels, **weights).values()) / n
        assert before == pytest.approx(expected_before, rel=1e-5, abs=1e-6)
        assert after == pytest.approx(expected_after, rel=1e-5, abs=1e-6)
        assert expected_after <= expected_before + 1e-6 * max(1, abs(expected_before))
        assert loss_func.objective_value == after
    assert set(bank.binary_codes.unique().tolist()) <= {-1, 1}
    # The losses of single samples are shares of the same objective.
    rows = torch.arange(n)
    assert loss_func(**as_arguments(codes), sample_indices=rows).item() == pytest.approx(
        after, rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("num_networks", [1, 2])
def test_mean_loss_over_all_batches_is_the_objective(labels, num_networks, options):
    loss_func, codes = make_bank(labels, num_networks, **WEIGHTS, **options)
    loss_func.update_codes()
    expected = bank_reference(loss_func.code_bank, labels, **WEIGHTS, **options)
    means = [
        terms_of(loss_func, [c[rows] for c in codes], None, sample_indices=rows)
        for rows in torch.randperm(6).split(2)
    ]
    found = {name: sum(terms[name] for terms in means) / 3 for name in expected}
    expected = {name: value / 6 for name, value in expected.items()}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("num_networks", [1, 2])
def test_gradient_in_mini_batch_mode(labels, num_networks, options, device):
    codes = make_codes(5, 3, num_networks, dtype=torch.float64, device=device)
    codes = [c.requires_grad_() for c in codes]
    loss_func = DSAHLoss(3, 3, **WEIGHTS, **options).to(device)
    # The binary codes are constant in the codes, but where they jump.
    assert torch.autograd.gradcheck(
        lambda *c: loss_func(c[0], labels[:5], ref_emb=c[1] if len(c) == 2 else None), codes
    )


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("num_networks", [1, 2])
def test_gradient_in_data_set_mode(labels, num_networks, options):
    """The batch moves, at both ends of its pairs, and the rest stays as the bank has it."""
    loss_func, _ = make_bank(labels, num_networks, **WEIGHTS, **options)
    loss_func.update_codes()
    bank, rows = loss_func.code_bank, torch.tensor([4, 1, 2])
    codes = [c.requires_grad_() for c in make_codes(3, 4, num_networks)]
    everyone = [kept.double().clone() for kept in bank.networks]
    moved = [c.detach().double().requires_grad_() for c in codes]
    for all_codes, some in zip(everyone, moved, strict=True):
        all_codes[rows] = some
    terms = dsah_reference(
        everyone,
        bank.binary_codes.tolist(),
        bank.variables("regression")["weights"].tolist(),
        rows_of(labels, 3),
        **WEIGHTS,
        **options,
    )
    sum(terms.values()).backward()
    loss = loss_func(**as_arguments(codes), sample_indices=rows) * len(rows)
    loss.backward()
    for found, expected in zip(codes, moved, strict=True):
        assert_close(found.grad.double(), expected.grad, rtol=1e-4, atol=1e-5)
    for kept, some in zip((bank.query_codes, bank.database_codes), codes, strict=False):
        assert_close(kept[rows], some.detach())


@pytest.mark.parametrize("regression", ["code_to_label", "label_to_code"])
@pytest.mark.parametrize("inter_label", INTER)
def test_class_weights_are_those_of_least_squares(labels, inter_label, regression):
    loss_func, _ = make_bank(labels, inter_label=inter_label, regression=regression, **WEIGHTS)
    bank = loss_func.code_bank
    codes, rows = bank.binary_codes.clone().numpy(), np.array(rows_of(labels, 3))
    loss_func.update_codes()
    shares = rows.mean(axis=0)
    inter_rows = {
        "center": rows - shares,
        "simplex": np.where(rows == 1, 1, -1 / 2),
        "complement": 1 - rows,
        "none": 0 * rows,
    }[inter_label]
    for weight, label, found in zip(
        (1.5, 0.75), (rows, inter_rows), bank.variables("regression")["weights"], strict=True
    ):
        x, y = (codes, label) if regression == "code_to_label" else (label, codes)
        penalty = np.sqrt(WEIGHTS["ridge_penalty"]) * np.eye(x.shape[1])
        x = np.vstack([np.sqrt(weight) * x, penalty])
        y = np.vstack([np.sqrt(weight) * y, np.zeros((len(penalty), y.shape[1]))])
        solution = np.linalg.lstsq(x, y, rcond=None)[0]
        if inter_label == "none" and label is inter_rows:
            solution = 0 * solution
        if regression == "label_to_code":
            solution = solution.T
        assert_close(found.double(), torch.from_numpy(solution), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 1, 0]), torch.tensor([[1, 1], [0, 1], [0, 0]])]
)
def test_label_to_code_finds_the_best_of_all_codes(labels, class_share):
    options = {
        **WEIGHTS,
        "regression": "label_to_code",
        "class_share": class_share,
        "quantization_weight": 4.0,
    }
    loss_func, _ = make_bank(labels, 2, code_length=3, num_classes=2, **options)
    bank = loss_func.code_bank
    _, after = loss_func.update_codes()
    networks, weights = (
        [c.tolist() for c in bank.networks],
        bank.variables("regression")["weights"].tolist(),
    )
    best = min(
        sum(
            dsah_reference(
                networks, [b[:3], b[3:6], b[6:]], weights, rows_of(labels, 2), **options
            ).values()
        )
        for b in itertools.product([-1, 1], repeat=9)
    )
    assert after == pytest.approx(best / 3, rel=1e-5)


def test_start_depends_on_labels_alone():
    labels = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0]])
    bank = CodeBank(labels, 16)
    loss_func = DSAHLoss(3, 16, code_bank=bank, warm_start=0, inner_product_weight=1.0)
    loss_func(torch.randn(2, 16), sample_indices=torch.tensor([0, 1]))
    class_codes, codes = loss_func.class_codes, bank.binary_codes
    assert bank.started
    assert_close(codes[[0, 1, 2, 3]].float(), class_codes[[0, 1, 3, 0]])
    first, second, last = class_codes[[0, 1, 3]]
    assert_close(codes[4].float(), torch.where(first == second, first, last))


def test_warm_start_is_so_many_discrete_steps():
    labels = torch.randint(2, (60, 12))

    def weights_after(warm_start, steps):
        bank = CodeBank(labels, 16)
        loss_func = DSAHLoss(
            12, 16, code_bank=bank, warm_start=warm_start, sweeps=1, inner_product_weight=1.0
        )
        for _ in range(steps):
            loss_func.update_codes()
        return bank.variables("regression")["weights"]

    assert not torch.equal(weights_after(0, 2), weights_after(0, 3))
    assert_close(weights_after(2, 1), weights_after(0, 3), rtol=0, atol=0)


@pytest.mark.parametrize(("sweeps", "best"), [(1, False), (20, True)])
def test_more_sweeps_leave_no_bit_whose_flip_helps(sweeps, best):
    labels = torch.randint(2, (6, 4))
    loss_func, _ = make_bank(labels, 1, 8, 4, sweeps=sweeps, warm_start=0, inner_product_weight=3.0)
    bank = loss_func.code_bank
    bank.binary_codes.copy_(torch.randint(2, (6, 8)) * 2 - 1)
    bank.codes_changed()
    _, after = loss_func.update_codes()
    flipped = []
    for place in itertools.product(range(6), range(8)):
        bank.binary_codes[place] *= -1
        flipped.append(sum(bank_reference(bank, labels, inner_product_weight=3.0).values()) / 6)
        bank.binary_codes[place] *= -1
    assert (min(flipped) > after - 1e-6) == best


@pytest.mark.parametrize("inter_label", ["center", "simplex", "none"])
def test_warm_start_gives_each_class_a_code_of_its_own(inter_label):
    labels = torch.arange(10).repeat(5)
    bank = CodeBank(labels, 16)
    DSAHLoss(10, 16, code_bank=bank, inter_label=inter_label).update_codes()
    assert len(bank.binary_codes.unique(dim=0)) == 10
    assert_close(bank.binary_codes[:10], bank.binary_codes[10:20])


def test_terms_are_the_losses_of_their_own(labels):
    """With the other weights 0, a term has the value of the loss that stands for it alone."""
    codes, off = (
        make_codes(code_length=8)[0],
        dict.fromkeys(("intra_weight", "inter_weight", "quantization_weight"), 0.0),
    )
    graph = DSAHLoss(3, 8, **off, graph_weight=0.5)(codes, labels)
    assert_close(graph, AffinityGraphLoss()(codes, labels) / 2)
    quantization = DSAHLoss(
        3, 8, **{**off, "quantization_weight": 0.5}, graph_weight=0, inner_product_weight=0
    )(codes, labels)
    assert_close(quantization, ClassStructureQuantizationLoss()(codes, labels) / 2)
    loss_func = DSAHLoss(3, 8, quantization_weight=0, graph_weight=0)
    bank = CodeBank(labels, 8)
    DSAHLoss(3, 8, warm_start=0, code_bank=bank)(codes, sample_indices=torch.arange(6))
    regression = DualSemanticRegressionLoss(3)(bank.binary_codes.float(), labels)
    assert loss_func(codes, labels) <= regression + 1e-6


@pytest.mark.parametrize("mode", ["batch", "data_set"])
def test_pairs_of_a_miner_replace_the_graph(labels, mode):
    options = {"quantization_weight": 0, "intra_weight": 0, "inter_weight": 0, "graph_weight": 0.5}
    codes, ref_codes = make_codes(num_networks=2)
    bank = CodeBank(labels, 4, num_networks=2) if mode == "data_set" else None
    a1, p, a2, n = (torch.tensor(x) for x in ([0, 0, 4], [1, 5, 2], [0], [3]))
    squares = (codes[[0, 0, 4]] - ref_codes[[1, 5, 2]]).square().sum(dim=1)
    expected = 0.5 / 4 * (squares[0] / 2 + squares[1] / 2 + squares[2]) / 6
    loss_func = DSAHLoss(3, 4, code_bank=bank, **options)
    places = {"sample_indices": torch.arange(6)} if bank else {"labels": labels}
    loss = loss_func(codes, indices_tuple=(a1, p, a2, n), ref_emb=ref_codes, **places)
    assert_close(loss, expected)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_float64_codes_with_a_bank_in_float32(labels, num_networks):
    loss_func, codes = make_bank(labels, num_networks, inner_product_weight=1.0)
    rows = torch.arange(6)
    single = loss_func(**as_arguments(codes), sample_indices=rows)
    double = loss_func(**as_arguments([c.double() for c in codes]), sample_indices=rows)
    assert double.dtype == torch.float64
    assert loss_func.code_bank.query_codes.dtype == torch.float32
    assert_close(double.float(), single)


def test_sums_are_made_anew_before_a_discrete_step(labels):
    """The rounding of a round of sums and differences does not stay."""
    steps = []
    for rounding in (0.0, 0.1):
        torch.manual_seed(0)
        loss_func, _ = make_bank(labels)
        loss_func.code_bank.sums("class_moments")[0].add_(rounding)
        steps.append(loss_func.update_codes())
    assert steps[0] == steps[1]


def test_evaluation_mode_remembers_nothing(labels):
    loss_func, codes = make_bank(labels)
    loss_func.eval()
    loss_func(torch.zeros(6, 4), sample_indices=torch.arange(6))
    assert_close(loss_func.code_bank.query_codes, codes[0])


def test_discrete_step_is_exact_under_autocast():
    labels = torch.randint(3, (1000,))
    steps, weights = [], []
    for enabled in (False, True):
        torch.manual_seed(0)
        loss_func, _ = make_bank(labels, 1, 8, inner_product_weight=1.0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            steps.append(loss_func.update_codes())
        weights.append(loss_func.code_bank.variables("regression")["weights"])
    assert steps[0] == steps[1]
    assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_a_restored_bank_goes_on_as_the_old_one(labels, num_networks):
    options = {"inner_product_weight": 1.0, "class_share": 0.5}
    loss_func, _ = make_bank(labels, num_networks, **options)
    loss_func.update_codes()
    restored = CodeBank(labels, 4, num_networks=num_networks)
    restored.load_state_dict(loss_func.code_bank.state_dict())
    assert restored.started
    other = DSAHLoss(3, 4, code_bank=restored, **options)
    rows, codes = torch.tensor([5, 0]), make_codes(2, 4, num_networks)
    losses = [f(**as_arguments(codes), sample_indices=rows) for f in (loss_func, other)]
    assert_close(*losses, rtol=0, atol=0)
    assert loss_func.update_codes() == other.update_codes()
    for name, value in loss_func.code_bank.state_dict().items():
        assert name.endswith("extra_state") or torch.equal(value, restored.state_dict()[name])


def test_progress_bar(labels, capsys, monkeypatch):
    loss_func, _ = make_bank(labels)
    loss_func.update_codes(progress=True)  # a single block needs no bar
    monkeypatch.setattr(code_bank, "ROWS_OF_A_BLOCK", 2)
    loss_func.update_codes()
    assert capsys.readouterr().err == ""
    loss_func.update_codes(progress=True)
    assert "updating codes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intra_weight": -1}, "`intra_weight` of at least 0, got -1"),
        ({"inter_weight": float("nan")}, "`inter_weight` of at least 0, got nan"),
        ({"quantization_weight": -0.1}, r"`quantization_weight` of at least 0, got -0\.1"),
        ({"graph_weight": -1}, "`graph_weight` of at least 0, got -1"),
        ({"inner_product_weight": -1}, "`inner_product_weight` of at least 0, got -1"),
        ({"class_share": -1}, "`class_share` from 0 to 1, got -1"),
        ({"class_share": 1.5}, r"`class_share` from 0 to 1, got 1\.5"),
        ({"ridge_penalty": 0}, "positive `ridge_penalty`, got 0"),
        ({"inter_label": "centre"}, "`inter_label` to be one of 'center', .*, got 'centre'"),
        ({"regression": "both"}, "`regression` to be one of 'code_to_label', .*, got 'both'"),
        ({"warm_start": -1}, "`warm_start` of at least 0, got -1"),
        ({"sweeps": 0}, "`sweeps` of at least 1, got 0"),
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"code_length": 0}, "`code_length` of at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DSAHLoss(**{"num_classes": 3, "code_length": 4, **options})
