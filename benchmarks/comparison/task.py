"""What every method gets, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from comparison.protocols import Split
from comparison.sources import Data
from pml_hashing.models.hash_layer import Head


@dataclass(frozen=True)
class Budget:
    """What is the same for all networks: AdamW, and a rate that falls to 0 along a cosine."""

    epochs: int = 12
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-3
    head: Head = "mlp"
    drop_rate: float = 0.2


class Task(NamedTuple):
    """What one method has to learn from, and with how much."""

    data: Data
    split: Split
    code_length: int
    seed: int
    budget: Budget
    device: str


Encoder = Callable[[Tensor], Tensor]
"""Codes of the images at some places: packed or real ones."""


class Learned(NamedTuple):
    """How a trained method encodes queries and database."""

    query: Encoder
    database: Encoder


Method = Callable[[Task], Learned]
