"""Whoever reads a file while others replace it reads the one or the other, whole."""

import multiprocessing
import time

import pytest
import torch

from pml_hashing.search import HammingKNN
from pml_hashing.trainers.checkpoints import read_checkpoint, write_checkpoint

SECONDS = 0.4  # of the CPU, while the other process writes


def index(count):
    knn = HammingKNN()
    knn.train(torch.ones(count, 64))
    return knn


def save_indexes(path, stopped):
    small, large = index(10), index(20_000)
    while not stopped.is_set():
        small.save(path)
        large.save(path)


def load_index(path):
    knn = HammingKNN()
    knn.load(path)
    return len(knn)


def save_checkpoints(path, stopped):
    while not stopped.is_set():
        write_checkpoint(path, {"a": torch.zeros(10)})
        write_checkpoint(path, {"a": torch.zeros(20_000)})


def load_checkpoint(path):
    return len(read_checkpoint(path)["a"])


@pytest.mark.parametrize(
    ("save", "load"), [(save_indexes, load_index), (save_checkpoints, load_checkpoint)]
)
def test_a_file_that_is_replaced_while_it_is_read_is_whole(tmp_path, save, load):
    context = multiprocessing.get_context("fork")
    stopped, path, found = context.Event(), tmp_path / "file", []
    writer = context.Process(target=save, args=(path, stopped), daemon=True)
    writer.start()
    while not path.exists():
        time.sleep(0.01)
    end = time.process_time() + SECONDS
    while time.process_time() < end or set(found) != {10, 20_000}:
        found.append(load(path))
    stopped.set()
    writer.join()
    assert writer.exitcode == 0
