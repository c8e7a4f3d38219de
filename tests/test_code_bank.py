"""CodeBank against dense matrices and loops."""

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing import CodeBank, code_bank
from pml_hashing.moments import moments, spread

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 3, 1, 0]),  # no sample of class 2
    "multi_hot": torch.tensor(
        [[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    ),
}
STATISTICS = ("code_sums", "code_gram", "class_moments", "network_gram")


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


def dense_labels(labels):
    return labels.double() if labels.ndim == 2 else torch.nn.functional.one_hot(labels, 4).double()


def dense_graph(labels):
    """Q of the docstring, from its definition."""
    rows = dense_labels(labels)
    sizes, counts = rows.sum(dim=1).clamp(min=1), rows.sum(dim=0).clamp(min=1)
    return (rows / sizes[:, None]) @ (rows / counts).T


def dense_moments(codes):
    rows = [[1.0, *code, sum(x * x for x in code)] for code in codes.double().tolist()]
    return torch.tensor(rows, dtype=torch.float64)


def make_bank(labels, num_networks=2, **kwargs):
    """Return a bank with random codes in it."""
    bank = CodeBank(labels, 5, num_classes=4, num_networks=num_networks, **kwargs)
    bank.binary_codes.copy_(torch.randint(2, (6, 5)) * 2 - 1)
    bank.codes_changed()
    bank.store(torch.arange(6), *(torch.randn(6, 5) for _ in range(num_networks)))
    for statistic in STATISTICS:
        bank.sums(statistic)  # from now on they are kept
    return bank


def check_sums(bank, labels):
    """Compare all sums with those of the dense matrices."""
    rows, codes = dense_labels(labels), bank.binary_codes.double()
    sizes = rows.sum(dim=1, keepdim=True).clamp(min=1)
    expected = {"code_sums": [rows.T @ codes], "code_gram": [dense_gram(codes)]}
    for kept in bank.networks:
        values = dense_moments(kept)
        sums = torch.stack([rows.T @ values, rows.T @ (values / sizes)])
        expected.setdefault("class_moments", []).append(sums)
        expected.setdefault("network_gram", []).append(dense_gram(kept))
    assert_close(bank.class_counts.double(), rows.sum(dim=0))
    for statistic, value in expected.items():
        found = [total.double().cpu() for total in bank.sums(statistic)]
        assert_close(found, value, rtol=1e-5, atol=1e-5)


def dense_gram(codes):
    rows = torch.cat([torch.ones(len(codes), 1), codes.cpu()], dim=1).double()
    return rows.T @ rows


def test_moments_and_spread(dtype, device):
    values, partners = (torch.randn(n, 4, dtype=dtype, device=device) for n in (3, 6))
    weights = torch.rand(3, 6, dtype=dtype, device=device)
    expected = [
        sum(
            w * sum((x - v) ** 2 for x, v in zip(row, partner, strict=True))
            for w, partner in zip(row_weights, partners.tolist(), strict=True)
        )
        for row, row_weights in zip(values.tolist(), weights.tolist(), strict=True)
    ]
    assert_close(moments(partners).cpu(), dense_moments(partners).to(dtype))
    found = spread(values, weights @ moments(partners))
    assert_close(found, torch.tensor(expected, dtype=dtype, device=device))


def test_spread_of_equal_codes_is_nearly_zero():
    """The terms of the sum cancel: for bounded codes, to the rounding of their squares."""
    values = torch.tanh(3 * torch.randn(1, 64)).expand(100, -1)
    sums = torch.full((100, 100), 0.01) @ moments(values)
    assert spread(values, sums).abs().max() < 64 * 4e-6


def test_new_bank(labels, device):
    bank = CodeBank(labels.to(device), 5, num_classes=4)
    assert (len(bank), bank.num_classes, bank.code_length, bank.started) == (6, 4, 5, False)
    assert bank.binary_codes.dtype == torch.int8
    assert (bank.binary_codes == 1).all()
    assert (bank.query_codes == 0).all()
    assert bank.database_codes is None
    assert len(bank.networks) == 1
    assert {buffer.device.type for buffer in bank.buffers()} == {device.type}
    assert "6 samples, 5 bits, 4 classes" in repr(bank)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_sums_are_those_of_the_matrices(labels, num_networks):
    bank = make_bank(labels, num_networks)
    check_sums(bank, labels)
    assert len(bank.networks) == num_networks


def test_averages_are_products_with_the_graph(labels, device):
    bank = make_bank(labels).to(device)
    graph = dense_graph(labels).to(device)
    values, rows = torch.randn(6, 3, device=device), torch.tensor([5, 0, 4, 3], device=device)
    some = bank.labels_of(rows)
    assert_close(some.cpu(), labels[rows.cpu()].to(some.dtype))
    assert_close(bank.labels_of(slice(1, 3)), bank.labels_of(torch.arange(1, 3, device=device)))
    row_average = bank.row_average(bank.class_sums(values), some)
    assert_close(row_average, (graph @ values.double())[rows].float())
    sizes = dense_labels(labels).sum(dim=1, keepdim=True).clamp(min=1).to(device)
    column_average = bank.column_average(bank.class_sums(values / sizes.float()), some)
    assert_close(column_average, (graph.T @ values.double())[rows].float())


def test_label_gram(labels):
    rows = dense_labels(labels)
    assert_close(make_bank(labels).label_gram().double(), rows.T @ rows)


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(sorted(LABELS)), data=st.data())
def test_stored_codes_are_summed_at_once(seed, kind, data):
    """Also where a sample comes more than once, as some samplers have it: the last one counts."""
    torch.manual_seed(seed)
    bank = make_bank(LABELS[kind])
    rows = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))
    latest = [torch.randn(len(rows), 5) for _ in range(2)]
    expected = [bank.query_codes.clone(), bank.database_codes.clone()]
    for place, row in enumerate(rows):
        for kept, new in zip(expected, latest, strict=True):
            kept[row] = new[place]
    bank.store(torch.tensor(rows), *latest)
    assert_close([bank.query_codes, bank.database_codes], expected)
    check_sums(bank, LABELS[kind])


