"""BaseHashingLoss and DiscreteLoss, by small losses that stand for all."""

import copy

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import BaseMetricLossFunction, MultipleLosses
from pytorch_metric_learning.reducers import DoNothingReducer, SumReducer
from pytorch_metric_learning.regularizers import LpRegularizer
from torch.testing import assert_close

from pml_hashing import CodeBank, DSAHLoss
from pml_hashing.codes import binarize
from pml_hashing.losses import BaseHashingLoss, CodeUpdate, DiscreteLoss
from pml_hashing.losses.terms import InnerProduct, Quadratic, Quantization, Term


class Recorder(BaseHashingLoss):
    """The sum of every code, and the arguments that came."""

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        self.came = {"labels": labels, "ref_emb": ref_emb, "ref_labels": ref_labels}
        self.autocast = torch.is_autocast_enabled(embeddings.device.type)
        return {"loss": self.element_loss(embeddings.float().sum(dim=1))}


class PairSum(BaseHashingLoss):
    """The inner products of given pairs, as similar ones."""

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        a, p = indices_tuple[:2]
        losses = (embeddings[a] * ref_emb[p]).sum(dim=1)
        return {"loss": self.pair_loss(losses, (a, p), "pos")}


class Sign(Term):
    """The squared distance to binary codes whose best values are the signs of the codes."""

    def losses(self, batch, variables):
        return (batch.codes[0] - batch.binary_codes).square().sum(1)

    def first_codes(self, bank):
        return -torch.ones(len(bank.group_labels), bank.code_length, device=bank.groups.device)

    def quadratic(self, bank, variables):
        return Quadratic(own=1.0)


def SignLoss(num_classes, code_length, **kwargs):  # noqa: N802 (as a class is called)
    return DiscreteLoss(num_classes, code_length, {"sign": (1.0, Sign())}, **kwargs)


CODES = torch.tensor([[0.5, -1.0], [0.25, 0.0], [-1.0, -1.0]])
LABELS = torch.tensor([0, 1, 1])


def make_discrete(labels=LABELS, **options):
    bank = CodeBank(labels, 2, num_classes=2, **options)
    return SignLoss(2, 2, code_bank=bank)


@pytest.mark.parametrize("options", [{}, {"embedding_regularizer": LpRegularizer()}])
@pytest.mark.parametrize("with_ref", [False, True])
def test_agrees_with_pml_on_class_ids(with_ref, options):
    references = {"ref_emb": CODES + 1, "ref_labels": LABELS.clone()} if with_ref else {}
    loss_func = Recorder(reducer=SumReducer(), **options)
    expected = BaseMetricLossFunction.forward(loss_func, CODES, LABELS, **references)
    expected_came = loss_func.came
    assert_close(loss_func(CODES, LABELS, **references), expected)
    assert_close(loss_func.came, expected_came)
    assert isinstance(loss_func.distance, LpDistance)


def test_multi_hot_labels_are_taken():
    multi_hot = torch.ones(3, 5)
    assert_close(Recorder()(CODES, multi_hot), CODES.sum() / 3)
    with pytest.raises(ValueError, match="1D"):
        BaseMetricLossFunction.forward(Recorder(), CODES, multi_hot)


def test_a_batch_paired_with_itself_is_known_by_its_labels(device):
    loss_func, codes = Recorder(), CODES.to(device)
    loss_func(codes, LABELS)
    assert loss_func.came["ref_emb"] is codes
    assert loss_func.came["ref_labels"] is loss_func.came["labels"]
    loss_func(codes, LABELS, ref_emb=codes + 1, ref_labels=LABELS)
    assert loss_func.came["ref_labels"] is loss_func.came["labels"]
    loss_func(codes, LABELS, ref_emb=codes + 1, ref_labels=LABELS.clone())
    assert loss_func.came["ref_labels"] is not loss_func.came["labels"]
    assert {x.device.type for x in loss_func.came.values()} == {device.type}
    loss_func(codes)
    assert loss_func.came["labels"] is loss_func.came["ref_labels"] is None


def test_pairs_of_a_kind():
    loss_func = PairSum()
    none = torch.tensor([], dtype=torch.long)
    pairs = torch.tensor([0, 1]), torch.tensor([1, 2]), none, none
    assert_close(loss_func(CODES, indices_tuple=pairs), torch.tensor((0.125 - 0.25) / 2))
    codes = CODES.clone().requires_grad_()
    loss = loss_func(codes, indices_tuple=(none,) * 4)
    loss.backward()
    assert loss == 0
    assert (codes.grad == 0).all()


