"""Images on more machines than one: parts by torchrun, batches by a Ray cluster of two nodes."""

import importlib
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pml_hashing.models import HashingModel
from pml_hashing.search import HammingKNN

EXAMPLES = Path(__file__).parents[1] / "examples"
NUM_IMAGES = 150


@pytest.fixture
def paths(tmp_path):
    """A model, and images of which one cannot be read."""
    torch.manual_seed(0)
    HashingModel("test_resnet", 16, img_size=32).save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    for place in range(NUM_IMAGES):
        path = tmp_path / "images" / f"{place % 3}" / f"{place:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(path)
    (tmp_path / "images" / "1" / "broken.png").write_bytes(b"none")
    return tmp_path


def expected(paths):
    """Return the codes of all images by plain `encode`, by name."""
    images = sorted((paths / "images").glob("*/[0-9]*.png"))
    codes = HashingModel.from_pretrained(paths / "model").encode(images, progress=False)
    names = [path.relative_to(paths / "images").as_posix() for path in images]
    return dict(zip(names, codes.numpy().tolist(), strict=True))


def held(path):
    knn = HammingKNN()
    knn.load(path)
    return dict(zip(knn.ids, knn.get(knn.ids).packed_codes.numpy().tolist(), strict=True))


def run_part(paths, rank):
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"}
    command = [sys.executable, str(EXAMPLES / "encode_shards.py")]
    places = [str(paths / name) for name in ("model", "images", "codes")]
    done = subprocess.run(
        command + places, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_parts(paths):
    assert " codes in " not in run_part(paths, 0)
    assert f"{NUM_IMAGES} codes in" in run_part(paths, 1)
    assert held(paths / "codes" / "codes.safetensors") == expected(paths)
    assert list(held(paths / "codes" / "codes.safetensors")) == list(expected(paths))


def test_fewer_images_than_processes(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    HashingModel("test_resnet", 16, img_size=32).save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "a.png")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipe = importlib.import_module("encode_shards")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        recipe.main(tmp_path / "model", tmp_path / "images", tmp_path / "codes")
    assert list(held(tmp_path / "codes" / "codes.safetensors")) == ["a.png"]
    assert "1 codes in" in capsys.readouterr().out


@pytest.fixture
def collect(monkeypatch):
    """The part of the recipe that needs no Ray."""
    pytest.importorskip("clickhouse_connect", reason="the extra [clickhouse] is not installed")
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("ray_encode").collect
    del sys.modules["ray_encode"]


def test_what_ray_has_written_twice_is_taken_once(collect, tmp_path):
    pa, pq = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")

    def write(name, ids, **columns):
        table = {"id": ids, "code": [id_.encode() for id_ in ids]} | columns
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")

    write("0", ["b", "a", "b"])
    write("1", ["a", "c"], more=[1, 2])
    pq.write_table(pa.table({"id": pa.nulls(0), "code": pa.nulls(0)}), tmp_path / "2.parquet")
    (tmp_path / "3.parquet").write_bytes(b"PAR1")
    assert collect(tmp_path, str(tmp_path / "codes")) == 3
    assert held(tmp_path / "codes") == {name: [ord(name)] for name in "abc"}
    path = tmp_path / "4.parquet"
    write("4", [f"{number:05d}" for number in range(999)])
    content = bytearray(path.read_bytes())
    content[10:40] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(OSError, match="hrift") as caught:
        collect(tmp_path, str(tmp_path / "codes"))
    assert "4.parquet: if it is damaged, delete it" in caught.value.__notes__[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_a_ray_cluster_of_two_nodes(paths, tmp_path_factory, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    pytest.importorskip("ray.data")
    cluster_utils = importlib.import_module("ray.cluster_utils")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES), str(EXAMPLES.parent)]))
    recipe = importlib.import_module("ray_encode")
    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False)
        parquet = paths / "parquet"
        recipe.encode(paths / "model", paths / "images", parquet)
        written = sorted(parquet.glob("*.parquet"))
        assert sum(table.num_rows for table in recipe.done(parquet)) == NUM_IMAGES
        written[0].write_bytes(written[0].read_bytes()[:-9])  # as a kill may leave it
        assert sum(table.num_rows for table in recipe.done(parquet)) < NUM_IMAGES
        recipe.encode(paths / "model", paths / "images", parquet)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert recipe.collect(parquet, str(paths / "codes.safetensors")) == NUM_IMAGES
    assert held(paths / "codes.safetensors") == expected(paths)
    shutil.rmtree(paths / "images")
