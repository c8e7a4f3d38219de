"""FastHash: bits inferred from similarities by graph cuts, then learned by boosted trees."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import RandomState
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.ensemble import HistGradientBoostingClassifier

from pml_hashing._checks import check_integer, check_positive
from pml_hashing.baselines._base import BaseShallowHasher, signs
from pml_hashing.baselines._residue import SimilarityResidue


class FastHash(BaseShallowHasher):
    r"""Fast supervised hashing with decision trees.

    $$
    \min \Bigl\lVert K S - \sum_{q=1}^{K} b_q b_q^\top \Bigr\rVert^2, \qquad
    b_q = h_q(X) \in \{-1, 1\}^n
    $$

    where $S_{ij}$ is 1 if samples $i$ and $j$ share a label, else -1, and each $h_q$ is a
    committee of boosted trees. One bit after the other is fitted to the residue
    $R = K S - \sum_{q < p} b_q b_q^\top$, in two steps:

    1. *Inference*: $\max_b b^\top R\, b$ over $b \in \{-1, 1\}^n$, block by block. In a block of
       samples that share a label no entry of $R$ is negative, so that the best bits of the block,
       given all others, are a minimum cut: they are found exactly.
    2. *Learning*: trees are boosted to predict $b$ from the features. What they say of the samples
       is the bit $b_p$ of the next residue, so that later bits make up for their errors.

    How sure this is: the two steps, the cuts and the trees are the paper's (abstract); the residue
    and the blocks are from memory of it; to start from the signs of the first eigenvector of
    $R$ is our choice. Trees are boosted by scikit-learn's `HistGradientBoostingClassifier`, which
    bins features as the paper does, where the paper has AdaBoost: it is twice as fast as
    `AdaBoostClassifier` and no worse on features of networks.

    Args:
        code_length: Number of bits $K$.
        num_trees: Number of trees per bit. The paper, as we remember it, has 200.
        max_depth: Of a tree. A leaf has at least 20 samples, scikit-learn's default.
        learning_rate: Of boosting.
        sweeps: Number of times that all blocks are visited.
        block_size: Most samples of a block. The memory of a cut grows with its square.
        random_state: Of the first guess of the eigenvectors.

    Attributes:
        estimators_: One classifier per bit, of classes -1 and 1.

    Examples:
        >>> import numpy as np
        >>> from pml_hashing.baselines import FastHash
        >>> features = np.repeat([[0.0], [5.0]], 20, axis=0)
        >>> hasher = FastHash(code_length=1, num_trees=5, random_state=0)
        >>> near_a, near_b = hasher.fit(features, features[:, 0]).transform([[0.2], [4.8]])
        >>> bool((near_a != near_b).all())
        True

    References:
        Lin et al., Fast Supervised Hashing with Decision Trees for High-Dimensional Data,
        CVPR 2014.
    """

    def __init__(
        self,
        code_length: int = 32,
        *,
        num_trees: int = 100,
        max_depth: int = 4,
        learning_rate: float = 0.3,
        sweeps: int = 2,
        block_size: int = 500,
        random_state: int | RandomState | None = None,
    ) -> None:
        self.code_length = code_length
        self.num_trees = num_trees
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.sweeps = sweeps
        self.block_size = block_size
        self.random_state = random_state

    def _fit(self, features: np.ndarray, labels: np.ndarray, random_state: RandomState) -> None:
        for name in ("num_trees", "max_depth", "sweeps", "block_size"):
            check_integer(getattr(self, name), 1, name)
        check_positive(self.learning_rate, "learning_rate")
        features = features.astype(np.float64)  # once, and not for each bit
        residue = SimilarityResidue(labels, self.code_length)
        blocks = list(similar_blocks(labels, self.block_size))
        self.estimators_ = []
        for _ in range(self.code_length):
            bit = spectral_bit(residue, random_state)
            for block in blocks * self.sweeps:
                bit[block] = best_block(bit, residue, block)
            trees = self._boost(features, bit, random_state.randint(2**31 - 1))
            residue.subtract(trees.predict(features))
            self.estimators_.append(trees)

    def _boost(
        self, features: np.ndarray, bit: np.ndarray, seed: int
    ) -> HistGradientBoostingClassifier:
        options: Any = {"max_iter": self.num_trees, "early_stopping": False, "random_state": seed}
        options |= {"learning_rate": self.learning_rate, "max_depth": self.max_depth}
        return HistGradientBoostingClassifier(**options).fit(features, bit)

    def _codes(self, features: np.ndarray) -> np.ndarray:
        features = features.astype(np.float64)
        return np.column_stack([trees.predict(features) for trees in self.estimators_])


def similar_blocks(labels: np.ndarray, block_size: int) -> Iterator[np.ndarray]:
    """Yield samples that all share a label, and each sample without any alone.

    Args:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        block_size: Most samples of a block.
    """
    single = labels.ndim == 1
    for c in range(labels.max() + 1 if single else labels.shape[1]):
        members = np.flatnonzero(labels == c if single else labels[:, c])
        yield from np.array_split(members, -(-len(members) // block_size)) if len(members) else ()
    if not single:
        yield from np.flatnonzero(~labels.any(axis=1))[:, None]


def spectral_bit(residue: SimilarityResidue, random_state: RandomState) -> np.ndarray:
    """Return the signs of the residue's first eigenvector, -1.0 and 1.0, `(n,)`."""
    n = len(residue)
    operator: Any = LinearOperator((n, n), matvec=residue.times, dtype=float)  # pyright: ignore
    options: Any = {"tol": 1e-3, "v0": random_state.standard_normal(n)}  # only a start
    _, vectors = eigsh(operator, k=1, which="LA", **options)
    return signs(vectors[:, 0])


