"""What PML asks of every loss: pairs without labels, reducers, regularizers, statistics, sums."""

import pytest
import torch
from compatibility import LABELS, MULTI_HOT, NAMES, make_codes, make_loss
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, reducers, regularizers
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch.testing import assert_close

from pml_hashing.miners import AffinityGraphMiner
from pml_hashing.regularizers import (
    BitBalanceRegularizer,
    BitDecorrelationRegularizer,
    QuantizationRegularizer,
)

OF_PAIRS_ALONE = {
    "AffinityGraphLoss",
    "DHNLoss",
    "DNNHLoss",
    "DPSHLoss",
    "DTSHLoss",
    "HashNetLoss",
}
NONE = torch.empty(0, dtype=torch.long)
CHOSEN = {
    "pairs": lmu.get_all_pairs_indices(LABELS),
    "triplets": lmu.get_all_triplets_indices(LABELS),
    "similar pairs": (*lmu.get_all_pairs_indices(LABELS)[:2], NONE, NONE),
    "dissimilar pairs": (NONE, NONE, *lmu.get_all_pairs_indices(LABELS)[2:]),
    "no pairs": (NONE,) * 4,
    "no triplets": (NONE,) * 3,
}
REDUCERS = {
    "AvgNonZero": reducers.AvgNonZeroReducer,
    "Mean": reducers.MeanReducer,
    "Sum": reducers.SumReducer,
    "Threshold": lambda: reducers.ThresholdReducer(low=0.1, high=1.0),
    "PerAnchor": reducers.PerAnchorReducer,
    "PerAnchor of sums": lambda: reducers.PerAnchorReducer(reducers.SumReducer()),
}
REGULARIZERS = [
    regularizers.LpRegularizer,
    regularizers.ZeroMeanRegularizer,
    QuantizationRegularizer,
    BitBalanceRegularizer,
    BitDecorrelationRegularizer,
]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.mark.parametrize("form", ["pairs", "triplets"])
def test_pairs_need_no_labels(name, form):
    loss_func, codes, chosen = make_loss(name), make_codes(), CHOSEN[form]
    if name not in OF_PAIRS_ALONE:
        with pytest.raises(ValueError, match="Expected `labels`, got None"):
            loss_func(codes, indices_tuple=chosen)
        return
    expected = loss_func(codes, LABELS, chosen)
    assert loss_func(codes, indices_tuple=chosen) == expected
    assert loss_func(codes, indices_tuple=chosen, ref_emb=codes) == expected
    assert loss_func(codes, LABELS, chosen, codes.clone(), LABELS.clone()) == expected


@pytest.mark.parametrize("labels", [LABELS, MULTI_HOT], ids=["class_ids", "multi_hot"])
def test_any_choice_of_a_miner_has_a_gradient(name, labels):
    loss_func = make_loss(name)
    for chosen in CHOSEN.values():
        codes = make_codes()
        loss = loss_func(codes, labels, chosen)
        loss.backward()
        assert loss.isfinite()
        assert codes.grad.isfinite().all()


@pytest.mark.parametrize("form", ["no pairs", "no triplets"])
@pytest.mark.parametrize("name", sorted(OF_PAIRS_ALONE))
def test_no_pair_is_no_loss_of_pairs(name, form):
    loss_func, codes = make_loss(name), make_codes()
    loss_func.set_reducer(reducers.DoNothingReducer())
    terms = loss_func(codes, LABELS, CHOSEN[form])
    of_samples = [terms.pop("quantization_loss")] if "quantization_loss" in terms else []
    assert all((torch.as_tensor(term["losses"]) == 0).all() for term in terms.values())
    assert all(len(term["losses"]) == len(codes) for term in of_samples)


def mean_over(losses):
    return losses.mean() if len(losses) > 0 else torch.zeros(())


def reduced_reference(key, sub_loss):
    """Reduce one sub-loss as the reducer of this name has to."""
    losses, kind = sub_loss["losses"], sub_loss["reduction_type"]
    if kind == "already_reduced":
        return torch.as_tensor(losses).float()
    if key == "AvgNonZero":
        return mean_over(losses[losses > 0])
    if key == "Threshold":
        return mean_over(losses[(losses > 0.1) & (losses < 1.0)])
    if key.startswith("PerAnchor") and kind != "element":
        anchors = sub_loss["indices"][0]
        losses = torch.stack([mean_over(losses[anchors == i]) for i in range(len(LABELS))])
    return losses.sum() if "Sum" in key or "sums" in key else losses.mean()


def test_reducers_reduce_each_sub_loss(name):
    loss_func, terms = make_loss(name), []
    batches = [(LABELS, None), (MULTI_HOT, None), (LABELS, CHOSEN["pairs"])]
    batches = [(make_codes(), *batch) for batch in [*batches, (LABELS, CHOSEN["no pairs"])]]
    loss_func.set_reducer(reducers.DoNothingReducer())
    terms = [loss_func(*batch) for batch in batches]
    for key, make_reducer in REDUCERS.items():
        given = make_reducer()
        loss_func.set_reducer(given)
        inner = loss_func.reducer
        parts = inner.reducers if isinstance(inner, reducers.MultipleReducers) else {"loss": inner}
        assert {type(part) for part in parts.values()} == {type(given)}
        assert all(part is not given for part in parts.values())  # each has a copy of its own
        for batch, of_batch in zip(batches, terms, strict=True):
            expected = sum(reduced_reference(key, sub_loss) for sub_loss in of_batch.values())
            assert_close(loss_func(*batch), expected)


