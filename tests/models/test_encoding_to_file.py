"""Codes written to a file as they come: the same after any interruption; unreadable images."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import CONTEXT, run_script
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision.datasets import ImageFolder

from pml_hashing.code_file import read_code_file
from pml_hashing.code_writer import CodeWriter
from pml_hashing.codes import pack
from pml_hashing.datasets import UnreadableImageError
from pml_hashing.models import HashingModel
from pml_hashing.search import HammingKNN


class Items(Dataset):
    """Vectors, of which some cannot be read and one stops everything."""

    def __init__(self, values, unreadable=(), fatal=None):
        self.values, self.unreadable, self.fatal = values, unreadable, fatal

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        if index == self.fatal:
            raise KeyboardInterrupt
        if index in self.unreadable:
            raise UnreadableImageError(f"no image {index}", path=f"{index}.jpg", index=index)
        return self.values[index], index


@pytest.fixture
def model():
    return HashingModel(torch.nn.Identity(), 12, num_features=4)


@pytest.fixture
def values():
    return torch.randn(19, 4)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("make", [torch.Tensor.clone, Items, TensorDataset])
def test_the_file_holds_the_codes(model, values, make, tmp_path):
    path = tmp_path / "new" / "codes.safetensors"
    codes = model.encode(make(values), path=path, batch_size=4, progress=False)
    assert torch.equal(codes, model.encode(values, progress=False))
    assert files(path.parent) == ["codes.safetensors"]
    before = path.read_bytes()
    assert torch.equal(model.encode(make(values), path=path, progress=False), codes)
    assert path.read_bytes() == before
    codes.fill_(0)  # what is mapped is not written
    assert path.read_bytes() == before


@pytest.mark.parametrize("unreadable", [(), (0, 5, 6, 18), range(3, 10)])
def test_search_reads_the_file(model, values, unreadable, tmp_path):
    skipped = []
    options = {"batch_size": 3, "progress": False, "on_unreadable": skipped.append}
    model.encode(Items(values, unreadable), path=tmp_path / "codes", **options)
    assert [error.index for error in skipped] == list(unreadable)
    readable = [i for i in range(19) if i not in unreadable]
    expected = HammingKNN()
    expected.train(model(values)[readable], readable)
    for memory_map in (False, True):
        knn = HammingKNN()
        knn.load(tmp_path / "codes", memory_map=memory_map)
        assert knn.ids == readable
        assert knn.code_length == 12
        found, wanted = (index.search(model(values), 5) for index in (knn, expected))
        assert torch.equal(found[0], wanted[0])
        assert found[1] == wanted[1]


@pytest.mark.parametrize("fatal", [0, 1, 4, 10, 18])
def test_a_stopped_encoding_goes_on_where_it_was(model, values, fatal, tmp_path):
    unreadable, read = (2, 9), []

    class Counted(Items):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    options = {"batch_size": 2, "progress": False, "on_unreadable": lambda _: None}
    whole = model.encode(Items(values, unreadable), path=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        model.encode(Items(values, unreadable, fatal), path=tmp_path / "stopped", **options)
    skipped = []
    options["on_unreadable"] = skipped.append
    codes = model.encode(Counted(values, unreadable), path=tmp_path / "stopped", **options)
    assert torch.equal(codes, whole)
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()
    # Of the batches before the fatal one, the last was under way.
    assert read == list(range(max(0, fatal // 2 * 2 - 2), 19))
    assert [(error.index, error.path) for error in skipped] == [(2, "2.jpg"), (9, "9.jpg")]
    again = []
    model.encode(values, path=tmp_path / "stopped", on_unreadable=again.append, progress=False)
    assert [error.index for error in again] == [2, 9]


def test_a_full_disk_leaves_the_model_as_it_was(model, values, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("full")

    monkeypatch.setattr(CodeWriter, "append", full)
    with pytest.raises(OSError, match="full") as caught:
        model.train().encode(values, path=tmp_path / "codes", batch_size=4, progress=False)
    assert model.training
    assert caught.value  # which holds all frames until here


@pytest.mark.parametrize("file", [False, True])
def test_ctrl_c_says_how_to_go_on(model, values, file, tmp_path):
    path = tmp_path / "codes" if file else None
    advice = rf"to the same `path`, {path}, to go on" if file else "With a `path`, the codes so far"
    with pytest.raises(KeyboardInterrupt, match=rf"^Stopped encoding after 8 items\. .*{advice}"):
        model.encode(Items(values, (), 12), path=path, batch_size=4, progress=False)


SLOWLY = """
import multiprocessing, signal, time, torch
from pml_hashing.models import HashingModel
class Items(torch.utils.data.Dataset):
    def __len__(self): return 1000
    def __getitem__(self, index):
        if index == 20: pipe.send("going")
        time.sleep(0.02)
        return torch.full((4,), float(index))
signal.signal(signal.SIGINT, signal.default_int_handler)
multiprocessing.set_start_method("fork", force=True)
torch.manual_seed(0)
torch.set_num_threads(1)
model = HashingModel(torch.nn.Identity(), 12, num_features=4)
try:
    model.encode(Items(), path=path, batch_size=4, progress=False, num_workers=1)