def best_block(bit: np.ndarray, residue: SimilarityResidue, block: np.ndarray) -> np.ndarray:
    r"""Return the bits of a block that maximize $b^\top R\, b$, given those of all other samples.

    Args:
        bit: Bits $b$ of all samples, -1.0 and 1.0, `(n,)`.
        residue: The matrix $R$.
        block: Places of samples with no negative residue among them.
    """
    coupling = residue.block(block)
    pull = residue.times(bit, block) - coupling @ bit[block]  # of the samples outside
    np.fill_diagonal(coupling, 0)
    return minimum_cut(np.rint(coupling).astype(np.int64), np.rint(pull).astype(np.int64))


def minimum_cut(coupling: np.ndarray, pull: np.ndarray) -> np.ndarray:
    r"""Return the bits that maximize $b^\top W b + 2\, b^\top f$.

    Two bits that differ lose $4 W_{ij}$, and a bit against its pull $4 \lvert f_i \rvert$: the
    least loss is a minimum cut between a source, on the side of 1, and a sink.

    Args:
        coupling: The matrix $W$, symmetric, not negative, with a zero diagonal, integers `(m, m)`.
        pull: The vector $f$, integers `(m,)`.

    Returns:
        Bits, -1.0 and 1.0, `(m,)`.
    """
    m = len(pull)
    # A pull stronger than all neighbors together decides: more of it would only overflow.
    strongest = coupling.sum(axis=1) + 1
    pull = pull.clip(-strongest, strongest)
    source, sink = m, m + 1
    capacity = np.zeros((m + 2, m + 2), dtype=np.int32)
    capacity[:m, :m] = coupling
    capacity[source, :m] = pull.clip(min=0)
    capacity[:m, sink] = (-pull).clip(min=0)
    graph = csr_matrix(capacity)
    left = graph - maximum_flow(graph, source, sink).flow
    reached = breadth_first_order(left, source, return_predecessors=False)
    bits = np.full(m + 2, -1.0)
    bits[reached] = 1
    return bits[:m]
