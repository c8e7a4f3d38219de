"""What a bit is fitted to: the similarities that the bits before it leave unexplained."""

import numpy as np
from scipy import sparse


class SimilarityResidue:
    r"""The residue that KSH and FastHash fit their next bit to.

    $$
    R = K S - \sum_{q < p} b_q b_q^\top, \qquad S_{ij} = 1 \text{ if } i \sim j, \text{ else } -1
    $$

    $S$ acts through sums over the $d$ distinct labels: no product takes more than `(n, width)`
    numbers, and the $d \times d$ matrix of similar labels is sparse.

    Args:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        code_length: The number of bits $K$.
    """

    def __init__(self, labels: np.ndarray, code_length: int) -> None:
        groups, inverse = np.unique(labels, axis=0, return_inverse=True)
        self._group = inverse.reshape(-1)  # numpy 2.0 returns a column
        places = np.arange(len(labels)), self._group
        self._members = sparse.csr_matrix((np.ones(len(labels)), places))
        rows = (
            sparse.csr_matrix(groups, dtype=float) if groups.ndim == 2 else sparse.eye(len(groups))
        )
        self._similar = sparse.csr_matrix(rows @ rows.T > 0, dtype=float)
        self._bits = np.empty((len(labels), 0))
        self.code_length = code_length

    def __len__(self) -> int:
        return len(self._group)

    def subtract(self, bit: np.ndarray) -> None:
        """Subtract what `bit` explains, -1 and 1, `(n,)`: later bits fit the rest."""
        self._bits = np.column_stack([self._bits, bit])

    def times(self, values: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the product of some rows of $R$ with `values`, `(n,)` or `(n, width)`."""
        similar = (self._similar @ (self._members.T @ values))[self._group[rows]]
        explained = self._bits[rows] @ (self._bits.T @ values)
        return self.code_length * (2 * similar - values.sum(axis=0)) - explained

    def block(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows and columns of $R$ at `rows`, `(len(rows), len(rows))`."""
        group, bits = self._group[rows], self._bits[rows]
        similar = self._similar[group][:, group].toarray()
        return self.code_length * (2 * similar - 1) - bits @ bits.T
