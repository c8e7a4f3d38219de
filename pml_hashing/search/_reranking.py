"""Ordering candidates by the distance of real-valued vectors instead of bits."""

from collections.abc import Callable

import torch
from torch import Tensor

# Elements of candidates' vectors held at a time: 64 MiB.
BLOCK_ELEMENTS = 2**24


def rerank(
    query: Tensor, rows: Tensor, vectors: Callable[[Tensor], Tensor], k: int
) -> tuple[Tensor, Tensor]:
    r"""Return distances (float32) and rows of the `k` nearest candidates.

    $$d(u, v) = \tfrac{1}{4} \lVert u - v \rVert^2$$

    which is the Hamming distance where both are -1 and 1. Ties come in database order.

    Args:
        query: Real-valued codes, float32, `(num_queries, code_length)`.
        rows: Candidates of each query, `(num_queries, num_candidates)`.
        vectors: Returns what the given rows, `(n,)`, are compared by, `(n, code_length)`.
        k: Number of neighbours.
    """
    rows = rows.sort(dim=1).values
    block_size = max(1, BLOCK_ELEMENTS // (rows.shape[1] * query.shape[1]))
    found = []
    for queries, candidates in zip(query.split(block_size), rows.split(block_size), strict=True):
        items = vectors(candidates.flatten()).to(query.device)
        differences = items.view(*candidates.shape, -1) - queries[:, None]
        distances = differences.square_().sum(dim=2) / 4
        distances, order = distances.sort(dim=1, stable=True)
        found.append((distances[:, :k], candidates.gather(1, order)[:, :k]))
    distances, ranked = zip(*found, strict=True)
    return torch.cat(distances), torch.cat(ranked)
