"""What every loss must do, checked on every name in `pml_hashing.losses.__all__`."""

import copy
import inspect
import io
import pickle
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import DoNothingReducer
from pytorch_metric_learning.regularizers import LpRegularizer
from torch import nn
from torch.testing import assert_close

from pml_hashing import CodeBank, losses

ROOT = Path(__file__).parents[2]
BASES = (losses.BaseHashingLoss, losses.DiscreteLoss)
CLASSES = {name: getattr(losses, name) for name in sorted(losses.__all__)}
NAMES = [n for n, c in CLASSES.items() if issubclass(c, BASES) and c not in BASES]
DISCRETE = [n for n in NAMES if issubclass(getattr(losses, n), losses.DiscreteLoss)]
SIZES = {
    "num_classes": 3,
    "code_length": 16,
    "label_widths": (24, 12),
    "fit_steps": 2,
    "features": torch.eye(3),
}
LABELS = {
    "class_ids": torch.tensor([0, 1, 2, 1, 0, 2, 2, 1]),
    "multi_hot": torch.tensor(
        [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0]]
    ),
}


def make_loss(name, **options):
    """Return a loss by its defaults, and the sizes where it asks for them."""
    loss_class = getattr(losses, name)
    sizes = {k: v for k, v in SIZES.items() if k in inspect.signature(loss_class).parameters}
    return loss_class(**sizes, **options)


def make_codes(n=8, **kwargs):
    return torch.tanh(torch.randn(n, 16, **kwargs))


@pytest.fixture(params=NAMES)
def loss_func(request):
    return make_loss(request.param)


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.mark.parametrize("name", NAMES)
def test_is_final_tested_and_documented(name):
    loss_class = getattr(losses, name)
    stem = loss_class.__module__.rsplit(".", 1)[-1]
    assert loss_class.__bases__[0] in {losses.BaseHashingLoss, losses.DiscreteLoss}
    assert len(loss_class.__bases__) == 1
    test = (ROOT / f"tests/losses/test_{stem}.py").read_text()
    assert f"def {stem}_reference(" in test
    assert "gradcheck(" in test or name in DISCRETE  # those in test_objectives.py
    assert f"::: pml_hashing.losses.{name}" in (ROOT / f"docs/losses/{stem}.md").read_text()
    assert f"[{name}]({stem}.md" in (ROOT / "docs/losses/index.md").read_text()


