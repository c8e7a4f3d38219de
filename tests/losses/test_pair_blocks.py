"""All pairs and triplets of a batch, in blocks and without places: the same as from lists."""

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity, SNRDistance
from pytorch_metric_learning.reducers import DoNothingReducer, MeanReducer, MultipleReducers
from torch.testing import assert_close
from waits import no_waits

from pml_hashing import CodeBank, losses
from pml_hashing.losses import _pair_blocks
from pml_hashing.pairs import to_pairs

MAKERS = {
    "dhn": losses.DHNLoss,
    "dhn published": lambda **options: losses.DHNLoss(similar_weight=1, **options),
    "dnnh": losses.DNNHLoss,
    "dpsh": losses.DPSHLoss,
    "dpsh weighted": lambda **options: losses.DPSHLoss(similar_weight=3.0, **options),
    "dtsh": losses.DTSHLoss,
    "hashnet": losses.HashNetLoss,
    "hashnet cosine": lambda **options: losses.HashNetLoss(distance=CosineSimilarity(), **options),
    "hashnet overlap": lambda **options: losses.HashNetLoss(label_overlap=True, **options),
    "hashnet snr": lambda **options: losses.HashNetLoss(distance=SNRDistance(), **options),
}
LABELS = {
    "class_ids": torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 3]),
    "multi_hot": torch.tensor(
        [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0]]
    ),
    "one class": torch.zeros(5, dtype=torch.long),
    "all different": torch.arange(5),
    "one sample": torch.tensor([2]),
}


@pytest.fixture(params=MAKERS)
def maker(request):
    return MAKERS[request.param]


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


def value_and_slopes(loss_func, codes, labels, pairs=None, ref_codes=None, ref_labels=None):
    leaves = [c.clone().requires_grad_() for c in (codes, ref_codes) if c is not None]
    ref = {"ref_emb": leaves[1], "ref_labels": ref_labels} if ref_codes is not None else {}
    loss = loss_func(leaves[0], labels, pairs, **ref)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize(("elements", "dtype"), [(10, torch.float64), (2**17, torch.float32)])
@pytest.mark.parametrize("with_ref", [False, True])
def test_same_as_the_list_of_pairs(maker, labels, with_ref, elements, dtype, monkeypatch, device):
    monkeypatch.setattr(_pair_blocks, "ELEMENTS_OF_A_BLOCK", elements)
    monkeypatch.setattr(_pair_blocks, "ON_A_GPU", 1)
    codes, ref = torch.randn(len(labels), 5, dtype=dtype, device=device), ()
    if with_ref:
        ref = (torch.randn(6, 5, dtype=dtype, device=device), LABELS["class_ids"][:6])
        if labels.ndim == 2:
            ref = (ref[0], LABELS["multi_hot"][-6:])
    pairs = to_pairs(None, labels, ref[1] if with_ref else labels)
    pairs = tuple(places.to(device) for places in pairs)
    blocks = value_and_slopes(maker(), codes, labels, None, *ref)
    assert_close(blocks, value_and_slopes(maker(), codes, labels, pairs, *ref))