def test_codes_that_are_not_finite_are_not_stored(labels):
    bank = make_bank(labels, 1)
    before = bank.query_codes.clone()
    codes = torch.full((2, 5), 0.5)
    codes[0, 0], codes[1, 1] = float("nan"), float("inf")
    bank.store(torch.tensor([1, 4]), codes)
    expected = before.clone()
    expected[[1, 4]] = 0.5
    expected[1, 0], expected[4, 1] = before[1, 0], before[4, 1]
    assert_close(bank.query_codes, expected)
    check_sums(bank, labels)


def test_codes_of_any_type_are_stored(labels):
    bank = make_bank(labels, 1)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        codes = torch.ones(2, 5, dtype=dtype, requires_grad=True)
        bank.store(torch.tensor([1, 4]), codes)
        assert (bank.query_codes[[1, 4]] == 1).all()
        assert not bank.query_codes.requires_grad
        check_sums(bank, labels)


def test_as_many_codes_as_networks_are_stored(labels):
    with pytest.raises(ValueError, match="shorter"):
        make_bank(labels).store(torch.tensor([0]), torch.ones(1, 5))


@pytest.mark.parametrize("block", [1, 4, 5])
def test_sums_in_blocks_are_the_sums(labels, block, monkeypatch):
    bank = make_bank(labels)
    monkeypatch.setattr(code_bank, "ROWS_OF_A_BLOCK", block)
    bank.refresh()
    bank.codes_changed()
    assert [x.stop - x.start for x in bank.row_blocks()] == [block] * -(-6 // block)
    check_sums(bank, labels)


def test_rows_of_many_labels_are_summed_by_label_or_by_row():
    """Few rows are summed by themselves, many by the groups of equal labels: both are right."""
    labels = torch.randint(2, (40, 6))
    bank = CodeBank(labels, 3)
    values = torch.randn(40, 3)
    assert len(bank.group_labels) < 40
    few, rows = values[:4], torch.tensor([7, 7, 0, 39])
    assert_close(bank.class_sums(values), labels.T.float() @ values)
    assert_close(bank.class_sums(few, bank.groups[rows]), labels[rows].T.float() @ few)


def test_bank_of_a_batch(labels, device):
    codes, ref_codes = (torch.randn(6, 5, device=device, dtype=torch.float64) for _ in range(2))
    bank = CodeBank.of_batch(labels.to(device), 4, codes, ref_codes)
    assert bank.query_codes is codes
    assert bank.database_codes is ref_codes
    assert bank.sums("code_sums")[0].dtype == torch.float64
    check_sums(bank.cpu(), labels)


def test_equal_label_rows_are_kept_once():
    bank = CodeBank(LABELS["multi_hot"].repeat(10, 1), 5)
    assert len(bank.group_labels) == 4


def test_number_of_classes_is_taken_from_the_labels(labels):
    assert CodeBank(labels, 5).num_classes == 4
    assert CodeBank(labels.tolist(), 5).num_classes == 4
    assert CodeBank(LABELS["class_ids"], 5, num_classes=9).class_counts.shape == (9,)


def test_bank_keeps_no_view_of_the_labels():
    labels = LABELS["class_ids"].clone()
    bank = CodeBank(labels, 5)
    labels.zero_()
    assert_close(bank.labels_of(slice(None)), LABELS["class_ids"])


def test_variables_of_terms_are_kept_under_their_names(labels):
    bank = make_bank(labels)
    assert bank.variables("map") == {}
    assert not bank.keeps("map", "a")
    bank.keep("map", {"weights": torch.ones(2, 3)}, "a")
    kept = bank.variables("map")["weights"]
    bank.keep("map", {"weights": torch.zeros(2, 3)}, "a")
    assert bank.variables("map")["weights"] is kept  # in its memory
    assert (kept == 0).all()
    assert bank.keeps("map", "a", current=True)
    assert not bank.keeps("map", "b")
    bank.codes_changed()
    assert bank.keeps("map", "a")
    assert not bank.keeps("map", "a", current=True)
    bank.keep("map", {"others": torch.ones(4)}, "b")
    assert list(bank.variables("map")) == ["others"]


def test_only_what_is_asked_for_is_summed(labels):
    bank = CodeBank(labels, 5, num_classes=4)
    bank.store(torch.arange(2), torch.ones(2, 5))
    assert not [name for name, _ in bank.named_buffers() if "sum" in name]
    bank.sums("network_gram")
    names = [name for name, _ in bank.named_buffers() if "sum" in name]
    assert len(names) == 1
    bank.store(torch.arange(6), torch.randn(6, 5))
    assert_close(bank.sums("network_gram")[0].double(), dense_gram(bank.query_codes))


@pytest.mark.parametrize("is_used", [False, True])
def test_what_terms_keep_is_restored_into_any_bank(labels, is_used):
    bank, restored = make_bank(labels), CodeBank(labels, 5, num_classes=4, num_networks=2)
    bank.keep("map", {"weights": torch.randn(2, 3)}, "a")
    if is_used:
        restored.keep("other", {"weights": torch.randn(7)}, "b")
        restored.sums("network_gram")
    restored.load_state_dict(bank.state_dict())
    assert restored.keeps("map", "a", current=True)
    assert not restored.keeps("other", "b")
    assert_close(restored.variables("map"), bank.variables("map"), rtol=0, atol=0)
    rows, codes = torch.tensor([1, 2]), [torch.randn(2, 5) for _ in range(2)]
    for each in (bank, restored):
        each.store(rows, *codes)
    for statistic in STATISTICS:  # the rounding of earlier sums and differences is restored too
        assert_close(restored.sums(statistic), bank.sums(statistic), rtol=0, atol=0)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_is_saved_and_loaded(labels, num_networks):
    bank = make_bank(labels, num_networks)
    bank.started = True
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    restored = CodeBank(labels, 5, num_classes=4, num_networks=num_networks)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.started
    buffers = dict(bank.named_buffers())
    assert buffers.keys() == dict(restored.named_buffers()).keys()
    for name, buffer in buffers.items():
        assert torch.equal(buffer, restored.get_buffer(name))


def test_a_bank_of_other_sizes_is_not_loaded(labels):
    bank = CodeBank(labels, 8, num_classes=4)
    with pytest.raises(RuntimeError, match="size mismatch for query_codes"):
        bank.load_state_dict(make_bank(labels, 1).state_dict())


def test_is_copied_apart(labels):
    bank = make_bank(labels)
    copied = copy.deepcopy(bank)
    copied.store(torch.tensor([0]), torch.ones(1, 5), torch.ones(1, 5))
    check_sums(bank, labels)
    check_sums(copied, labels)


def test_binary_codes_stay_integers_in_another_precision(labels):
    bank = make_bank(labels).double()
    assert (bank.binary_codes.dtype, bank.sums("class_moments")[0].dtype) == (
        torch.int8,
        torch.float64,
    )
    bank.refresh()
    check_sums(bank, labels)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (torch.zeros(2, 3, 4), {}, ValueError, r"`labels` of shape \(n,\) .* got \(2, 3, 4\)"),
        (torch.tensor(1), {}, ValueError, r"`labels` of shape \(n,\) .* got \(\)"),
        (torch.zeros(0).long(), {}, ValueError, r"`labels` .* not empty, got \(0,\)"),
        (torch.zeros(3, 0), {}, ValueError, r"`labels` .* not empty, got \(3, 0\)"),
        (torch.tensor([0.0, 1]), {}, TypeError, r"integer class ids, got torch\.float32"),
        (torch.tensor([True]), {}, TypeError, r"integer class ids, got torch\.bool"),
        (torch.tensor([-1, 1]), {}, ValueError, "from 0 to 1, got -1 to 1"),
        (torch.tensor([10**12]), {}, ValueError, "of 1,000,000,000,001 classes: number those"),
        (torch.tensor([0, 5]), {"num_classes": 3}, ValueError, "from 0 to 2, got 0 to 5"),
        (torch.ones(2, 3), {"num_classes": 4}, ValueError, r"shape \(2, 4\) .* got \(2, 3\)"),
        (torch.full((2, 3), 3), {}, ValueError, "multi-hot `labels` of zeros and ones"),
        (torch.tensor([0, 1]), {"code_length": 0}, ValueError, "`code_length` of at least 1"),
        (torch.tensor([0]), {"num_networks": 3}, ValueError, "`num_networks` .* 1, 2, got 3"),
    ],
)
def test_wrong_arguments_are_named(labels, options, error, message):
    with pytest.raises(error, match=message):
        CodeBank(labels, **{"code_length": 5, **options})


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_sample_indices_become_int64(kind, device):
    indices = (
        CodeBank(torch.arange(3), 4)
        .to(device)
        .check_rows(torch.tensor([2, 0], dtype=kind, device=device), 2)
    )
    assert (indices.tolist(), indices.dtype, indices.device.type) == (
        [2, 0],
        torch.int64,
        device.type,
    )
