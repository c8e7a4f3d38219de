"""The three terms of DSAH against their printed formulas, in loops, and brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

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
FORMS = ("code_to_label", "label_to_code")


def affinity_reference(labels, ref_labels):
    """A, from rows of zeros and ones."""
    classes = range(len(labels[0]))
    sizes = [max(1, sum(z[c] for z in ref_labels)) for c in classes]
    return [
        [sum(y[c] * z[c] / sizes[c] for c in classes) / max(1, sum(y)) for z in ref_labels]
        for y in labels
    ]


def dsah_terms_reference(term, codes, labels, ref_codes=None, ref_labels=None, binary_codes=None):
    """The quantization (of given binary codes, or the best) or the graph, pair by pair."""
    n, code_length = len(codes), len(codes[0])
    weights = affinity_reference(labels, ref_labels or labels)

    def distance(x, z):
        return sum((a - b) ** 2 for a, b in zip(x, z, strict=True))

    def average(partners, networks):
        rows = [(i, j) for i in range(n) for j in range(len(partners))]
        total = sum(weights[i][j] * distance(c[i], partners[j]) for i, j in rows for c in networks)
        return total / (n * code_length)

    if term == "graph":
        return average(ref_codes or codes, [codes])
    networks = [codes] if ref_codes is None else [codes, ref_codes]
    if binary_codes is not None:
        return average(binary_codes, networks)
    pulls = [
        [
            sum(weights[i][j] * c[i][k] for i in range(n) for c in networks)
            for k in range(code_length)
        ]
        for j in range(n)
    ]
    return average([[1 if pull >= 0 else -1 for pull in row] for row in pulls], networks)


def regression_reference(
    codes, labels, intra_weight, inter_weight, ridge_penalty, inter_label, regression
):
    """The minimum over both matrices, each by least squares with the penalty as more rows."""
    codes, rows = np.array(codes, dtype=float), np.array(labels, dtype=float)
    classes = rows.shape[1]
    inter_rows = {
        "center": rows - rows.mean(axis=0),
        "simplex": np.where(rows == 1, 1.0, -1 / (classes - 1)),
        "complement": 1 - rows,
        "none": None,
    }[inter_label]
    total = 0.0
    for weight, label in ((intra_weight, rows), (inter_weight, inter_rows)):
        if label is None:
            continue
        x, y = (codes, label) if regression == "code_to_label" else (label, codes)
        x = np.vstack([np.sqrt(weight) * x, np.sqrt(ridge_penalty) * np.eye(x.shape[1])])
        y = np.vstack([np.sqrt(weight) * y, np.zeros((x.shape[1], y.shape[1]))])
        total += np.square(y - x @ np.linalg.lstsq(x, y, rcond=None)[0]).sum()
    return total / len(codes)


def rows_of(labels, num_classes=3):
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels, num_classes)
    return labels.int().tolist()


def make_codes(n=6, code_length=4, **kwargs):
    return torch.tanh(torch.randn(n, code_length, **kwargs))


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


def test_value_of_quantization(labels, device, dtype):
    codes = make_codes(dtype=dtype, device=device)
    expected = dsah_terms_reference("quantization", codes.tolist(), rows_of(labels))
    loss = ClassStructureQuantizationLoss()(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_value_of_quantization_with_two_networks(labels):
    codes, ref_codes = make_codes(), make_codes()
    expected = dsah_terms_reference(
        "quantization", codes.tolist(), rows_of(labels), ref_codes.tolist()
    )
    loss = ClassStructureQuantizationLoss()(codes, labels, ref_emb=ref_codes)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("term", ["quantization", "graph"])
def test_double_precision_is_kept(labels, term):
    codes = make_codes(dtype=torch.float64)
    expected = dsah_terms_reference(term, codes.tolist(), rows_of(labels))
    loss_func = {"quantization": ClassStructureQuantizationLoss, "graph": AffinityGraphLoss}[term]()
    assert loss_func(codes, labels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("labels", [[[1, 0], [1, 0], [0, 1]], [[1, 1], [0, 1], [0, 0]]])
def test_quantization_is_to_the_best_of_all_codes(labels):
    codes = make_codes(3, 3)
    best = min(
        dsah_terms_reference(
            "quantization", codes.tolist(), labels, binary_codes=[b[:3], b[3:6], b[6:]]
        )
        for b in itertools.product([-1, 1], repeat=9)
    )
    loss = ClassStructureQuantizationLoss()(codes, torch.tensor(labels))
    assert_close(loss.item(), best, rtol=1e-5, atol=1e-6)


def test_quantization_is_zero_for_the_binary_codes_of_classes():
    codes = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    labels = torch.tensor([0, 1, 1, 0])
    assert ClassStructureQuantizationLoss()(codes[labels], labels) == 0
    assert ClassStructureQuantizationLoss()(codes[labels], torch.tensor([0, 0, 1, 1])) == 1


def test_value_of_graph(labels, device, dtype):
    codes = make_codes(dtype=dtype, device=device)
    expected = dsah_terms_reference("graph", codes.tolist(), rows_of(labels))
    loss = AffinityGraphLoss()(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_value_of_graph_with_a_reference_set_of_other_size(labels):
    codes, ref_codes = make_codes(2, dtype=torch.float64), make_codes(dtype=torch.float64)
    expected = dsah_terms_reference(
        "graph", codes.tolist(), rows_of(labels[:2]), ref_codes.tolist(), rows_of(labels)
    )
    loss = AffinityGraphLoss()(codes, labels[:2], ref_emb=ref_codes, ref_labels=labels)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["pairs", "triplets"])
def test_pairs_of_a_miner_replace_the_graph(kind):
    codes = make_codes(dtype=torch.float64)
    a, p, n = (torch.tensor(x) for x in ([0, 0, 2], [1, 5, 4], [3, 3, 0]))
    squares = (codes[a] - codes[p]).square().sum(dim=1)
    expected = (squares[0] / 2 + squares[1] / 2 + squares[2]) / (6 * 4)
    pairs = (a, p, a, n) if kind == "pairs" else (a, p, n)
    assert_close(AffinityGraphLoss()(codes, indices_tuple=pairs), expected, rtol=1e-12, atol=0)


def test_no_similar_pair_is_no_loss():
    none = torch.tensor([], dtype=torch.long)
    assert AffinityGraphLoss()(make_codes(), indices_tuple=(none,) * 4) == 0
    assert AffinityGraphLoss()(make_codes(), torch.zeros(6, 3)) == 0
    assert AffinityGraphLoss()(make_codes(3), torch.arange(3)) == pytest.approx(0, abs=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    code_length=st.integers(1, 5),
    multi_hot=st.booleans(),
    intra_weight=st.sampled_from([0.0, 0.5, 2.0]),
    inter_weight=st.sampled_from([0.0, 1.5]),
    ridge_penalty=st.sampled_from([0.1, 3.0]),
    inter_label=st.sampled_from(INTER),
    regression=st.sampled_from(FORMS),
)
@settings(max_examples=60)
def test_value_of_regression(
    seed,
    n,
    code_length,
    multi_hot,
    intra_weight,
    inter_weight,
    ridge_penalty,
    inter_label,
    regression,
):
    torch.manual_seed(seed)
    labels = torch.randint(2, (n, 3)) if multi_hot else torch.randint(3, (n,))
    codes = make_codes(n, code_length, dtype=torch.float64)
    options = {
        "intra_weight": intra_weight,
        "inter_weight": inter_weight,
        "ridge_penalty": ridge_penalty,
        "inter_label": inter_label,
        "regression": regression,
    }
    expected = regression_reference(codes.tolist(), rows_of(labels), **options)
    loss = DualSemanticRegressionLoss(3, **options)(codes, labels)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("regression", FORMS)
@pytest.mark.parametrize("inter_label", INTER)
def test_device_and_dtype_of_regression(labels, inter_label, regression, device, dtype):
    codes = make_codes(dtype=dtype, device=device)
    options = {
        "intra_weight": 1.0,
        "inter_weight": 0.5,
        "ridge_penalty": 0.3,
        "inter_label": inter_label,
        "regression": regression,
    }
    expected = regression_reference(codes.tolist(), rows_of(labels), **options)
    loss = DualSemanticRegressionLoss(3, **options)(codes, labels)
    assert_close(loss.item(), expected, rtol=1e-5, atol=1e-6)
    assert (loss.dtype, loss.device.type) == (dtype, device.type)


def test_no_weight_is_no_regression():
    loss_func = DualSemanticRegressionLoss(3, intra_weight=0, inter_weight=0)
    assert loss_func(make_codes(), LABELS["class_ids"]) == 0


def test_complement_label_rewards_a_constant_bit_and_says_nothing_new():
    """Section "The inter_label-class label" of the page: the theorem of the complement label."""
    codes, labels, ridge_penalty = make_codes(dtype=torch.float64), LABELS["class_ids"], 0.7
    num_classes = 5
    intra = DualSemanticRegressionLoss(num_classes, inter_weight=0, ridge_penalty=ridge_penalty)(
        codes, labels
    )
    inter_label = DualSemanticRegressionLoss(
        num_classes, intra_weight=0, ridge_penalty=ridge_penalty, inter_label="complement"
    )
    u, ones = codes.numpy(), np.ones(6)
    constant = ones - u @ np.linalg.solve(u.T @ u + ridge_penalty * np.eye(4), u.T @ ones)
    expected = intra.item() + (num_classes - 2) * (ones @ constant) / 6
    assert inter_label(codes, labels).item() == pytest.approx(expected)


def make_losses():
    return [
        ClassStructureQuantizationLoss(),
        AffinityGraphLoss(),
        *(
            DualSemanticRegressionLoss(
                3, ridge_penalty=0.5, inter_label=inter_label, regression=regression
            )
            for inter_label in INTER
            for regression in FORMS
        ),
    ]


@pytest.mark.parametrize("loss_func", make_losses())
def test_gradient(loss_func, labels, device):
    codes = make_codes(dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: loss_func(c, labels), codes)


@pytest.mark.parametrize("loss_func", make_losses()[:2])
def test_gradient_of_two_networks(loss_func, labels, device):
    codes = [make_codes(dtype=torch.float64, device=device).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda c, v: loss_func(c, labels, ref_emb=v, ref_labels=labels), codes
    )


@pytest.mark.parametrize("loss_func", make_losses())
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 8), code_length=st.integers(1, 8))
@settings(max_examples=10)
def test_symmetries(loss_func, seed, n, code_length):
    torch.manual_seed(seed)
    codes, labels = make_codes(n, code_length, dtype=torch.float64), torch.randint(3, (n,))
    samples, bits = torch.randperm(n), torch.randperm(code_length)
    flip = torch.randint(2, (code_length,)) * 2 - 1
    loss = loss_func(codes, labels)
    assert loss >= -1e-12
    assert_close(loss_func(codes[samples], labels[samples]), loss)
    assert_close(loss_func(codes[:, bits] * flip, labels), loss)


def test_codes_of_the_two_networks_are_of_the_same_samples():
    message = r"`ref_emb` of shape \(6, 4\), one code per sample, got \(5, 4\)"
    with pytest.raises(ValueError, match=message):
        ClassStructureQuantizationLoss()(make_codes(), torch.zeros(6).long(), ref_emb=make_codes(5))


def test_graph_needs_labels_of_the_reference_set():
    with pytest.raises(ValueError, match="Expected `ref_labels` or "):
        AffinityGraphLoss()(make_codes(), torch.zeros(6).long(), ref_emb=make_codes(5))
    class_ids, rows, others = torch.zeros(6).long(), torch.zeros(6, 6), torch.zeros(6, 3)
    for labels, ref_labels in ((class_ids, rows), (rows, class_ids), (rows, others)):
        with pytest.raises(ValueError, match="`labels` and `ref_labels` of the same kind "):
            AffinityGraphLoss()(make_codes(), labels, ref_emb=make_codes(), ref_labels=ref_labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` of at least 2, got 1"),
        ({"intra_weight": -1}, "`intra_weight` of at least 0, got -1"),
        ({"inter_weight": -1}, "`inter_weight` of at least 0, got -1"),
        ({"ridge_penalty": 0}, "positive `ridge_penalty`, got 0"),
        ({"ridge_penalty": float("nan")}, "positive `ridge_penalty`, got nan"),
        ({"inter_label": "other"}, "`inter_label` to be one of 'center', .*, got 'other'"),
        ({"regression": "ridge"}, "`regression` to be one of .*, got 'ridge'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DualSemanticRegressionLoss(**{"num_classes": 3, **options})