except KeyboardInterrupt as error:
    pipe.send(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_two_processes_and_ctrl_c(model, values, tmp_path):
    pipe, far = CONTEXT.Pipe()
    given = {"pipe": far, "path": tmp_path / "codes", "__name__": "__main__"}
    process = CONTEXT.Process(target=exec, args=(SLOWLY, given))
    process.start()
    assert pipe.poll(60)
    assert pipe.recv() == "going"
    with pytest.raises(ValueError, match=r"got .*codes, to which another process or thread is"):
        model.encode(values, path=tmp_path / "codes", progress=False)
    os.kill(process.pid, signal.SIGINT)
    assert pipe.poll(60)
    assert re.match(r"Stopped encoding after \d+ items\. Encode the same", pipe.recv())
    process.join(60)
    assert process.exitcode == 0
    assert files(tmp_path) == ["codes.partial", "codes.progress"]


def test_unreadable_items_are_errors_unless_asked_for(model, values, tmp_path):
    items = Items(values, (7,))
    for path in (None, tmp_path / "codes"):
        with pytest.raises(UnreadableImageError, match=r"readable item 7 .* no image 7") as caught:
            model.encode(items, path=path, batch_size=4, progress=False)
        assert (caught.value.path, caught.value.index) == ("7.jpg", 7)
    skipped = []
    model.encode(items, path=tmp_path / "codes", on_unreadable=skipped.append, progress=False)
    with pytest.raises(UnreadableImageError, match="no image 7"):
        model.encode(items, path=tmp_path / "codes", progress=False)
    codes = model.encode(items, batch_size=4, on_unreadable=skipped.append, progress=False)
    assert torch.equal(codes, pack(model(values))[torch.arange(19) != 7])
    assert [error.index for error in skipped] == [7, 7]


def test_a_batch_of_unreadable_items_leaves_the_codes_float32(model, values):
    torch.set_default_dtype(torch.float64)
    try:
        options = {"batch_size": 2, "on_unreadable": lambda _: None, "progress": False}
        codes = model.encode(Items(values, (2, 3)), packed=False, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (codes.dtype, codes.shape) == (torch.float32, (17, 12))


@pytest.mark.parametrize("file", [False, True])
def test_nothing_readable_is_an_error(model, values, file, tmp_path):
    path = tmp_path / "codes" if file else None
    with pytest.raises(ValueError, match=r"at least one .*19 unreadable ones"):
        model.encode(
            Items(values, range(19)), path=path, on_unreadable=lambda _: None, progress=False
        )


def test_workers_skip_the_same_items(tmp_path):
    for index in range(5):
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(tmp_path / "cat" / f"{index}.png")
    (tmp_path / "cat" / "3.png").write_bytes(b"no image")
    model = HashingModel("test_resnet", 8, img_size=32)
    images = ImageFolder(str(tmp_path), model.transform())
    skipped, options = [], {"batch_size": 2, "progress": False}
    codes = [
        model.encode(images, num_workers=n, on_unreadable=skipped.append, **options) for n in (0, 2)
    ]
    assert torch.equal(*codes)
    assert len(codes[0]) == 4
    assert [error.index for error in skipped] == [3, 3]
    assert all("3.png" in str(error) for error in skipped)
    with pytest.raises(UnreadableImageError, match=r"readable item 3 .*3\.png"):
        model.encode(images, num_workers=1, **options)


def test_the_sample_of_a_code_that_is_not_finite_is_named_after_a_skip(values):
    model = HashingModel(torch.nn.Identity(), 12, num_features=4, bound="none")
    values[8] = torch.nan
    with pytest.raises(ValueError, match="sample 8 of `inputs`"):
        model.encode(
            Items(values, (1, 6)), batch_size=5, on_unreadable=lambda _: None, progress=False
        )


def test_another_model_or_data_set_is_refused(model, values, tmp_path):
    finished, begun = tmp_path / "finished", tmp_path / "begun"
    model.encode(values, path=finished, progress=False)
    with pytest.raises(KeyboardInterrupt):
        model.encode(Items(values, (), 10), path=begun, batch_size=2, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changed = HashingModel(torch.nn.Identity(), 12, num_features=4)
    longer = HashingModel(torch.nn.Identity(), 16, num_features=4)
    for other, data in ((changed, values), (longer, values), (model, values[:18])):
        with pytest.raises(ValueError, match=r"no file at `.*finished`, or one for CodesOf\(.*got"):
            other.encode(data, path=finished, progress=False)
        with pytest.raises(ValueError, match=r"`.*begun.progress` to be begun for CodesOf\(.*got"):
            other.encode(data, path=begun, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("inputs", [[torch.zeros(2, 4)], DataLoader([1])])
def test_what_has_no_places_has_no_file(model, inputs, tmp_path):
    with pytest.raises(TypeError, match="a tensor or a data set for a file"):
        model.encode(inputs, path=tmp_path / "codes", progress=False)
    assert not files(tmp_path)


def test_number_of_workers_is_checked(model, values):
    with pytest.raises(ValueError, match="`num_workers` of at least 0, got -1"):
        model.encode(values, num_workers=-1)


def test_mapped_codes_can_be_changed_in_memory(model, values, tmp_path):
    codes = model.encode(values, path=tmp_path / "codes", progress=False)
    before = (tmp_path / "codes").read_bytes()
    knn, expected = HammingKNN(), HammingKNN(code_length=12)
    knn.load(tmp_path / "codes", memory_map=True)
    expected.train(codes.clone())
    new = torch.randn(3, 12)
    for index in (knn, expected):
        index.update([2], new[:1])
        index.remove([0, 7])
        index.add(new[1:])
    assert torch.equal(knn(new, 5)[1], expected(new, 5)[1])
    assert knn.ids == expected.ids
    assert (tmp_path / "codes").read_bytes() == before


def run_kills(folder, kills):
    script = Path(__file__).with_name("killed_encoding.py")
    done = run_script(script, folder, kills)
    assert done.returncode == 0, done.stderr
    assert int(re.fullmatch(r"(\d+) kills in \d+ places, \d+ files\n", done.stdout)[1]) >= kills


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_killed_encodings_end_with_the_same_file(tmp_path):
    run_kills(tmp_path, 4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_encodings_killed_often_end_with_the_same_file(tmp_path):
    run_kills(tmp_path, 60)


def test_the_metadata_says_what_the_codes_are_of(model, values, tmp_path):
    model.encode(values, path=tmp_path / "codes", progress=False)
    _, metadata = read_code_file(tmp_path / "codes")
    assert (metadata["code_length"], metadata["num_items"]) == ("12", "19")
    assert re.fullmatch("[0-9a-f]{64}", metadata["model"])


def numbered(values, count=None):
    return {"ids": [f"image {place}" for place in range(len(values) if count is None else count)]}


class Stopping(IterableDataset):
    """A data set without a length that fails once."""

    def __init__(self, values, stop=None):
        self.values, self.stop, self.read = values, stop, 0

    def __iter__(self):
        for place, value in enumerate(self.values):
            if place == self.stop:
                self.stop = None
                raise RuntimeError("stopped")
            self.read += 1
            yield value


@pytest.mark.parametrize("ids", [None, numbered])
def test_a_stream_goes_on_where_it_was(model, values, ids, tmp_path):
    path, stream = tmp_path / "codes", Stopping(values, stop=len(values) - 1)
    options = {"path": path, "batch_size": 2, "progress": False, **(ids(values) if ids else {})}
    with pytest.raises(RuntimeError, match="stopped"):
        model.encode(stream, **options)
    for _ in range(2):
        codes = model.encode(stream, **options)
        assert torch.equal(codes, model.encode(values, progress=False))
    knn = HammingKNN()
    knn.load(path)
    assert knn.ids == (ids(values)["ids"] if ids else list(range(len(values))))


@pytest.mark.parametrize("ids", [lambda n: [f"{i}.png" for i in range(n)], torch.arange, list])
def test_the_file_has_the_ids(model, values, ids, tmp_path):
    count = len(values)
    given = ids(count) if ids is not list else list(range(count, 0, -1))
    model.encode(values, path=tmp_path / "codes", ids=given, progress=False)
    knn = HammingKNN()
    knn.load(tmp_path / "codes")
    assert knn.ids == (given.tolist() if torch.is_tensor(given) else given)
    with pytest.raises(ValueError, match="Expected no file at"):
        model.encode(values, path=tmp_path / "codes", progress=False)


WRONG_IDS = {
    "too few": (lambda n: range(n - 1), ValueError, "`ids`, one for each item, got"),
    "twice": (lambda n: ["a"] * n, ValueError, "without duplicates, got 'a' twice"),
    "float": (lambda n: [0.5] * n, TypeError, "strings or integers, got 0.5"),
    "bool": (lambda n: [True] * n, TypeError, "strings or integers, got True"),
}


@pytest.mark.parametrize(("ids", "error", "message"), WRONG_IDS.values(), ids=WRONG_IDS)
def test_wrong_ids_of_items(model, values, ids, error, message, tmp_path):
    with pytest.raises(error, match=message):
        model.encode(values, path=tmp_path / "codes", ids=ids(len(values)), progress=False)


def test_ids_of_a_stream_are_as_many(model, values, tmp_path):
    for name, count in (("few", len(values) - 1), ("many", len(values) + 1)):
        options = {"path": tmp_path / name, "progress": False, **numbered(values, count)}
        with pytest.raises(ValueError, match=f"Expected {count} items in `inputs`, one for each"):
            model.encode(Stopping(values), **options)
    with pytest.raises(ValueError, match="`ids` with a `path`"):
        model.encode(values, **numbered(values), progress=False)
    with pytest.raises(ValueError, match="`num_workers` of 0 for an iterable data set"):
        model.encode(Stopping(values), path=tmp_path / "codes", num_workers=1, progress=False)