@pytest.mark.parametrize("options", [{}, {"embedding_regularizer": LpRegularizer()}])
@pytest.mark.parametrize("with_ref", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_pml_on_class_ids(name, with_ref, options):
    loss_func, labels = make_loss(name, **options), torch.randint(3, (8,))
    codes, ref_codes = make_codes(), make_codes()
    ref = {"ref_emb": ref_codes, "ref_labels": labels} if with_ref else {}
    expected = BaseMetricLossFunction.forward(loss_func, codes, labels, **ref)
    assert_close(loss_func(codes, labels, **ref), expected)


def test_class_ids_and_one_hot_labels_of_any_type_are_one(loss_func):
    codes, labels = make_codes(), torch.randint(3, (8,))
    expected, one_hot = loss_func(codes, labels), torch.nn.functional.one_hot(labels, 3)
    for kind in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert_close(loss_func(codes, labels.to(kind)), expected, msg=f"class ids of {kind}")
    for kind in (torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32):
        assert_close(loss_func(codes, one_hot.to(kind)), expected, msg=f"one-hot of {kind}")


def test_can_be_copied(loss_func):
    codes, labels = make_codes(), torch.randint(3, (8,))
    expected = loss_func(codes, labels)
    assert_close(copy.deepcopy(loss_func)(codes, labels), expected)
    assert_close(pickle.loads(pickle.dumps(loss_func))(codes, labels), expected)


def make_training(name, labels, in_bank):
    """Return all that has a state in a training: network, loss, bank and optimizer."""
    parts = {"network": nn.Sequential(nn.Linear(5, 16), nn.Tanh())}
    if in_bank:
        parts["code_bank"] = CodeBank(labels, 16, num_classes=3)
    parts["loss"] = make_loss(name, **({"code_bank": parts["code_bank"]} if in_bank else {}))
    parameters = [p for module in parts.values() for p in module.parameters()]
    return parts | {"optimizer": torch.optim.Adam(parameters, 0.01)}


def train(parts, images, labels):
    """Train on both halves of the images, then make a discrete step. Return the last loss."""
    for rows in torch.arange(8).chunk(2):
        places = {"sample_indices": rows} if "code_bank" in parts else {}
        loss = parts["loss"](parts["network"](images[rows]), labels[rows], **places)
        parts["optimizer"].zero_grad()
        loss.backward()
        parts["optimizer"].step()
    if "code_bank" in parts:
        parts["loss"].update_codes()
    return loss


@pytest.mark.parametrize(
    ("name", "in_bank"),
    [(name, False) for name in NAMES] + [(name, True) for name in DISCRETE],
)
def test_restored_training_is_the_training(name, in_bank, labels):
    images, saved = torch.randn(8, 5), io.BytesIO()
    straight = make_training(name, labels, in_bank)
    train(straight, images, labels)
    torch.save({key: part.state_dict() for key, part in straight.items()}, saved)
    expected = train(straight, images, labels)

    restored = make_training(name, labels, in_bank)  # begins with other parameters
    saved.seek(0)
    for key, state in torch.load(saved).items():
        restored[key].load_state_dict(state)
    assert torch.equal(train(restored, images, labels), expected)
    for key in straight.keys() - {"optimizer"}:
        state = restored[key].state_dict()
        for entry, value in straight[key].state_dict().items():
            if entry.endswith("_extra_state"):
                assert str(state[entry]) == str(value)  # NaN is not NaN
            else:
                assert torch.equal(state[entry], value)


def test_device_and_dtype(loss_func, labels, device, dtype):
    codes = make_codes(dtype=torch.float64).requires_grad_()
    expected = loss_func(codes, labels)
    expected.backward()
    moved = codes.detach().to(device, dtype).requires_grad_()
    loss = loss_func.to(device)(moved, labels)  # labels stay on the CPU
    loss.backward()
    assert (loss.device.type, loss.dtype) == (device.type, dtype)
    tight = {"rtol": 1e-5, "atol": 1e-5}
    assert_close(loss.double().cpu(), expected, **tight)
    assert_close(moved.grad.double().cpu(), codes.grad, **tight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(loss_func, labels, device, dtype):
    codes = make_codes(device=device).to(dtype).requires_grad_()
    loss_func = loss_func.to(device)
    loss = loss_func(codes, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert_close(loss, loss_func(codes.detach().float(), labels))
    assert codes.grad.isfinite().all()


@pytest.mark.parametrize(("codes_dtype", "rtol"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_autocast_changes_little(loss_func, labels, codes_dtype, rtol, device):
    codes, loss_func = make_codes(device=device), loss_func.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = loss_func(codes.to(codes_dtype), labels)
    assert_close(loss, loss_func(codes, labels), rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("other_object", [False, True])
def test_the_batch_as_its_own_reference(loss_func, labels, other_object):
    codes = make_codes()
    ref_labels = labels.clone() if other_object else labels
    loss = loss_func(codes, labels, ref_emb=codes, ref_labels=ref_labels)
    assert_close(loss, loss_func(codes, labels))


def test_a_second_network_gets_gradients(loss_func, labels):
    codes, ref_codes = make_codes().requires_grad_(), make_codes().requires_grad_()
    loss_func(codes, labels, ref_emb=ref_codes, ref_labels=labels).backward()
    for batch in (codes, ref_codes):
        if batch is codes or not isinstance(loss_func, losses.DualSemanticRegressionLoss):
            assert batch.grad.abs().sum() > 0


def test_gradient_goes_downhill(loss_func, labels):
    codes = make_codes(dtype=torch.float64).requires_grad_()
    loss = loss_func(codes, labels)
    loss.backward()
    assert loss_func(codes - 1e-3 * codes.grad, labels) < loss


def test_order_of_the_samples_does_not_matter(loss_func, labels):
    codes, order = make_codes(dtype=torch.float64), torch.randperm(8)
    assert_close(loss_func(codes[order], labels[order]), loss_func(codes, labels))


def test_batch_of_one(loss_func, labels):
    for label in labels.split(1):
        codes = make_codes(1).requires_grad_()
        loss = loss_func(codes, label)
        loss.backward()
        assert loss.isfinite(), label
        assert codes.grad.isfinite().all(), label


def test_all_samples_of_one_class(loss_func):
    codes = make_codes().requires_grad_()
    loss = loss_func(codes, torch.ones(8, dtype=torch.long))
    loss.backward()
    assert loss.isfinite()
    assert codes.grad.isfinite().all()


OF_HIGH_POWERS = (losses.DAPHLoss, losses.GreedyHashLoss)
"""Gradients of fourth powers, and of cubes, which are beyond float16."""


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_extreme_codes(loss_func, labels, dtype):
    beyond = isinstance(loss_func, OF_HIGH_POWERS) and dtype == torch.float16
    for scale in (0.0, 1e-20) if beyond else (0.0, 1e-20, 1e4):
        codes = (make_codes() * scale).to(dtype).requires_grad_()
        loss = loss_func(codes, labels)
        loss.backward()
        assert loss.isfinite(), scale
        assert codes.grad.isfinite().all(), scale


@pytest.mark.parametrize("name", NAMES)
def test_sub_losses_are_those_it_names(name):
    loss_func = make_loss(name, reducer=DoNothingReducer())
    loss_dict = loss_func(make_codes(), LABELS["class_ids"])
    assert list(loss_dict) == loss_func.sub_loss_names()
    for loss in loss_dict.values():
        if loss["reduction_type"] == "element":
            assert len(loss["losses"]) == len(loss["indices"]) == 8
        else:
            assert loss["reduction_type"] in {"pos_pair", "neg_pair"}
            assert [len(places) for places in loss["indices"]] == [len(loss["losses"])] * 2
        assert loss["losses"].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_sub_losses_are_recorded_if_asked(name):
    loss_func = make_loss(name, collect_stats=True)
    loss = loss_func(make_codes(), LABELS["class_ids"])
    recorded = [getattr(loss_func, sub_loss) for sub_loss in loss_func.sub_loss_names()]
    assert loss.item() == pytest.approx(sum(recorded))


WRONG_SHAPES = [
    ((4, 3, 2), (4,), r"`embeddings` of shape \(batch_size, .*\), not empty, got \(4, 3, 2\)"),
    ((0, 16), (0,), r"`embeddings` of shape .* got \(0, 16\)"),
    ((4, 16), (5,), r"`labels` of shape \(4,\) .* got \(5,\)"),
    ((4, 16), (4, 2, 2), r"`labels` of shape \(4,\) .* got \(4, 2, 2\)"),
]


def test_wrong_shapes_are_named(loss_func):
    for codes_shape, labels_shape, message in WRONG_SHAPES:
        codes, labels = torch.zeros(codes_shape), torch.zeros(labels_shape).long()
        with pytest.raises(ValueError, match=message):
            loss_func(codes, labels)


def test_labels_are_required(loss_func):
    message = r"Expected `labels`( or `indices_tuple`)?, got (None|neither)"
    with pytest.raises(ValueError, match=message):
        loss_func(make_codes())


def test_columns_of_class_ids_are_no_multi_hot_rows(loss_func):
    with pytest.raises(ValueError, match=r"multi-hot `labels` of zeros|`labels` of shape \(2, 3\)"):
        loss_func(make_codes(2), torch.tensor([[1], [2]]))


LABELS_OF_OTHER_CLASSES = [
    (torch.tensor([0, 3]), ValueError, "`labels` with class ids from 0 to 2, got 0 to 3"),
    (torch.tensor([-1, 0]), ValueError, "`labels` with class ids from 0 to 2, got -1 to 0"),
    (torch.tensor([0.0, 1.0]), TypeError, r"integer class ids, got torch\.float32"),
    (torch.tensor([True, False]), TypeError, r"integer class ids, got torch\.bool"),
    (torch.ones(2, 4), ValueError, r"`labels` of shape \(2, 3\) .* got \(2, 4\)"),
    (torch.full((2, 3), 2), ValueError, "multi-hot `labels` of zeros and ones"),
    (torch.full((2, 3), torch.nan), ValueError, "multi-hot `labels` of zeros and ones"),
]


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "num_classes" in inspect.signature(CLASSES[n]).parameters]
)
def test_labels_of_other_classes_are_named(name):
    loss_func = make_loss(name)
    for labels, error, message in LABELS_OF_OTHER_CLASSES:
        with pytest.raises(error, match=message):
            loss_func(make_codes(2), labels)
