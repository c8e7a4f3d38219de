"""Pairs of the affinity graph of a batch: near neighbors that share a label, and near ones not."""

from typing import Any

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.miners._base import BaseHashingMiner
from pml_hashing.pairs import IndicesTuple, both_kinds


class AffinityGraphMiner(BaseHashingMiner):
    r"""Pairs every sample with its nearest similar and its nearest dissimilar samples.

    $$
    \{(i, j) : s_{ij} = 1,\ j \in N_k(i)\} \quad \text{and} \quad
    \{(i, j) : s_{ij} = 0,\ j \in M_m(i)\}
    $$

    where $s_{ij}$ is 1 if samples $i$ and $j$ share a label and 0 if not, $N_k(i)$ holds the $k$
    samples similar to $i$ that are nearest to it, and $M_m(i)$ the $m$ dissimilar ones, which are
    the hardest. The first set is the graph of within-class neighbors: a class of several clusters
    is not pulled into one. Of samples at equal distance those that come first in the batch are
    taken. A sample with fewer similar or dissimilar samples gives fewer pairs.

    Args:
        num_neighbors: $k$, similar samples of each anchor. All of them if `None`.
        num_dissimilar: $m$, dissimilar samples of each anchor. All of them if `None`.
        **kwargs: Arguments of PML's miners: `distance`, by which the nearest are found, which is
            the relaxed `HammingDistance(binarize=False)` if not given, and `collect_stats`.

    Raises:
        ValueError: If a number is less than 1.

    Examples:
        >>> import torch
        >>> from pml_hashing.miners import AffinityGraphMiner
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, 0.5], [-1.0, 1.0], [1.0, -1.0]])
        >>> miner = AffinityGraphMiner(num_neighbors=1, num_dissimilar=1)
        >>> anchors, positives, _, negatives = miner(codes, torch.tensor([0, 0, 0, 1]))
        >>> list(zip(anchors.tolist(), positives.tolist()))
        [(0, 1), (1, 0), (2, 0)]
        >>> negatives.tolist()  # of anchors 0 to 3
        [3, 3, 3, 1]
    """

    def __init__(
        self, *, num_neighbors: int | None = None, num_dissimilar: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("num_neighbors", num_neighbors), ("num_dissimilar", num_dissimilar)):
            if value is not None:
                check_at_least(value, 1, name)
        self.num_neighbors = num_neighbors
        self.num_dissimilar = num_dissimilar

    def mine(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
    ) -> IndicesTuple:
        similar, dissimilar = both_kinds(labels, ref_labels)
        distances = self.distance(embeddings, ref_emb)
        nearest_first = distances.argsort(dim=1, stable=True, descending=self.distance.is_inverted)
        return (
            *_first_of_each_row(similar, nearest_first, self.num_neighbors),
            *_first_of_each_row(dissimilar, nearest_first, self.num_dissimilar),
        )


def _first_of_each_row(mask: Tensor, order: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
    """Return row and column of the first `k` true elements of every row of `mask`, in `order`."""
    mask = mask.gather(1, order)
    if k is not None:
        mask = mask & (mask.cumsum(dim=1) <= k)
    return torch.where(mask)[0], order[mask]