def test_sub_losses_and_regularization_are_apart():
    loss_func = Recorder(reducer=DoNothingReducer(), embedding_regularizer=LpRegularizer())
    losses = loss_func(CODES, LABELS)
    assert set(losses) == set(loss_func.sub_loss_names())
    assert_close(losses["loss"]["losses"], CODES.sum(dim=1))
    assert_close(losses["loss"]["indices"], torch.arange(3))
    assert losses["loss"]["reduction_type"] == "element"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reduced_in_single(dtype, device):
    codes = torch.full((3, 300), 100.0, dtype=dtype, device=device, requires_grad=True)
    loss = Recorder()(codes, LABELS)
    loss.backward()
    assert (loss.dtype, loss.item(), codes.grad.dtype) == (torch.float32, 30000.0, dtype)


def test_sub_losses_are_recorded_if_asked():
    none = torch.tensor([], dtype=torch.long)
    loss_func, pairs = (
        PairSum(collect_stats=True),
        (torch.tensor([0]), torch.tensor([1]), none, none),
    )
    assert "loss" in loss_func._record_these_stats
    for indices_tuple, expected in ((pairs, 0.125), ((none,) * 4, 0.0), (pairs, 0.125)):
        loss_func(CODES.clone().requires_grad_(), indices_tuple=indices_tuple)
        assert loss_func.loss == expected
        assert isinstance(loss_func.loss, float)
    assert not hasattr(PairSum(), "loss")


def test_autocast_does_not_reach_the_terms(device):
    loss_func = Recorder()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss_func(CODES.to(device), LABELS)
    assert loss_func.autocast is False


def test_is_one_of_several_losses():
    both = MultipleLosses([Recorder(), SignLoss(2, 2)], weights=[1, 0.5])
    squares = (0.25 + 0.5625 + 1) / 3
    assert_close(both(CODES, LABELS), CODES.sum() / 3 + 0.5 * squares)


@pytest.mark.parametrize(
    ("codes_shape", "labels_shape", "message"),
    [
        ((4, 3, 2), (4,), r"`embeddings` of shape \(batch_size, .*\), not empty, got \(4, 3, 2\)"),
        ((0, 3), (0,), r"`embeddings` of shape .* got \(0, 3\)"),
        ((4, 3), (5,), r"`labels` of shape \(4,\) .* got \(5,\)"),
        ((4, 3), (4, 2, 2), r"`labels` of shape \(4,\) .* got \(4, 2, 2\)"),
    ],
)
def test_wrong_shapes_are_named(codes_shape, labels_shape, message):
    codes, labels = torch.zeros(codes_shape), torch.zeros(labels_shape).long()
    with pytest.raises(ValueError, match=message):
        Recorder()(codes, labels)
    message = message.replace("`labels`", "`ref_labels`").replace("`embeddings`", "`ref_emb`")
    message = message.replace("batch_size, .*", "batch_size, 3")
    with pytest.raises(ValueError, match=message):
        Recorder()(torch.zeros(4, 3), torch.zeros(4).long(), ref_emb=codes, ref_labels=labels)


def test_wrong_types_and_lengths_are_named():
    with pytest.raises(TypeError, match=r"`embeddings` to be a torch\.Tensor, got list"):
        Recorder()([[1.0]], LABELS)
    with pytest.raises(TypeError, match=r"`labels` to be a torch\.Tensor, got list"):
        Recorder()(CODES, [0, 1, 1])
    with pytest.raises(ValueError, match=r"`ref_emb` of shape \(batch_size, 2\), .* got \(3, 4\)"):
        Recorder()(CODES, LABELS, ref_emb=torch.zeros(3, 4), ref_labels=LABELS)


def test_bases_compute_nothing():
    with pytest.raises(NotImplementedError):
        BaseHashingLoss()(CODES, LABELS)
    with pytest.raises(NotImplementedError):
        DiscreteLoss(2, 2, {"nothing": (1.0, Term())})(CODES, LABELS)


def test_mini_batch_mode_solves_for_the_batch():
    loss_func = SignLoss(2, 2)
    assert loss_func.code_bank is None
    assert_close(loss_func(CODES, LABELS), torch.tensor((0.25 + 0.5625 + 1) / 3))  # 0 is a tie
    assert_close(loss_func(CODES[:1], LABELS[:1]), torch.tensor(0.25))


