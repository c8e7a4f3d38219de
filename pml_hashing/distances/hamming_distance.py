"""Hamming distance as a PML distance: exact, or relaxed so that it has a gradient."""

from typing import Any

import torch
from pytorch_metric_learning.distances import BaseDistance
from torch import Tensor

from pml_hashing._checks import check_codes, check_finite
from pml_hashing.codes import at_least_float32, binarize_unchecked


class HammingDistance(BaseDistance):
    r"""Number of differing bits, or its relaxation for codes that are not binary yet.

    $$
    d(u, v) = \tfrac{1}{2} \left(K - u^\top v\right)
    $$

    where $K$ is the code length. With `binarize=True`, $u$ and $v$ are the signs of the codes, zero
    counting as 1, and $d$ is the exact number of differing bits. With `binarize=False` they are the
    codes themselves: $d$ is then differentiable, equals the exact distance where the codes are -1
    and 1, and lies between 0 and $K$ where they are in $[-1, 1]$.

    The result has the dtype of the codes, and float32 for half precision, which cannot hold every
    count of bits; it is computed in that dtype under autocast too.

    Args:
        binarize: Whether to take the sign of the codes first. For search, matching and miners. A
            loss needs `False`: bits have no gradient.
        **kwargs: Arguments of PML's distances. Codes are never normalized and a small distance
            always means similar, so `normalize_embeddings` and `is_inverted` stay `False`.

    Raises:
        ValueError: If `normalize_embeddings` or `is_inverted` is true. When called, if bits are
            taken of codes on the CPU that are NaN or infinite, or 0 and 1 alone. Booleans are bits.

    Note:
        The relaxed distance of a code to itself is $\tfrac{1}{2}(K - \lVert u \rVert^2)$: zero once
        the code is binary, which is what a quantization regularizer asks for.

    Examples:
        >>> import torch
        >>> from pml_hashing.distances import HammingDistance
        >>> codes = torch.tensor([[0.5, 1.0, -1.0], [1.0, -1.0, 0.0]])
        >>> HammingDistance()(codes)
        tensor([[0., 2.],
                [2., 0.]])
        >>> HammingDistance(binarize=False)(codes)
        tensor([[0.3750, 1.7500],
                [1.7500, 0.5000]])
    """

    def __init__(self, *, binarize: bool = True, **kwargs: Any) -> None:
        for name in ("normalize_embeddings", "is_inverted"):
            if kwargs.pop(name, False):
                raise ValueError(f"Expected `{name}` to be False for a Hamming distance, got True.")
        super().__init__(normalize_embeddings=False, is_inverted=False, **kwargs)
        self.binarize = binarize

    def check_shapes(self, query_emb: Tensor, ref_emb: Tensor | None) -> None:
        """Raise unless both are matrices of codes of one length; PML calls this first."""
        check_codes(query_emb, "query_emb")
        if ref_emb is not None:
            check_codes(ref_emb, "ref_emb", query_emb.shape[1])

    def get_norm(self, embeddings: Tensor, dim: int = 1, **kwargs: Any) -> Tensor:
        """Return the norm of each code, of booleans and integers too: PML's statistics ask it."""
        return super().get_norm(at_least_float32(embeddings), dim, **kwargs)

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Return the distances of all pairs, `(num_query, num_ref)`."""
        queries, refs = self._prepare(query_emb, "query_emb"), self._prepare(ref_emb, "ref_emb")
        with torch.autocast(query_emb.device.type, enabled=False):
            return (queries.shape[1] - queries @ refs.T) / 2

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Return the distance of every code to the one in the same row, `(n,)`."""
        if query_emb.ndim != 2 or query_emb.shape != ref_emb.shape:
            raise ValueError(
                "Expected `query_emb` and `ref_emb` of one shape (n, code_length), "
                f"got {tuple(query_emb.shape)} and {tuple(ref_emb.shape)}."
            )
        queries, refs = self._prepare(query_emb, "query_emb"), self._prepare(ref_emb, "ref_emb")
        return (queries.shape[1] - (queries * refs).sum(dim=1)) / 2

    def _prepare(self, codes: Tensor, name: str) -> Tensor:
        """Return the codes, or their signs, in float32 or the wider dtype that they have."""
        if codes.dtype == torch.uint8:
            raise TypeError(
                f"Expected real or binary codes in `{name}`, got packed codes (torch.uint8)."
            )
        if self.binarize and codes.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"Expected `{name}` without gradient, as bits have none: give a loss "
                "HammingDistance(binarize=False), or detach the codes; got codes that require one."
            )
        if not self.binarize:
            return at_least_float32(codes)
        if codes.device.type == "cpu":  # reading values back from a GPU would stop it
            check_finite(codes, name)
        return at_least_float32(binarize_unchecked(codes))
