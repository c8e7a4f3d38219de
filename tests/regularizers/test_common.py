"""What every regularizer must do, checked on every name in `pml_hashing.regularizers.__all__`."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.regularizers import BaseRegularizer
from torch.testing import assert_close

from pml_hashing import regularizers

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=sorted(regularizers.__all__))
def regularizer(request):
    return getattr(regularizers, request.param)()


def test_is_final_tested_and_documented(regularizer):
    name, module = type(regularizer).__name__, type(regularizer).__module__
    stem = module.rsplit(".", 1)[-1]
    assert type(regularizer).__bases__ == (BaseRegularizer,)
    assert f"def {stem}_reference(" in (ROOT / f"tests/regularizers/test_{stem}.py").read_text()
    assert f"::: pml_hashing.regularizers.{name}" in (ROOT / "docs/regularizers.md").read_text()


def test_gradient(regularizer, device):
    codes = torch.randn(5, 4, dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(regularizer, codes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(regularizer, device, dtype):
    codes = torch.randn(64, 48, device=device).to(dtype).requires_grad_()
    loss = regularizer(codes)
    loss.backward()
    assert loss.dtype == torch.float32
    assert_close(loss, regularizer(codes.detach().float()), rtol=0, atol=0)
    assert codes.grad.isfinite().all()


def test_symmetries(regularizer):
    codes = torch.randn(7, 6, dtype=torch.float64)
    flip = torch.randint(2, (6,)) * 2 - 1
    loss = regularizer(codes)
    assert loss > 0
    assert_close(regularizer(codes[torch.randperm(7)]), loss)
    assert_close(regularizer(codes[:, torch.randperm(6)] * flip), loss)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
def test_extreme_codes(regularizer, scale):
    codes = (torch.randn(5, 4) * scale).requires_grad_()
    loss = regularizer(codes)
    loss.backward()
    assert loss.isfinite()
    assert codes.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 4), (5, 1), (1, 1)])
def test_smallest_batches_and_codes(regularizer, shape):
    assert regularizer(torch.randn(shape)).shape == ()


def test_regularizes_a_loss_of_pml(regularizer):
    codes, labels = torch.randn(6, 4), torch.arange(6) % 2
    plain = ContrastiveLoss()(codes, labels)
    loss_func = ContrastiveLoss(embedding_regularizer=regularizer, embedding_reg_weight=0.3)
    assert_close(loss_func(codes, labels), plain + 0.3 * regularizer(codes))


@pytest.mark.parametrize("shape", [(4,), (0, 5), (4, 0), (2, 3, 4)])
def test_wrong_shapes(regularizer, shape):
    with pytest.raises(ValueError, match=r"Expected `embeddings` of shape .* not empty, got \("):
        regularizer(torch.zeros(shape))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_can_be_copied(regularizer, clone):
    codes = torch.randn(5, 4)
    assert_close(clone(regularizer)(codes), regularizer(codes))
