"""Files that somebody else may have written: refused with our error, or read as they were saved."""

import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from fuzz import HEADER, Format, survive
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from strict import PYTHON
from torch import nn

from pml_hashing import _tensor_files
from pml_hashing._tensor_files import CHECKSUM
from pml_hashing.datasets import ImageArrays
from pml_hashing.models import HashingModel
from pml_hashing.search import HNSW, HammingKNN
from pml_hashing.trainers import checkpoints

MEMORY_LIMIT = 500_000  # kilobytes
SCRIPT = Path(__file__)
SECONDS = 3000  # for a slow part, on a busy machine


def state(module):
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


def write_index(path):
    torch.manual_seed(0)
    knn = HammingKNN(rerank="vectors")
    knn.train(torch.randn(6, 12), ["a", ("b", 2), 3, -1, 2**70, ""])
    knn.save(path)


def write_columns(path, ids):
    torch.manual_seed(0)
    knn = HammingKNN()
    knn.add(
        torch.randn(6, 12), ids, label=[1, 2, None, 3, 1, 2], shop=["a", "b", "a", "ä", "", "c"]
    )
    knn.add(torch.randn(1, 12), [max(ids) * 2])
    knn.remove([max(ids) * 2])
    knn.save(path)


GRAPH = HNSW(num_links=2, ef_search=4)


def write_graph(path):
    codes = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    knn = HammingKNN(index=GRAPH)
    knn.train(codes)
    knn(codes[:1], 1)
    knn.save(path)


def read_graph(path):
    knn = HammingKNN(index=GRAPH)
    knn.load(path)
    query = torch.randn(20, knn.code_length, generator=torch.Generator().manual_seed(1))
    return [found.tolist() for found in knn(query, min(3, len(knn)))]


def read_index(path, rerank="vectors"):
    knn = HammingKNN(rerank=rerank)
    knn.load(path)
    found = [id_ in knn for id_ in knn.ids]
    distances = knn(torch.ones(1, 12), 6)[0].tolist()
    return knn.ids, knn.code_length, found, distances, knn.get(knn.ids).metadata


def make_backbone():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def write_model(path, backbone=None):
    torch.manual_seed(0)
    model = HashingModel(backbone or make_backbone(), 8, img_size=32)
    model.save_pretrained(path.parent)


def read_model(path, backbone=None):
    own = None if backbone else make_backbone()
    model = HashingModel.from_pretrained(path.parent, backbone=own)
    return state(model), str(model), model.data_config


def tiny_weights():
    torch.manual_seed(0)
    return timm.create_model("test_efficientnet", num_classes=0).state_dict()


def read_checkpoint(path):
    return state(HashingModel("test_efficientnet", 8, num_features=256, checkpoint_path=path).trunk)


TRAINING = {"round": 3, "weights": {"bias": torch.arange(5.0)}, "rates": [0.1, None, "text"]}


def read_training(path):
    return str(checkpoints.read_checkpoint(path))


def write_codes(path):
    torch.manual_seed(0)
    path.unlink(missing_ok=True)  # a file that is there would be continued
    model = HashingModel(nn.Identity(), 12, num_features=4)
    model.encode(torch.arange(24.0).view(6, 4), path=path, progress=False)


def read_codes(path):
    knn = HammingKNN()
    knn.load(path)
    return knn.ids, knn.code_length, knn(torch.ones(1, 12), 6)[0].tolist()


def write_npz(path):
    np.savez(path, images=np.zeros((3, 5, 4), np.uint8), labels=np.arange(3))


def read_npz(path):
    images = ImageArrays.from_npz(path)
    return images.images.tolist(), images.labels.tolist(), images.classes