def test_data_set_mode_starts_once_and_remembers(device):
    loss_func = make_discrete(LABELS.to(device))
    bank, rows = loss_func.code_bank, torch.tensor([2, 0])
    codes = torch.tensor([[-1.0, 0.0], [2.0, -2.0]], device=device)
    assert not bank.started
    assert_close(loss_func(codes, sample_indices=rows).item(), (0 + 1 + 9 + 1) / 2)  # all -1
    assert bank.started
    assert_close(bank.query_codes.cpu(), torch.tensor([[2.0, -2.0], [0, 0], [-1, 0]]))
    before, after = loss_func.update_codes()
    assert before == pytest.approx((9 + 1 + 1 + 1 + 0 + 1) / 3)
    assert after == pytest.approx((1 + 1 + 1 + 1 + 0 + 1) / 3)
    # A bit whose code is 0 keeps its value.
    assert bank.binary_codes.tolist() == [[1, -1], [-1, -1], [-1, -1]]
    assert_close(loss_func(codes, sample_indices=rows).item(), (0 + 1 + 1 + 1) / 2)


def test_a_discrete_step_may_come_first():
    loss_func = make_discrete()
    assert loss_func.update_codes() == CodeUpdate(before=2.0, after=2.0)
    assert loss_func.code_bank.started


def test_objective_is_recorded():
    loss_func = make_discrete()
    assert "objective_value" in loss_func._record_these
    loss_func(torch.zeros(2, 2), sample_indices=torch.tensor([0, 1]))
    assert loss_func.objective_value == 2.0  # known from the first batch on
    loss_func.objective_value = 3.0
    restored = make_discrete()
    restored.load_state_dict(loss_func.state_dict())
    assert restored.objective_value == 3.0
    loss_func.update_codes()
    assert loss_func.objective_value == 2.0


def test_the_bank_is_no_part_of_the_loss():
    loss_func = make_discrete()
    assert not any(isinstance(module, CodeBank) for module in loss_func.modules())
    assert set(loss_func.state_dict()) == {"_extra_state", "class_codes"}
    copied = copy.deepcopy(loss_func)
    copied.update_codes()
    assert copied.code_bank.started
    assert not loss_func.code_bank.started


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
def test_sample_indices_of_any_integer_type(kind):
    loss_func = make_discrete()
    loss_func(CODES, sample_indices=torch.tensor([1, 0, 2], dtype=kind))
    assert_close(loss_func.code_bank.query_codes, CODES[[1, 0, 2]])


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        (None, ValueError, r"`sample_indices` of shape \(3,\) with the places .*, got None"),
        ([0, 1, 2], TypeError, r"`sample_indices` to be a torch\.Tensor, got list"),
        (torch.arange(2), ValueError, r"`sample_indices` of shape \(3,\) .* got \(2,\)"),
        (torch.zeros(3, 1), ValueError, r"`sample_indices` of shape \(3,\) .* got \(3, 1\)"),
        (torch.arange(3.0), TypeError, r"integer `sample_indices`, got torch\.float32"),
        (torch.ones(3).bool(), TypeError, r"integer `sample_indices`, got torch\.bool"),
        (torch.tensor([0, 3, 1]), ValueError, "`sample_indices` from 0 to 2, got 0 to 3"),
        (torch.tensor([0, -1, 1]), ValueError, "`sample_indices` from 0 to 2, got -1 to 1"),
    ],
)
def test_wrong_sample_indices_are_named(indices, error, message):
    loss_func = make_discrete()
    with pytest.raises(error, match=message):
        loss_func(CODES, sample_indices=indices)
    assert not loss_func.code_bank.started


def test_what_belongs_to_one_mode_is_refused_in_the_other():
    with pytest.raises(ValueError, match="no `sample_indices` without a code bank"):
        SignLoss(2, 2)(CODES, LABELS, sample_indices=torch.arange(3))
    with pytest.raises(ValueError, match="Expected `labels`, got None"):
        SignLoss(2, 2)(CODES)
    with pytest.raises(ValueError, match="`code_bank`, got `code_bank=None`"):
        SignLoss(2, 2).update_codes()


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([0, 2, 1]), ValueError, "`labels` with class ids from 0 to 1, got 0 to 2"),
        (torch.tensor([0.0, 1, 1]), TypeError, r"integer class ids, got torch\.float32"),
        (torch.ones(3, 3), ValueError, r"`labels` of shape \(3, 2\) .* got \(3, 3\)"),
        (torch.full((3, 2), 0.5), ValueError, "multi-hot `labels` of zeros and ones"),
    ],
)
def test_labels_out_of_range_are_named(labels, error, message):
    with pytest.raises(error, match=message):
        SignLoss(2, 2)(CODES, labels)