def test_reducers_that_are_given_whole_are_kept(name):
    nothing = reducers.DoNothingReducer()
    loss_func = make_loss(name, reducer=nothing)
    assert loss_func.reducer is nothing
    terms = loss_func(make_codes(), LABELS)
    sums = reducers.MultipleReducers({}, reducers.SumReducer())
    loss_func.set_reducer(sums)
    assert loss_func.reducer is sums
    expected = sum(sub_loss["losses"].sum() for sub_loss in terms.values())
    assert_close(loss_func(make_codes(), LABELS), expected)


def test_reducers_record_what_they_were_given():
    loss_func = make_loss("CSQLoss", reducer=reducers.ThresholdReducer(low=0, collect_stats=True))
    loss_func(make_codes(), LABELS)
    for part in loss_func.reducer.reducers.values():
        assert (part.losses_size, part.num_past_filter, part.num_above_low) == (12, 12, 12)


def test_a_reducer_of_anchors_knows_the_batch_alone(name):
    loss_func = make_loss(name, reducer=reducers.PerAnchorReducer())
    assert loss_func(make_codes(), LABELS, None, make_codes(1), LABELS.clone()).isfinite()
    if loss_func.of_pairs and name in OF_PAIRS_ALONE:
        longer = torch.cat([make_codes(1), make_codes(2)]), LABELS.repeat(2)
        with pytest.raises(ValueError, match=r"other than PerAnchorReducer, .* got one for 24"):
            loss_func(make_codes(), LABELS, None, *longer)


def test_codes_are_regularized(name):
    plain, codes = make_loss(name), make_codes()
    loss, names = plain(codes, LABELS), plain.sub_loss_names()
    for kind in REGULARIZERS:
        loss_func = make_loss(name, embedding_regularizer=kind(), embedding_reg_weight=0.5)
        assert loss_func.sub_loss_names() == [*names, "embedding_reg_loss"]
        assert "embedding_reg_weight" in loss_func._record_these
        assert_close(loss_func(codes, LABELS), loss + 0.5 * kind()(codes))


class VectorOfOne(regularizers.BaseRegularizer):
    """Returns one number in a vector, which PML's reducers take."""

    def compute_loss(self, x):
        loss = x.square().mean().reshape(1)
        return {"loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"}}


def test_a_regularizer_may_return_a_vector_of_one(name):
    loss_func = make_loss(name, embedding_regularizer=VectorOfOne())
    loss = loss_func(make_codes(), LABELS)
    assert loss.shape == ()
    expected = make_loss(name)(make_codes(), LABELS) + make_codes().square().mean()
    assert_close(loss, expected)


def test_statistics_are_collected_for_all_at_once(name, monkeypatch):
    assert not hasattr(make_loss(name), "_record_these_stats")
    monkeypatch.setattr(c_f, "COLLECT_STATS", True)
    loss_func = make_loss(name)
    loss_func(make_codes(), LABELS)
    found = {key: getattr(loss_func, key) for key in loss_func._record_these_stats}
    assert set(found) == set(loss_func.sub_loss_names())
    assert {type(value) for value in found.values()} == {float}
    assert set(found) <= {*dir(loss_func)}
    assert all(isinstance(module, torch.nn.Module) for module in loss_func.modules())


def test_defaults_are_those_of_the_class(name):
    loss_func = make_loss(name)
    inner = loss_func.reducer
    parts = inner.reducers.values() if isinstance(inner, reducers.MultipleReducers) else [inner]
    assert {type(part) for part in parts} == {type(loss_func.get_default_reducer())}
    assert type(loss_func.distance) is type(loss_func.get_default_distance())


def test_names_are_those_of_columns_and_tables(name):
    """PML's hooks make tables of modules and columns of what they record."""
    loss_func = make_loss(name, collect_stats=True)
    names = [part for path, _ in loss_func.named_modules() for part in path.split(".") if part]
    recorded = [*getattr(loss_func, "_record_these", []), *loss_func._record_these_stats]
    assert all(part.isidentifier() for part in names + recorded)


MINERS = [
    miners.AngularMiner(),
    miners.BatchEasyHardMiner(),
    miners.BatchHardMiner(),
    miners.DistanceWeightedMiner(),
    miners.MultiSimilarityMiner(),
    miners.PairMarginMiner(),
    miners.TripletMarginMiner(),
    miners.UniformHistogramMiner(),
    AffinityGraphMiner(num_neighbors=1, num_dissimilar=2),
]


def test_all_losses_are_summed_with_any_miner():
    """MultipleLosses: every loss at once, by name and by place, with weights and miners."""
    codes, every = make_codes(), {name: make_loss(name) for name in NAMES}
    weights = {name: 1.0 + i for i, name in enumerate(NAMES)}
    named = pml_losses.MultipleLosses(every, weights=weights)
    listed = pml_losses.MultipleLosses([*every.values()], weights=[*weights.values()])
    for miner in MINERS:
        chosen = miner(codes, LABELS)
        single = {name: loss_func(codes, LABELS, chosen) for name, loss_func in every.items()}
        expected = sum(weights[name] * loss for name, loss in single.items())
        assert_close(named(codes, LABELS, chosen), expected)
        assert_close(listed(codes, LABELS, chosen), expected)
    mined = pml_losses.MultipleLosses(every, miners={"DPSHLoss": MINERS[-1]})
    expected = sum(
        loss_func(codes, LABELS, MINERS[-1](codes, LABELS) if name == "DPSHLoss" else None)
        for name, loss_func in every.items()
    )
    assert_close(mined(codes, LABELS), expected)