def sign(path):
    """Put the checksum of what a file holds into its header, if it can be read at all."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata.pop(CHECKSUM, None)
        metadata = _tensor_files.sign(metadata, _tensor_files.summarize(tensors))
    except (SafetensorError, RuntimeError, KeyError, TypeError):
        return
    content = path.read_bytes()
    stop = HEADER + int.from_bytes(content[:HEADER], "little")
    header = json.loads(content[HEADER:stop])
    header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(HEADER, "little") + text + content[stop:])


TIMM = {"backbone": "test_efficientnet"}
FORMATS = {
    "index": Format(write_index, read_index, "index.safetensors", sign=sign),
    "graph": Format(write_graph, read_graph, "index.safetensors", sign=sign),
    "strings": Format(
        functools.partial(write_columns, ids=["a", "äö", "", "b\udc80", "c", "d"]),
        functools.partial(read_index, rerank=None),
        "index.safetensors",
        sign=sign,
    ),
    "integers": Format(
        functools.partial(write_columns, ids=[5, -1, 2**60, 0, 3, 4]),
        functools.partial(read_index, rerank=None),
        "index.safetensors",
        sign=sign,
    ),
    "model": Format(write_model, read_model, "model.safetensors", sign=sign),
    "timm model": Format(
        functools.partial(write_model, **TIMM),
        functools.partial(read_model, **TIMM),
        "model.safetensors",
        sign=sign,
    ),
    "torch weights": Format(
        lambda path: torch.save(tiny_weights(), path), read_checkpoint, "weights.pth"
    ),
    "foreign weights": Format(
        lambda path: save_file(tiny_weights(), path),
        read_checkpoint,
        "weights.safetensors",
        is_checked=False,
        sign=lambda path: None,
    ),
    "training": Format(
        lambda path: checkpoints.write_checkpoint(path, TRAINING), read_training, "checkpoint.pt"
    ),
    "codes": Format(write_codes, read_codes, "codes.safetensors", sign=sign),
    "images": Format(write_npz, read_npz, "images.npz"),
}
FAST = {
    "index": 200,
    "graph": 100,
    "strings": 100,
    "integers": 100,
    "model": 60,
    "timm model": 10,
    "torch weights": 10,
    "training": 60,
    "codes": 60,
    "images": 60,
}
SLOW = {
    "index": 5000,
    "graph": 5000,
    "strings": 5000,
    "integers": 5000,
    "model": 3000,
    "timm model": 500,
    "torch weights": 500,
    "foreign weights": 500,
    "training": 2000,
    "codes": 2000,
    "images": 2000,
}
every_format = pytest.mark.parametrize("format_", FORMATS.values(), ids=FORMATS)


def test_every_reading_function_is_here():
    """Whoever adds a reader to the library adds its format: see `fuzz.py`.

    All open by `open_file`. Tables and images have tests like these of their own.
    """
    reads = ("open_file(", "safe_open(", "load_file(", "torch.load(", "memmap(", "fromfile(")
    modules = (SCRIPT.parents[1] / "pml_hashing").rglob("*.py")
    found = {m.name for m in modules if any(call in m.read_text() for call in reads)}
    machinery = {"_files.py", "_archives.py"}
    tested_here = {"backbones.py", "checkpoints.py", "code_file.py", "image_arrays.py", "saving.py"}
    assert found == machinery | tested_here | {"tables.py", "loading.py", "folder_state.py"}


@pytest.mark.parametrize(("name", "count"), FAST.items())
def test_bad_files_are_refused(name, count, tmp_path):
    counts = survive(FORMATS[name], tmp_path, count, seed=0, log=tmp_path / "log")
    assert counts["refused"] > count / 2
    assert sum(counts.values()) == count


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("name", "count"), SLOW.items())
def test_no_bad_file_ends_the_interpreter(name, count, seed, tmp_path):
    arguments = [name, str(count), str(seed), str(tmp_path)]
    done = subprocess.run(
        [*PYTHON, str(SCRIPT), *arguments],
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{tmp_path / 'log'}: {done.stderr}"
    counts = json.loads(done.stdout)
    assert counts.pop("memory") < MEMORY_LIMIT
    assert sum(counts.values()) == count


@every_format
@given(content=st.binary(max_size=300))
@settings(max_examples=5)
def test_foreign_bytes(format_, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / format_.name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^Expected .*{folder}"):
            format_.read(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x05\x06" + bytes(18), b"\x80\x04N."])
@every_format
def test_files_of_another_kind(format_, content, tmp_path):
    path = tmp_path / format_.name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^Expected .*{tmp_path}"):
        format_.read(path)


def load_index(path):
    HammingKNN().load(path)


def load_model(path):
    folder = path.with_name("folder of a model")
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(path)
    HashingModel.from_pretrained(folder)


def load_checkpoint(path):
    HashingModel("test_resnet", 8, checkpoint_path=path)


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize("load", [load_index, load_model, load_checkpoint])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "nothing"])
def test_what_is_no_file(load, kind, tmp_path):
    path = tmp_path / kind
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
        "nothing": lambda: None,
    }[kind]()
    with pytest.raises(FileNotFoundError, match=rf"^Expected .*{tmp_path}"):
        load(path)


def test_a_link_to_a_file_is_that_file(tmp_path):
    write_index(tmp_path / "index")
    (tmp_path / "link").symlink_to(tmp_path / "index")
    assert read_index(tmp_path / "link") == read_index(tmp_path / "index")


def main(name, count, seed, folder):
    survive(FORMATS[name], Path(folder), 20, 0, Path(folder) / "log")  # what the libraries take
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = survive(FORMATS[name], Path(folder), int(count), int(seed), Path(folder) / "log")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(counts | {"memory": after - before}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