def test_number_of_networks_is_that_of_the_bank():
    rows = {"sample_indices": torch.arange(3)}
    with pytest.raises(ValueError, match=r"codes of 1 networks .*, got 2"):
        make_discrete()(CODES, ref_emb=CODES.clone(), **rows)
    with pytest.raises(ValueError, match=r"codes of 2 networks .*, got 1"):
        make_discrete(num_networks=2)(CODES, **rows)


def test_code_length_is_that_of_the_loss():
    with pytest.raises(ValueError, match=r"`embeddings` of shape \(3, 2\), .* got \(3, 5\)"):
        SignLoss(2, 2)(torch.zeros(3, 5), LABELS)
    with pytest.raises(ValueError, match=r"`ref_emb` of shape \(3, 2\), .*, got \(1, 2\)"):
        SignLoss(2, 2)(CODES, LABELS, ref_emb=CODES[:1])


def test_bank_is_of_the_classes_bits_and_device_of_the_loss():
    with pytest.raises(ValueError, match="of 3 classes and 2 bits, got one of 2 classes and 2"):
        SignLoss(3, 2, code_bank=CodeBank(LABELS, 2))
    with pytest.raises(ValueError, match="of 2 classes and 4 bits, got one of 2 classes and 2"):
        SignLoss(2, 4, code_bank=CodeBank(LABELS, 2))
    codes = torch.zeros(3, 2, device="meta")
    with pytest.raises(ValueError, match=r"`code_bank` on meta, .* got one on cpu"):
        make_discrete().compute_loss(codes, None, None, codes, None, torch.arange(3))


@pytest.mark.parametrize(("num_classes", "code_length"), [(1, 8), (2, 0)])
def test_sizes_are_checked(num_classes, code_length):
    with pytest.raises(ValueError, match=r"Expected `(num_classes|code_length)` of at least"):
        SignLoss(num_classes, code_length)


@pytest.mark.parametrize("multi_hot", [False, True])
def test_labels_in_another_order_than_the_bank_are_refused(multi_hot):
    labels = torch.eye(3, dtype=torch.int64) if multi_hot else torch.arange(3)
    loss_func = DSAHLoss(3, 8, code_bank=CodeBank(labels, 8))
    codes, rows = torch.zeros(3, 8), torch.tensor([2, 0, 1])
    loss_func(codes, labels[rows], sample_indices=rows)
    with pytest.raises(ValueError, match="as the code bank has them, got others for 3 of 3"):
        loss_func(codes, labels, sample_indices=rows)


@pytest.mark.parametrize("enabled", [False, True])
def test_evaluation_starts_no_bank(enabled):
    loss_func = make_discrete().eval()
    with torch.set_grad_enabled(enabled), pytest.raises(RuntimeError, match="training of this"):
        loss_func(CODES, sample_indices=torch.arange(3))
    assert not loss_func.code_bank.started
    loss_func.update_codes()
    assert loss_func(CODES, sample_indices=torch.arange(3)).isfinite()


def test_evaluation_starts_no_term_in_a_bank_of_another_loss():
    bank = make_discrete().code_bank
    SignLoss(2, 2, code_bank=bank)(CODES, sample_indices=torch.arange(3))
    other = DiscreteLoss(2, 2, {"inner_product": (1.0, InnerProduct())}, code_bank=bank)
    with pytest.raises(RuntimeError, match="training of this loss has started, got another"):
        other.eval()(CODES, sample_indices=torch.arange(3))


def test_a_term_of_another_kind_under_the_same_name_starts_anew():
    bank, rows = CodeBank(LABELS, 2), torch.arange(3)
    values = {}
    for soft in (True, False, True):
        terms = {"inner_product": (1.0, InnerProduct(soft))}
        loss = DiscreteLoss(2, 2, terms, code_bank=bank)(CODES, sample_indices=rows).item()
        assert values.setdefault(soft, loss) == pytest.approx(loss)
    assert values[True] != pytest.approx(values[False])


def test_a_term_without_weight_costs_nothing_and_is_listed():
    terms = {"sign": (1.0, Sign()), "nothing": (0.0, Term())}
    loss_func = DiscreteLoss(2, 2, terms, code_bank=CodeBank(LABELS, 2))
    assert loss_func.sub_loss_names() == ["sign_loss", "nothing_loss"]
    loss_func(CODES, sample_indices=torch.arange(3))
    loss_func.update_codes()
    assert loss_func.code_bank.keeps("sign", "Sign()")
    assert not loss_func.code_bank.keeps("nothing", "Term()")


class Teacher(Term):
    """The squared distance of the binary codes to given codes of all samples."""

    def __init__(self, codes):
        super().__init__()
        self.register_buffer("codes", codes)

    def losses(self, batch, variables):
        return (batch.binary_codes - self.codes[batch.rows]).square().sum(dim=1)

    def quadratic(self, bank, variables):
        return Quadratic(own_targets=self.codes)


