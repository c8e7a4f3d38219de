"""Exact search by matrix products of -1 and 1, for devices on which faiss has no binary index."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pml_hashing.codes import unpack

# Distances formed at a time: a block of queries by a block of the database.
BLOCK_DISTANCES = 2**25
MIN_DATABASE_BLOCK = 2**16
# Half precision holds every integer up to 2048, and 2 * code_length is formed.
MAX_HALF_CODE_LENGTH = 1024


def nearest(query: Tensor, database: Tensor, code_length: int, k: int) -> tuple[Tensor, Tensor]:
    """Return distances (int32) and rows (int64) of the `k` nearest codes, as `_exact.nearest`."""
    block_size = min(len(database), max(MIN_DATABASE_BLOCK, 4 * k))
    found = []
    for queries in query.split(max(1, BLOCK_DISTANCES // block_size)):
        best = None
        for start, distances in _distances(queries, database, code_length, block_size):
            block = _smallest(distances, min(k, distances.shape[1]))
            block = (block[0], block[1] + start)
            best = block if best is None else _merge(best, block, k)
        found.append(best)
    distances, rows = zip(*found, strict=True)
    return torch.cat(distances), torch.cat(rows)


def within(
    query: Tensor, database: Tensor, code_length: int, radius: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of codes within `radius`, distances and rows, as `_exact.within`."""
    block_size = min(len(database), MIN_DATABASE_BLOCK)
    found, first = [], 0
    for queries in query.split(max(1, BLOCK_DISTANCES // block_size)):
        for start, distances in _distances(queries, database, code_length, block_size):
            near, rows = (distances <= radius).nonzero(as_tuple=True)
            found.append((near + first, distances[near, rows], rows + start))
        first += len(queries)
    near, distances, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    # Blocks of the database came in order, so that rows are in order within a query.
    order = (near * (code_length + 1) + distances).argsort(stable=True)
    return near.bincount(minlength=len(query)), distances[order], rows[order]


def _distances(
    query: Tensor, database: Tensor, code_length: int, block_size: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row of each block of the database and its distances, int32."""
    half = query.device.type == "cuda" and code_length <= MAX_HALF_CODE_LENGTH
    dtype = torch.float16 if half else torch.float32
    signs = unpack(query, code_length, dtype)
    for start in range(0, len(database), block_size):
        block = unpack(database[start : start + block_size], code_length, dtype)
        with torch.autocast(query.device.type, enabled=False):  # bf16 cannot count past 256
            inner = signs @ block.T
        yield start, inner.neg_().add_(code_length).div_(2).int()


def _smallest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` smallest distances of each row and their columns; ties in column order.

    `torch.topk` orders ties at random, so it gets keys without ties: distance first, then column.
    """
    size = distances.shape[1]
    keys = distances.long() if (int(distances.max()) + 1) * size >= 2**31 else distances
    keys = keys * size + torch.arange(size, device=keys.device, dtype=keys.dtype)
    keys = keys.topk(k, largest=False).values
    return (keys // size).int(), (keys % size).long()


def _merge(
    best: tuple[Tensor, Tensor], block: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """Return the `k` nearest of two sets of neighbours, the first from earlier in the database."""
    distances, rows = (torch.cat(parts, dim=1) for parts in zip(best, block, strict=True))
    distances, order = distances.sort(dim=1, stable=True)
    return distances[:, :k].contiguous(), rows.gather(1, order[:, :k])