@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
def test_gradients_and_their_gradients(maker, kind, monkeypatch):
    monkeypatch.setattr(_pair_blocks, "ELEMENTS_OF_A_BLOCK", 20)
    labels, loss_func = LABELS[kind][:6], maker()  # blocks of three rows
    codes, ref = (torch.randn(6, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    pairs = to_pairs(None, labels, labels)
    for call, inputs in (
        (lambda u: loss_func(u, labels), (codes,)),
        (lambda u: loss_func(u, labels, pairs), (codes,)),
        (lambda u, v: loss_func(u, labels, ref_emb=v, ref_labels=labels.clone()), (codes, ref)),
    ):
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("num_networks", [1, 2])
@pytest.mark.parametrize("weight", [1, "balanced"])
def test_gradients_of_a_term(weight, num_networks, monkeypatch):
    monkeypatch.setattr(_pair_blocks, "ELEMENTS_OF_A_BLOCK", 20)
    loss_func = losses.DFHLoss(3, 4, similar_weight=weight, quantization_weight=0.0)
    codes = [
        torch.randn(8, 4, dtype=torch.float64, requires_grad=True) for _ in range(num_networks)
    ]
    ref = {"ref_emb": codes[-1]} if num_networks == 2 else {}
    assert torch.autograd.gradcheck(
        lambda *_: loss_func(codes[0], LABELS["multi_hot"], **ref), codes
    )


def lengths(loss_func, labels):
    dict_of_losses = loss_func(torch.randn(9, 4), labels)
    return [len(sub_loss["losses"]) for sub_loss in dict_of_losses.values()]


def test_a_reducer_that_asks_for_pairs_gets_pairs():
    labels = LABELS["class_ids"]
    a1, _, a2, _ = to_pairs(None, labels, labels)
    assert lengths(losses.HashNetLoss(reducer=DoNothingReducer()), labels) == [len(a1), len(a2)]
    loss_func, taken = losses.HashNetLoss(), losses.HashNetLoss.takes_means
    assert taken(loss_func, "pos_loss", "neg_loss")
    loss_func.reducer = MultipleReducers({"neg_loss": DoNothingReducer()}, MeanReducer())
    assert taken(loss_func, "pos_loss")
    assert not taken(loss_func, "pos_loss", "neg_loss")

    class Doubled(MeanReducer):
        """A reducer of the user's, which may ask for more than its parent does."""

    assert not taken(losses.HashNetLoss(reducer=Doubled()), "pos_loss")


def most_kept(loss_func, labels, pairs=None):
    """The size of the largest tensor that is kept for the way back."""
    codes, kept = torch.randn(len(labels), 8, requires_grad=True), []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_func(codes, labels, pairs)
    return max(kept)


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in {"hashnet cosine", "hashnet snr"}])
def test_nothing_of_the_size_of_all_pairs_is_kept(name, monkeypatch):
    """Pairs: no more than the codes. Triplets: their sums, one number for each pair."""
    monkeypatch.setattr(_pair_blocks, "ELEMENTS_OF_A_BLOCK", 2**12)
    most = most_kept(MAKERS[name](), torch.arange(256) % 5)
    assert most <= (256 * 256 if name in {"dtsh", "dnnh"} else 256 * 9)


@pytest.mark.parametrize("name", ["dtsh", "dnnh"])
def test_nothing_of_the_size_of_all_triplets_is_kept_of_listed_pairs(name):
    labels = torch.arange(64) % 4
    pairs = to_pairs(None, labels, labels)
    assert most_kept(MAKERS[name](), labels, pairs) <= 64 * 64


@pytest.mark.parametrize("kind", ["class_ids", "multi_hot"])
@pytest.mark.parametrize("name", [*MAKERS, "dfh"])
def test_no_step_makes_a_gpu_wait(name, kind, accelerator, monkeypatch):
    labels, device = LABELS[kind].to(accelerator), accelerator
    maker = {**MAKERS, "dfh": lambda: losses.DFHLoss(4, 8)}[name]
    if name == "dfh" and kind == "multi_hot":
        labels = torch.nn.functional.pad(labels, (0, 1))
    loss_func = maker().to(device)
    codes = [torch.randn(len(labels), 8, device=device, requires_grad=True) for _ in range(2)]
    loss_func(codes[0], labels).backward()  # what is built once may wait
    with no_waits(device, monkeypatch):
        for u in codes:
            loss_func(u, labels).backward()


def test_weights_are_those_of_the_data_set():
    """A batch without a similar pair weighs its pairs as all others do."""
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    bank = CodeBank(labels, 8)
    loss_func = losses.DSDHLoss(3, 8, code_bank=bank, regression_weight=0, quantization_weight=0)
    codes, rows = torch.zeros(3, 8), torch.tensor([0, 2, 4])
    loss = loss_func(codes, sample_indices=rows)
    # 6 of 30 pairs are similar: a dissimilar one weighs 30 / (2 * 24).
    assert loss.item() == pytest.approx(0.6931472 * 30 / 48)
    published = losses.DSDHLoss(
        3,
        8,
        code_bank=CodeBank(labels, 8),
        regression_weight=0,
        quantization_weight=0,
        similar_weight=1,
    )
    assert published(codes, sample_indices=rows).item() == pytest.approx(0.6931472)
