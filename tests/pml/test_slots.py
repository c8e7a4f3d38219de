"""Our distance, miner and regularizers in every loss, miner, sampler and matcher of PML."""

import inspect

import numpy as np
import pytest
import torch
from compatibility import LABELS, make_codes
from pytorch_metric_learning import losses, miners, samplers
from pytorch_metric_learning.distances import BatchedDistance, DotProductSimilarity
from pytorch_metric_learning.losses.mixins import WeightRegularizerMixin
from pytorch_metric_learning.testers import BaseTester
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN, InferenceModel, MatchFinder
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pml_hashing.datasets import ImageArrays
from pml_hashing.distances import HammingDistance
from pml_hashing.miners import AffinityGraphMiner
from pml_hashing.regularizers import (
    BitBalanceRegularizer,
    BitDecorrelationRegularizer,
    QuantizationRegularizer,
)
from pml_hashing.search import HammingKNN

REGULARIZERS = [BitBalanceRegularizer, BitDecorrelationRegularizer, QuantizationRegularizer]
OTHER_INPUTS = {"ManifoldLoss", "VICRegLoss"}
"""No loss of codes and labels."""
BASES = {"BaseMetricLossFunction", "GenericPairLoss", "WeightRegularizerMixin"}
BROKEN = {"HistogramLoss", "LargeMarginSoftmaxLoss", "SphereFaceLoss"}
"""Call PyTorch and NumPy in ways that these warn of."""
SIZES = {
    "num_classes": 4,
    "embedding_size": 16,
    "descriptors_dim": 16,
}
LOSSES = {
    name: kind
    for name, kind in vars(losses).items()
    if inspect.isclass(kind)
    and issubclass(kind, losses.BaseMetricLossFunction)
    and name not in BASES | BROKEN | OTHER_INPUTS
}
NO_PAIRS = {"InstanceLoss", "PNPLoss", "P2SGradLoss", "RankedListLoss", "SmoothAPLoss"}
"""Take no `indices_tuple`."""
ANY_DISTANCE = {
    "ContrastiveLoss",
    "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NPairsLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SupConLoss",
    "TripletMarginLoss",
}
LEARNED = sorted(n for n, kind in LOSSES.items() if issubclass(kind, WeightRegularizerMixin))
MINERS = {
    name: kind
    for name, kind in vars(miners).items()
    if inspect.isclass(kind)
    and issubclass(kind, miners.BaseMiner)
    and name not in {"BaseMiner", "EmbeddingsAlreadyPackagedAsTriplets"}
}
OF_LP_DISTANCE = {"AngularMiner", "DistanceWeightedMiner"}


def make(kind, **options):
    """Return a loss of PML, with the sizes that it asks for, or that its bases do."""
    asked = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
    torch.manual_seed(0)
    sizes = {k: v for k, v in SIZES.items() if k in asked}
    if kind.__name__ == "RankedListLoss":
        sizes = {"margin": 0.4, "Tn": 1}
    if kind.__name__ == "P2SGradLoss":
        sizes = {"descriptors_dim": 16, "num_classes": 4}
    return kind(**sizes, **options)


def signs(codes):
    return torch.where(codes.detach() >= 0, 1.0, -1.0)


def test_the_lists_are_those_of_the_installed_pml():
    assert set(LOSSES) >= ANY_DISTANCE | NO_PAIRS | set(LEARNED)
    assert len(LEARNED) >= 7
    assert len(MINERS) >= 8


@pytest.mark.parametrize("name", sorted(ANY_DISTANCE))
def test_distance_in_a_loss(name):
    codes = make_codes()
    loss = make(LOSSES[name], distance=HammingDistance(binarize=False))(codes, LABELS)
    loss.backward()
    assert loss.isfinite()
    assert codes.grad.isfinite().all()
    if name in {"NTXentLoss", "SupConLoss", "NCALoss", "NormalizedSoftmaxLoss"}:
        # Softmax losses: exp(-d) = exp(u'v / 2) times a constant, which cancels.
        plain = DotProductSimilarity(normalize_embeddings=False)
        both = [
            make(LOSSES[name], distance=distance, **scale)(codes, LABELS)
            for distance, scale in (
                (HammingDistance(binarize=False), scaled(name, 1.0)),
                (plain, scaled(name, 0.5)),
            )
        ]
        assert_close(both[0], both[1])


