"""What PML's arguments mean to every loss: distances, reducers, miners, and `torch.func`."""

import inspect

import pytest
import torch
from pytorch_metric_learning import reducers
from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity, SNRDistance
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch.testing import assert_close

from pml_hashing import CodeBank, losses
from pml_hashing.distances import HammingDistance
from pml_hashing.miners import AffinityGraphMiner
from pml_hashing.solvers import dcc

BASES = (losses.BaseHashingLoss, losses.DiscreteLoss)
CLASSES = {name: getattr(losses, name) for name in sorted(losses.__all__)}
NAMES = [n for n, c in CLASSES.items() if issubclass(c, BASES) and c not in BASES]
DISCRETE = [name for name in NAMES if issubclass(CLASSES[name], losses.DiscreteLoss)]
WITH_DISTANCE = {"HashNetLoss"}
OF_PAIRS = {"AffinityGraphLoss", "DHNLoss", "DNNHLoss", "DPSHLoss", "DTSHLoss", "HashNetLoss"}
TERMS_OF_PAIRS = {"ADSQLoss", "DADHLoss", "DAPHLoss", "DFHLoss", "DSAHLoss", "DSDHLoss"}
TAKES_PAIRS = OF_PAIRS | TERMS_OF_PAIRS
SIZES = {
    "num_classes": 4,
    "code_length": 16,
    "label_widths": (8,),
    "fit_steps": 2,
    "features": torch.eye(4),
}
LABELS = {
    "class_ids": torch.arange(12) % 4,
    "multi_hot": torch.eye(4, dtype=torch.long)[[0, 1, 2] * 4],
}
LABELS["multi_hot"][:5, 3] = 1


def make_loss(name, **options):
    sizes = {k: v for k, v in SIZES.items() if k in inspect.signature(CLASSES[name]).parameters}
    torch.manual_seed(0)
    return CLASSES[name](**sizes, **options)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.fixture
def codes():
    return torch.randn(12, 16).tanh()


def test_a_distance_is_used_or_refused(name, codes):
    if name not in WITH_DISTANCE:
        with pytest.raises(TypeError, match=f"Expected no `distance`, .* {name} .* CosineSimil"):
            make_loss(name, distance=CosineSimilarity())
        return
    found = [
        make_loss(name, distance=distance)(codes, LABELS["class_ids"])
        for distance in (None, CosineSimilarity(), SNRDistance(), HammingDistance(binarize=False))
    ]
    assert len({loss.item() for loss in found}) == 4
    default = make_loss(name, distance=DotProductSimilarity(normalize_embeddings=False))
    assert_close(default(codes, LABELS["class_ids"]), found[0])


@pytest.mark.parametrize("distance", [HammingDistance(binarize=False), CosineSimilarity()])
def test_hashnet_draws_similar_codes_together(distance):
    codes, labels = torch.nn.Parameter(torch.randn(16, 32)), torch.arange(16) % 4
    optimizer, loss_func = torch.optim.Adam([codes], 0.05), losses.HashNetLoss(distance=distance)
    for _ in range(100):
        optimizer.zero_grad()
        loss_func(codes.tanh(), labels).backward()
        optimizer.step()
    bits, similar = HammingDistance()(codes.detach()), labels[:, None] == labels
    assert bits[similar].mean() + 8 < bits[~similar].mean()


def test_class_ids_are_integers(name, codes):
    for ids in (torch.rand(12), torch.full((12,), torch.nan), torch.zeros(12, dtype=torch.bool)):
        with pytest.raises(TypeError, match=r"`labels` with integer class ids, got torch\.\w+"):
            make_loss(name)(codes, ids)
        with pytest.raises(TypeError, match=r"`ref_labels` with integer class ids, got torch\.\w+"):
            make_loss(name)(codes, LABELS["class_ids"], ref_emb=codes.clone(), ref_labels=ids)


def test_class_weighted_reducer_weighs_class_ids(name, codes):
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0])
    weighted = make_loss(name, reducer=reducers.ClassWeightedReducer(weights))
    single = make_loss(name, reducer=reducers.DoNothingReducer())(codes, LABELS["class_ids"])
    expected = 0.0
    for sub_loss in single.values():
        places = sub_loss["indices"]
        anchors = places if sub_loss["reduction_type"] == "element" else places[0]
        expected = expected + (sub_loss["losses"] * weights[LABELS["class_ids"][anchors]]).mean()
    assert_close(weighted(codes, LABELS["class_ids"]), expected)
    for size in (12, 4):  # of as many samples as classes it went unnoticed
        with pytest.raises(
            ValueError, match=r"class ids, by which ClassWeightedReducer .* multi-h"
        ):
            weighted(codes[:size], LABELS["multi_hot"][:size])


def test_reducers_that_need_more_are_refused(name, codes):
    loss_func = make_loss(name, reducer=reducers.DivisorReducer())
    with pytest.raises(ValueError, match="`reducer` other than DivisorReducer"):
        loss_func(codes, LABELS["class_ids"])
    if name in OF_PAIRS:
        loss_func = make_loss(name, reducer=reducers.ClassWeightedReducer(torch.ones(4)))
        with pytest.raises(ValueError, match="ClassWeightedReducer weighs, got none"):
            loss_func(codes, indices_tuple=lmu.get_all_pairs_indices(LABELS["class_ids"]))


