"""Arrays as people have them, wherever the library takes one: any layout, any order of bytes."""

import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from pml_hashing import CodeBank
from pml_hashing._arrays import from_array, to_labels
from pml_hashing.codes import pack
from pml_hashing.evaluation import HammingAccuracyCalculator
from pml_hashing.models.encoding import encode
from pml_hashing.search import HammingKNN
from pml_hashing.testers import HammingTester

CODES = torch.randn(12, 16, generator=torch.Generator().manual_seed(0)).numpy()
LABELS = np.arange(12) % 3


def unwritable(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "backwards": lambda array: array[::-1].copy()[::-1],
    "by columns": np.asfortranarray,
    "every other": lambda array: np.repeat(array, 2, axis=0)[::2],
    "read-only": unwritable,
}
OTHERS = {
    "strings": np.array(["a", "b"]),
    "objects": np.array([1, None]),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "long": np.zeros(2, np.longdouble),
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield LAYOUTS[request.param]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u1", "u2", "?", "c8"])
def test_an_array_is_the_tensor_of_its_numbers(layout, dtype):
    array = (CODES * 9).astype(dtype)
    assert torch.equal(from_array(layout(array), "codes"), torch.from_numpy(array))


@pytest.mark.parametrize("array", OTHERS.values(), ids=OTHERS)
def test_what_are_no_numbers_is_named(array):
    for read in (from_array, to_labels):
        with pytest.raises(
            TypeError, match=f"^Expected `labels` with numbers .* {re.escape(str(array.dtype))}"
        ):
            read(array, "labels")


def test_codes_and_labels_are_arrays_of_any_layout(layout):
    def score(codes, labels):
        calculator = HammingAccuracyCalculator(device="cpu", include=("precision_at_1",))
        return calculator.get_accuracy(codes, labels)["precision_at_1"]

    def found(codes):
        knn = HammingKNN()
        knn.train(codes)
        return [part.tolist() for part in knn(codes, 3, codes)]

    for codes in (CODES, np.sign(CODES).astype(np.int8), pack(torch.from_numpy(CODES)).numpy()):
        assert score(layout(codes), layout(LABELS)) == score(codes, LABELS)
        assert found(layout(codes)) == found(codes)
    bank, expected = CodeBank(layout(LABELS), 16), CodeBank(torch.from_numpy(LABELS), 16)
    assert torch.equal(bank.labels_of(slice(None)), expected.labels_of(slice(None)))
    assert torch.equal(
        encode(nn.Identity(), 16, None, layout(CODES), progress=False),
        pack(torch.from_numpy(CODES)),
    )


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_class_ids_of_a_bank_are_named(dtype):
    with pytest.raises(TypeError, match=f"`labels` of a signed integer dtype .* {dtype}"):
        CodeBank(torch.from_numpy(LABELS).to(dtype), 16)


LISTS = {
    "numbers": ([0, 1, 2], torch.tensor([0, 1, 2])),
    "scalars": ([torch.tensor(0), torch.tensor(1)], torch.tensor([0, 1])),
    "rows": ([[0, 1], [1, 0]], torch.tensor([[0, 1], [1, 0]])),
    "columns": ([torch.tensor([0, 1, 1]), torch.zeros(3)], torch.tensor([[0, 0], [1, 0], [1, 0]])),
}


@pytest.mark.parametrize(("labels", "expected"), LISTS.values(), ids=LISTS)
def test_lists_of_labels_are_what_torch_collates(labels, expected):
    assert torch.equal(to_labels(labels, "labels").long(), expected)


class Items(torch.utils.data.Dataset):
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(CODES)

    def __getitem__(self, index):
        return CODES[index], self.labels[index]


def test_a_tester_takes_lists_of_labels_and_no_names():
    tester = HammingTester(dataloader_num_workers=0, data_device="cpu")

    def score(labels, suffix):
        scores = tester.test({"val": Items(labels)}, 1, nn.Identity())["val"]
        return scores[f"hamming_mean_average_precision_{suffix}"]

    expected = score(np.eye(3, dtype=int)[LABELS], "levelall")
    assert score(np.eye(3, dtype=int)[LABELS].tolist(), "levelall") == expected
    assert score(LABELS.tolist(), "level0") == expected
    with pytest.raises(
        TypeError, match=r"`labels` that are a tensor, .* got a (list|tuple) of str"
    ):
        score(["cat"] * 12, "level0")