def scaled(name, scale):
    """Return the option by which a softmax loss multiplies its similarities."""
    if name in {"NTXentLoss", "SupConLoss"}:
        return {"temperature": 1 / scale}
    return {"softmax_scale": scale} if name == "NCALoss" else {"temperature": 1 / scale}


@pytest.mark.parametrize("binarize", [False, True])
@pytest.mark.parametrize("name", sorted(set(MINERS) - OF_LP_DISTANCE))
def test_distance_in_a_miner(name, binarize):
    """With ranks alone or with margins: pairs within the batch, of the right kind."""
    miner, codes = MINERS[name](distance=HammingDistance(binarize=binarize)), make_codes()
    for given in ((codes, LABELS), (codes, LABELS, make_codes(1), LABELS.flip(0))):
        found = miner(*given)
        ref_labels = given[-1]
        similar, dissimilar = (found[:2], found[2:]) if len(found) == 4 else (found[:2], found[::2])
        assert (LABELS[similar[0]] == ref_labels[similar[1]]).all()
        assert (LABELS[dissimilar[0]] != ref_labels[dissimilar[1]]).all()


def test_power_margin_and_batches():
    codes, distance = make_codes().detach(), HammingDistance(power=2, collect_stats=True)
    mat = HammingDistance()(codes)
    assert_close(distance(codes), mat**2)
    assert distance.final_avg_query_norm == pytest.approx(codes.norm(dim=1).mean().item())
    assert distance.margin(5, 3) == 2
    assert distance.smallest_dist(mat) == mat.min()
    assert distance.largest_dist(mat) == mat.max()
    blocks = []
    BatchedDistance(HammingDistance(), lambda block, s, e: blocks.append(block), 5)(codes)
    assert_close(torch.cat(blocks), mat)


@pytest.mark.parametrize("codes", [torch.tensor([[True, False]]), torch.tensor([[1, -1]])])
def test_statistics_of_codes_that_are_no_floats(codes):
    distance = HammingDistance(collect_stats=True)
    assert distance(codes) == 0
    assert distance.initial_avg_query_norm == pytest.approx(codes.float().norm().item())


@pytest.mark.parametrize("name", sorted(set(LOSSES) - NO_PAIRS))
def test_pairs_of_our_miner_in_a_loss(name):
    codes = make_codes()
    chosen = AffinityGraphMiner(num_neighbors=1, num_dissimilar=2)(codes, LABELS)
    loss = make(LOSSES[name])(codes, LABELS, chosen)
    loss.backward()
    assert loss.isfinite()
    assert codes.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_regularizers_of_codes_in_a_loss(name):
    codes = make_codes()
    torch.manual_seed(1)  # some losses draw their triplets
    loss = make(LOSSES[name])(codes, LABELS)
    for kind in REGULARIZERS:
        options = {"embedding_regularizer": kind(), "embedding_reg_weight": 0.5}
        regularized = make(LOSSES[name], **options)(codes, LABELS)
        if name not in {"NPairsLoss", "TripletMarginLoss"}:
            assert_close(regularized, loss + 0.5 * kind()(codes))
        assert regularized.isfinite()


@pytest.mark.parametrize("kind", REGULARIZERS)
@pytest.mark.parametrize("name", LEARNED)
def test_regularizers_of_weights_in_a_loss(name, kind):
    loss_func = make(LOSSES[name], weight_regularizer=kind(), weight_reg_weight=0.5)
    plain = make(LOSSES[name])
    difference = loss_func(make_codes(), LABELS) - plain(make_codes(), LABELS)
    (weights,) = [p for p in plain.parameters() if p.ndim == 2]
    rows = weights if weights.shape[1] == 16 else weights.T
    assert_close(difference, 0.5 * kind()(rows), rtol=1e-3, atol=1e-4)


def make_data():
    images, labels = torch.randn(48, 6), torch.arange(48) % 4
    images[:, :4] += 4 * nn.functional.one_hot(labels, 4)
    return TensorDataset(images, labels)


def make_network():
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh())