def test_a_term_may_pull_at_every_sample():
    codes = torch.randn(40, 8)
    terms = {"teacher": (1.0, Teacher(codes)), "quantization": (0.01, Quantization())}
    loss_func = DiscreteLoss(4, 8, terms, code_bank=CodeBank(torch.arange(40) % 4, 8))
    update = loss_func.update_codes()
    assert update.after < update.before
    assert torch.equal(loss_func.code_bank.binary_codes, binarize(codes).to(torch.int8))


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({}, ValueError, "`terms` with at least one term, got none"),
        ({"a": (1.0, torch.nn.Identity())}, TypeError, r"a Term as `terms\['a'\]`, got Identity"),
        ({"a": (-1.0, Sign())}, ValueError, "`a_weight` of at least 0, got -1.0"),
        ({"a b": (1.0, Sign())}, ValueError, "names of `terms` .* got 'a b'"),
        ({"items": (1.0, Sign())}, ValueError, "names of `terms` .* got 'items'"),
    ],
)
def test_wrong_terms_are_named(terms, error, message):
    with pytest.raises(error, match=message):
        DiscreteLoss(2, 2, terms)


class Returned(BaseHashingLoss):
    """What it was given to return."""

    def __init__(self, returned):
        super().__init__()
        self.returned = returned

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        return self.returned


ONES, PLACES = torch.ones(3), torch.arange(3)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (ONES, TypeError, "a dict of sub-losses, got Tensor"),
        ({}, ValueError, r"the sub-losses \['loss'\], got \[\]"),
        ({"other": {}}, ValueError, r"the sub-losses \['loss'\], got \['other'\]"),
        ({"loss": ONES}, TypeError, "a dict with `losses`, .* as 'loss' .*, got Tensor"),
        ({"loss": {"losses": ONES}}, TypeError, r"as 'loss' .*, got \['losses'\]"),
        ((ONES, PLACES, "each"), ValueError, "a `reduction_type` that is one of 'element', .* got"),
        ((ONES.sum(), PLACES, "element"), ValueError, r"`losses` of shape \(m,\), got \(\)"),
        ((1.0, PLACES, "element"), ValueError, r"`losses` of shape \(m,\), got float"),
        ((ONES, PLACES[:2], "element"), ValueError, r"`indices` of a tensor .*, got \[\(2,\)\]"),
        ((ONES, None, "element"), ValueError, r"`indices` of a tensor .*, got \['NoneType'\]"),
        ((ONES, PLACES, "pos_pair"), ValueError, "`indices` of 2 tensors of shape"),
        ((ONES, (PLACES,) * 2, "triplet"), ValueError, "`indices` of 3 tensors of shape"),
        ((ONES, None, "already_reduced"), ValueError, "one loss that is already reduced, got 3"),
    ],
)
def test_a_wrong_return_of_compute_loss_is_named(returned, error, message):
    if isinstance(returned, tuple):
        losses, indices, kind = returned
        returned = {"loss": {"losses": losses, "indices": indices, "reduction_type": kind}}
    with pytest.raises(error, match=f"Expected `compute_loss` of Returned to return .*{message}"):
        Returned(returned)(CODES, LABELS)


@pytest.mark.parametrize(
    ("losses", "indices", "kind"),
    [
        (ONES, PLACES, "element"),
        (ONES, (PLACES, PLACES), "neg_pair"),
        (ONES, [PLACES] * 3, "triplet"),
        (ONES.sum(), None, "already_reduced"),
        (0, None, "already_reduced"),
    ],
)
def test_what_pml_reduces_is_taken(losses, indices, kind):
    returned = {"loss": {"losses": losses, "indices": indices, "reduction_type": kind}}
    assert Returned(returned)(CODES.requires_grad_(), LABELS).isfinite()


def test_codes_start_from_class_codes_that_are_given():
    class_codes = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    terms = {"quantization": (1.0, Quantization())}
    bank = CodeBank(torch.tensor([0, 1, 1]), 2)
    loss_func = DiscreteLoss(2, 2, terms, class_codes=class_codes, code_bank=bank)
    loss_func(CODES, sample_indices=torch.arange(3))
    assert_close(bank.binary_codes.float(), class_codes[[0, 1, 1]])
    with pytest.raises(ValueError, match=r"`class_codes` .*\(2, 2\)"):
        DiscreteLoss(2, 2, terms, class_codes=torch.ones(3, 2))
