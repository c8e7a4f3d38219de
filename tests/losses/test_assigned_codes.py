"""Class codes that features assign: one argument for all losses with class codes."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pml_hashing import CodeBank, losses
from pml_hashing.centers import assigned_codes, gather_features, hash_centers, spread_codes

CLASS_IDS = torch.arange(60) % 6
MULTI_HOT = (
    torch.eye(6)[CLASS_IDS] + torch.eye(6)[(CLASS_IDS + 1) % 6] * (torch.arange(60) % 2)[:, None]
)
LABELS = {"class_ids": CLASS_IDS, "multi_hot": MULTI_HOT.long()}
WITH_BANK = ["ADSHLoss", "DADHLoss", "DAPHLoss", "DFHLoss", "DSAHLoss", "DSDHLoss"]
NAMES = [*WITH_BANK, "CSQLoss", "OrthoHashLoss"]


def make_features():
    means = torch.randn(3, 8).repeat_interleave(2, dim=0) * 4 + torch.randn(6, 8)
    return means[CLASS_IDS] + torch.randn(60, 8)


def make_loss(name, class_codes="assigned", **options):
    return getattr(losses, name)(6, 12, class_codes=class_codes, **options)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("name", NAMES)
def test_features_assign_the_same_codes_to_all(name, labels):
    loss_func, features = make_loss(name, seed=3), make_features()
    tie_code = loss_func.class_codes[6:].clone()
    assert loss_func.wants_features
    loss_func.use_features(features, labels)
    assert not loss_func.wants_features
    assert_close(loss_func.class_codes[:6], assigned_codes(features, labels, 6, 12, seed=3))
    assert_close(loss_func.class_codes[6:], tie_code)
    assert loss_func(features @ torch.randn(8, 12), labels).isfinite()


@pytest.mark.parametrize("name", WITH_BANK)
def test_the_bank_starts_from_them(name):
    bank = CodeBank(CLASS_IDS, 12)
    loss_func = make_loss(name, code_bank=bank)
    loss_func.use_features(make_features(), CLASS_IDS)
    loss_func.warm_start = 0
    loss_func(torch.zeros(2, 12), sample_indices=torch.arange(2))
    assert_close(bank.binary_codes.float(), loss_func.class_codes[CLASS_IDS])
    if name == "DFHLoss":
        assert_close(bank.variables("center")["centers"], loss_func.class_codes[:6])


@pytest.mark.parametrize("name", NAMES)
def test_without_features_nothing_changes(name):
    codes, labels = torch.randn(60, 12), CLASS_IDS
    assigned, spread = (make_loss(name, kind, seed=2) for kind in ("assigned", "spread"))
    assert not spread.wants_features
    assert_close(assigned.class_codes, spread.class_codes, rtol=0, atol=0)
    torch.manual_seed(0)
    expected = spread(codes, labels)
    torch.manual_seed(0)
    assert_close(assigned(codes, labels), expected, rtol=0, atol=0)
    of_discrete = spread_codes(7, 12, seed=2)
    assert_close(
        spread.class_codes[:6], (of_discrete[:6] if name in WITH_BANK else hash_centers(6, 12, 2))
    )


def test_dsah_asks_for_features_unless_told_not_to():
    assert losses.DSAHLoss(6, 12).wants_features
    assert not losses.DSAHLoss(6, 12, class_codes="spread").wants_features
    assert not losses.DSAHLoss(6, 12, class_codes=hash_centers(6, 12)).wants_features
    for name in set(NAMES) - {"DSAHLoss"}:
        assert not getattr(losses, name)(6, 12).wants_features


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_loaded_has_its_codes_and_asks_no_more(name):
    saved, loaded = make_loss(name), make_loss(name)
    saved.use_features(make_features(), CLASS_IDS)
    loaded.load_state_dict(saved.state_dict())
    assert not loaded.wants_features
    assert_close(loaded.class_codes, saved.class_codes, rtol=0, atol=0)


def test_one_call_in_a_loop_of_ones_own():
    batches = [(make_features(), CLASS_IDS)]
    loss_func = losses.DSAHLoss(6, 12, code_bank=CodeBank(CLASS_IDS, 12))
    loss_func.use_features(*gather_features(nn.Identity(), batches))
    assert_close(loss_func.class_codes[:6], assigned_codes(*batches[0], 6, 12))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (partial(make_loss, "CSQLoss", "spread"), ValueError, "one with other codes"),
        (partial(make_loss, "DSAHLoss", torch.ones(6, 12)), ValueError, "one with other codes"),
        (losses.DHNLoss, ValueError, '`class_codes="assigned"`, got DHNLoss'),
        (
            partial(make_loss, "CSQLoss", "near"),
            ValueError,
            "`class_codes` .*'spread'.* got 'near'",
        ),
        (partial(make_loss, "ADSHLoss", "near"), ValueError, "`class_codes` .*got 'near'"),
        (partial(make_loss, "ADSHLoss", None), TypeError, "`class_codes` to be .* got NoneType"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make().use_features(make_features(), CLASS_IDS)


def test_a_bank_that_has_started_keeps_its_codes():
    bank = CodeBank(CLASS_IDS, 12)
    loss_func = losses.DSAHLoss(6, 12, code_bank=bank)
    loss_func(torch.zeros(2, 12), sample_indices=torch.arange(2))
    assert not loss_func.wants_features
    with pytest.raises(ValueError, match="`code_bank` that has not started"):
        loss_func.use_features(make_features(), CLASS_IDS)