def test_samplers():
    images = ImageArrays(np.zeros((48, 2, 2, 3), np.uint8), np.arange(48) % 4)
    drawn = list(samplers.MPerClassSampler(images.labels, 3, 12, 24))
    batches = [np.bincount(np.asarray(images.labels)[drawn[i : i + 12]]) for i in (0, 12)]
    assert [batch.tolist() for batch in batches] == [[3] * 4] * 2
    triplets = torch.tensor(list(samplers.FixedSetOfTriplets(images.labels, 5))).view(-1, 3)
    a, p, n = (np.asarray(images.labels)[places] for places in triplets.T)
    assert (a == p).all()
    assert (a != n).all()
    data, network = make_data(), make_network()
    sampler = samplers.TuplesToWeightsSampler(
        network,
        AffinityGraphMiner(num_neighbors=1, num_dissimilar=1),
        data,
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
        normalize_embeddings=False,
    )
    drawn = list(sampler)
    with torch.no_grad():
        chosen = AffinityGraphMiner(num_neighbors=1, num_dissimilar=1)(
            network(data.tensors[0]), data.tensors[1]
        )
    counts = torch.cat(chosen).bincount(minlength=48)
    assert isinstance(sampler.tester, BaseTester)
    assert_close(sampler.weights, counts / counts.max())
    assert len(drawn) == 48


def test_inference():
    data, network = make_data(), make_network()
    images = data.tensors[0]
    with torch.no_grad():
        distances = (16 - signs(network(images)) @ signs(network(images)).T) / 2
    model = InferenceModel(
        network,
        match_finder=MatchFinder(HammingDistance(), threshold=2),
        normalize_embeddings=False,
        knn_func=HammingKNN(),
        data_device=torch.device("cpu"),
    )
    with pytest.raises(ValueError, match="got an empty index"):
        model.get_nearest_neighbors(images[:2], k=1)
    for inputs in (images, data, list(images)):
        model.train_knn(inputs)
        found, places = model.get_nearest_neighbors(images[:5], k=48)
        assert_close(found.float(), distances[:5].sort(dim=1).values)
        assert_close(distances[:5].gather(1, places), found.float())
    model.add_to_knn(list(images[:3]))
    assert model.get_nearest_neighbors(images[:5], k=51)[0].shape == (5, 51)
    assert (model.get_matches(images[:5], images) == (distances[:5] <= 2).numpy()).all()
    assert (model.get_matches(images[:5], threshold=7) == (distances[:5, :5] <= 7).numpy()).all()
    pairs = model.get_matches(images[:5], images, return_tuples=True)
    assert torch.tensor(pairs).tolist() == (distances[:5] <= 2).nonzero().tolist()
    assert model.is_match(images[:5], images[5:10]).tolist() == [
        distances[i, i + 5] <= 2 for i in range(5)
    ]


@pytest.mark.parametrize("options", [{}, {"avg_of_avgs": True}, {"return_per_class": True}])
@pytest.mark.parametrize("knn_func", [HammingKNN, lambda: CustomKNN(HammingDistance())])
def test_neighbours_of_the_accuracy_calculator(knn_func, options):
    """By bits alone, no two distances of a query alike, so that the order is one."""
    reference = torch.where(torch.arange(16) < torch.arange(17)[:, None], 1.0, -1.0)
    labels, query = torch.arange(17) % 3, torch.ones(3, 16)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision", "mean_reciprocal_rank"),
        k=None,
        device=torch.device("cpu"),
        knn_func=knn_func(),
        **options,
    )
    scores = calculator.get_accuracy(query, torch.arange(3), reference, labels)
    order = labels.flip(0)  # nearest first: the last has all bits of the query
    ranks = [(order == c).nonzero().flatten() + 1 for c in range(3)]
    precision = [sum((i + 1) / rank.item() for i, rank in enumerate(r)) / len(r) for r in ranks]
    expected = {
        "precision_at_1": [float(r[0] == 1) for r in ranks],
        "mean_average_precision": precision,
        "mean_reciprocal_rank": [1 / r[0].item() for r in ranks],
    }
    for name, values in expected.items():
        wanted = values if "return_per_class" in options else sum(values) / 3
        assert scores[name] == pytest.approx(wanted)