def test_multiple_reducers_are_those_of_pml(codes):
    given = {"center_loss": reducers.SumReducer()}
    loss_func = make_loss("CSQLoss", reducer=reducers.MultipleReducers(given))
    single = make_loss("CSQLoss", reducer=reducers.DoNothingReducer())
    found = single(codes, LABELS["class_ids"])
    expected = found["center_loss"]["losses"].sum() + found["quantization_loss"]["losses"].mean()
    assert_close(loss_func(codes, LABELS["class_ids"]), expected)


def test_who_takes_the_pairs_of_a_miner(name):
    assert make_loss(name).of_pairs == (name in TAKES_PAIRS)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TAKES_PAIRS])
@pytest.mark.parametrize("form", ["pairs", "triplets", "none"])
def test_a_miner_weighs_the_samples_of_a_loss_without_pairs(name, form, labels, codes):
    loss_func = make_loss(name, reducer=reducers.DoNothingReducer())
    a1, p, a2, n = AffinityGraphMiner(num_neighbors=1, num_dissimilar=2)(codes, labels)
    chosen = {"pairs": (a1, p, a2, n), "triplets": (a2, n, n), "none": (a1[:0],) * 3}[form]
    plain, mined = loss_func(codes, labels), loss_func(codes, labels, chosen)
    counts = [sum(place == i for part in chosen for place in part.tolist()) for i in range(12)]
    weights = torch.tensor([count / max(*counts, 1) for count in counts])
    weights = torch.ones(12) if form == "none" else weights
    assert_close(weights, lmu.convert_to_weights(chosen, torch.arange(12), torch.float32))
    for key, sub_loss in plain.items():
        assert_close(mined[key]["losses"], sub_loss["losses"] * weights)


@pytest.mark.parametrize("name", sorted(TAKES_PAIRS))
def test_a_miner_chooses_the_pairs_of_a_loss_of_pairs(name, labels, codes):
    loss_func = make_loss(name)
    chosen = AffinityGraphMiner(num_neighbors=1, num_dissimilar=2)(codes, labels)
    assert loss_func(codes, labels, chosen) != loss_func(codes, labels)


def test_without_weight_a_term_of_pairs_takes_none():
    assert losses.DADHLoss(4, 16).of_pairs
    assert not losses.DADHLoss(4, 16, likelihood_weight=0).of_pairs


def test_torch_func_goes_through(name, codes):
    labels, loss_func = LABELS["class_ids"], make_loss(name)
    expected = torch.stack([loss_func(c, labels) for c in (codes, -codes)])
    slope = torch.func.grad(lambda c: loss_func(c, labels))(codes)
    moved = codes.clone().requires_grad_()
    assert_close(slope, torch.autograd.grad(loss_func(moved, labels), moved)[0])
    if loss_func.of_pairs or isinstance(loss_func, losses.DiscreteLoss):
        return  # places of pairs and discrete variables are found anew for each
    if name in {"CSQLoss", "DCWHLoss", "GreedyHashLoss", "HyP2Loss", "OrthoHashLoss"}:
        found = torch.func.vmap(lambda c: loss_func(c, labels))(torch.stack([codes, -codes]))
        assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "with_bank"),
    [(name, False) for name in NAMES] + [(name, True) for name in DISCRETE],
)
def test_can_be_made_in_inference_mode(name, with_bank, labels, codes):
    def value():
        bank = {"code_bank": CodeBank(labels, 16, num_classes=4)} if with_bank else {}
        places = {"sample_indices": torch.arange(12)} if with_bank else {}
        return make_loss(name, **bank)(codes, labels, **places).item()

    with torch.inference_mode():
        found = value()
    assert found == value()


@pytest.mark.parametrize(
    ("sweeps", "error", "message"),
    [
        (10**18, ValueError, "`sweeps` of at most 10000, got 1000000000000000000"),
        (0, ValueError, "`sweeps` of at least 1, got 0"),
        (float("inf"), TypeError, "`sweeps` to be an integer, got inf"),
    ],
)
def test_sweeps_end(sweeps, error, message):
    for call in (
        lambda: dcc(torch.ones(1, 2), torch.zeros(2, 2), torch.ones(1, 2), sweeps),
        lambda: losses.ADSHLoss(4, 16, sweeps=sweeps),
        lambda: losses.DFHLoss(4, 16, sweeps=sweeps),
    ):
        with pytest.raises(error, match=message):
            call()


def test_pairs_that_are_none_are_named(name, labels, codes):
    """By the loss, before its formula meets them: some would take them for others."""
    loss_func = make_loss(name)
    for chosen in ((torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([2])), (labels, labels)):
        with pytest.raises(ValueError, match=r"^Expected `indices_tuple` to hold triplets, "):
            loss_func(codes, labels, chosen)
    for wrong in ([0], torch.tensor([0.0]), torch.tensor([True])):
        with pytest.raises(TypeError, match=r"^Expected `indices_tuple` to hold tensors of int64"):
            loss_func(codes, labels, (wrong,) * 3)
    for place in (-1, len(codes)):
        with pytest.raises(ValueError, match=f"^Expected `indices_tuple` .*got {place} to {place}"):
            loss_func(codes, labels, (torch.tensor([0]), torch.tensor([place]), torch.tensor([2])))


def test_labels_of_the_reference_are_asked_for_by_name(name, labels, codes):
    """A loss of pairs needs them; all others know them, since the samples are the same."""
    if name not in OF_PAIRS:
        assert make_loss(name)(codes, labels, ref_emb=codes.clone()).isfinite()
        return
    with pytest.raises(
        ValueError, match=r"Expected `ref_labels` or `indices_tuple` with `ref_emb`"
    ):
        make_loss(name)(codes, labels, ref_emb=codes.clone())
