"""Search for the nearest codes by Hamming distance, behind PML's `knn_func`."""

import os
from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from pml_hashing._checks import check_at_least, check_choice
from pml_hashing.search._arguments import to_packed, to_vectors
from pml_hashing.search._held import HeldCodes
from pml_hashing.search._reranking import rerank as rerank_candidates
from pml_hashing.search._searched import Searched, check_k, passed_codes, without_query
from pml_hashing.search.approximate import HNSW, IVF
from pml_hashing.search.store import CodeStore, MemoryStore

Rerank = Literal["asymmetric", "vectors"]


class HammingKNN:
    r"""Nearest neighbours by Hamming distance, exact unless told otherwise.

    It is a `knn_func` of PML: `AccuracyCalculator(knn_func=HammingKNN())` searches the reference
    set of each call, and `InferenceModel(knn_func=HammingKNN(), normalize_embeddings=False)` the
    codes that were added. Neighbours at equal distance come in database order.

    Codes are real or binary, `(n, code_length)`, whose bit is set where they are not negative, or
    packed, uint8, `(n, ceil(code_length / 8))`, on any device. The search runs where the query is:
    on the CPU in faiss, elsewhere as a matrix product of codes of -1 and 1, with the same result.

    With `rerank`, the nearest `num_candidates` by Hamming distance are ordered anew by

    $$d(u, v) = \tfrac{1}{4} \lVert u - v \rVert^2$$

    where $u$ is the real-valued query and $v$ the binary code of the item (`"asymmetric"`), or its
    real-valued code (`"vectors"`, kept in float32 beside the bits). $d$ is the Hamming distance
    where both are binary.

    Args:
        code_length: Number of bits. That of the first codes if `None`, where packed codes count
            eight bits a byte: needed for packed codes of a length that is no multiple of 8.
        index: An approximate index, `IVF()` or `HNSW()`. Exact search if `None`.
        rerank: What candidates are ordered by; their Hamming distance if `None`.
        num_candidates: How many candidates are ordered anew, at least `k`.
        store: Where codes and ids are kept. In memory if `None`.

    Raises:
        ValueError: If a number is less than 1, `rerank` is none of these, or the store holds codes
            of another length.

    Examples:
        >>> import torch
        >>> from pml_hashing.search import HammingKNN
        >>> database_codes = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.5, 2.0]])
        >>> knn = HammingKNN()
        >>> knn.train(database_codes, ids=["cat", "dog", "cow"])
        >>> distances, indices = knn(torch.tensor([[0.1, 0.2, 0.3]]), k=3)
        >>> distances
        tensor([[0, 0, 2]], dtype=torch.int32)
        >>> indices
        tensor([[1, 2, 0]])
        >>> knn.remove(["dog"])
        >>> knn.search(torch.tensor([[0.1, 0.2, 0.3]]), k=2)
        (tensor([[0, 2]], dtype=torch.int32), [['cow', 'cat']])
    """

    def __init__(
        self,
        *,
        code_length: int | None = None,
        index: IVF | HNSW | None = None,
        rerank: Rerank | None = None,
        num_candidates: int = 100,
        store: CodeStore | None = None,
    ) -> None:
        if code_length is not None:
            check_at_least(code_length, 1, "code_length")
        check_choice(rerank, (None, "asymmetric", "vectors"), "rerank")
        check_at_least(num_candidates, 1, "num_candidates")
        self._held = HeldCodes(
            store=MemoryStore() if store is None else store,
            recipe=index,
            code_length=code_length,
            with_vectors=rerank == "vectors",
        )
        self._fixed_length = code_length
        self._recipe, self._rerank, self._num_candidates = index, rerank, num_candidates

    @property
    def code_length(self) -> int | None:
        """Number of bits of the codes held, or `None` as long as it is not known."""
        return self._held.store.code_length

    @property
    def ids(self) -> list[Hashable]:
        """The ids of all codes, in database order: `ids[index]` is that of a neighbour's index."""
        return self._held.store.ids(torch.arange(len(self)))

    def __len__(self) -> int:
        return len(self._held.store)

    def __contains__(self, id_: Hashable) -> bool:
        return bool(self._held.store.rows([id_]) >= 0)

    def __call__(
        self,
        query: Tensor,
        k: int,
        reference: Tensor | None = None,
        ref_includes_query: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the `k` nearest codes of every query, the nearest first.

        Args:
            query: Codes to search for.
            k: Number of neighbours.
            reference: Codes to search in, which are not kept. Those that were added if `None`.
            ref_includes_query: Whether query `i` is item `i` of what is searched. It is then not
                among its own neighbours.

        Returns:
            Distances in bits, int32, or float32 if re-ranked, and indices of database items,
            int64, both `(num_queries, k)` and on the device of `query`. An index counts the codes
            in database order, from 0; `search` returns ids instead.

        Raises:
            TypeError: If codes are no tensor, or packed where they are to be re-ranked.
            ValueError: If there is nothing to search in, fewer than `k` codes, a shape or code
                length is wrong, or a code is NaN or infinite.
        """
        searched = self._held.searched() if reference is None else self._passed(reference)
        packed_query, _ = to_packed(query, "query", searched.code_length)
        vectors = query if self._rerank is None else to_vectors(query, "query")
        check_k(k, searched.count, len(query), query_is_in=ref_includes_query)
        own = int(ref_includes_query)
        wanted = k if self._rerank is None else max(k, self._num_candidates)
        distances, indices = searched.nearest(packed_query, min(wanted + own, searched.count))
        if own:
            distances, indices = without_query(distances, indices)
        if self._rerank is None:
            return distances, indices
        items = searched.vectors if self._rerank == "vectors" else searched.binary_codes
        return rerank_candidates(vectors, indices, items, k)

    def search(self, query: Tensor, k: int) -> tuple[Tensor, list[list[Hashable]]]:
        """Return the `k` nearest codes of every query, by their ids.

        Args:
            query: Codes to search for.
            k: Number of neighbours.

        Returns:
            Distances, `(num_queries, k)`, as of a call, and for each query the ids of its
            neighbours, the nearest first.

        Raises:
            TypeError: If codes are no tensor, or packed where they are to be re-ranked.
            ValueError: If fewer than `k` codes are held, a shape or the code length is wrong, or a
                code is NaN or infinite.
        """
        distances, indices = self(query, k)
        ids = self._held.store.ids(indices.flatten())
        return distances, [ids[start : start + k] for start in range(0, len(ids), k)]

    def range_search(self, query: Tensor, radius: int) -> tuple[list[Tensor], list[list[Hashable]]]:
        """Return all codes within `radius` of every query, exactly, whatever the index.

        Args:
            query: Codes to search for.
            radius: Largest Hamming distance in bits. It is inclusive.

        Returns:
            For each query the distances, int32, on the device of `query`, and the ids of what was
            found, the nearest first and ties in database order. Both are empty where nothing was.

        Raises:
            TypeError: If codes are no tensor.
            ValueError: If no codes are held, a shape or the code length is wrong, a code is NaN or
                infinite, or `radius` is negative.
        """
        code_length = self._held.searched().code_length
        packed_query, _ = to_packed(query, "query", code_length)
        check_at_least(radius, 0, "radius")
        store = self._held.store
        counts, distances, rows = store.within(packed_query, int(min(radius, code_length)))
        sizes, ids = counts.tolist(), iter(store.ids(rows))
        return list(distances.split(sizes)), [list(islice(ids, size)) for size in sizes]

    def train(self, codes: Tensor, ids: Iterable[Hashable] | None = None) -> None:
        """Hold `codes` instead of those held so far.

        Args:
            codes: Codes to hold.
            ids: An id for each, of any hashable type. Integers from 0 if `None`.

        Raises:
            TypeError: If `codes` is no tensor, is packed where vectors are kept, or an id is not
                hashable.
            ValueError: If a shape is wrong, a code is NaN or infinite, or an id comes twice.
        """
        self._held.append(codes, ids, anew=True)

    def add(self, codes: Tensor, ids: Iterable[Hashable] | None = None) -> None:
        """Hold `codes` after those held so far.

        Args:
            codes: Codes to hold.
            ids: A new id for each, of any hashable type. If `None`, integers that count on from
                the largest there was.

        Raises:
            TypeError: If `codes` is no tensor, is packed where vectors are kept, or an id is not
                hashable.
            ValueError: If a shape or the code length is wrong, a code is NaN or infinite, or an id
                comes twice or is held already.
        """
        self._held.append(codes, ids, anew=self.code_length is None)

    def update(self, ids: Iterable[Hashable], codes: Tensor) -> None:
        """Put `codes` in the place of those held under `ids`. Database order stays.

        Raises:
            TypeError: If `codes` is no tensor, or is packed where vectors are kept.
            ValueError: If a shape or the code length is wrong, a code is NaN or infinite, or an id
                is not held or comes twice.
        """
        self._held.replace(ids, codes)

    def remove(self, ids: Iterable[Hashable]) -> None:
        """Forget the codes held under `ids`. The indices of those behind them move up.

        It takes time in proportion to all codes: remove many at once.

        Raises:
            ValueError: If an id is not held or comes twice.
        """
        self._held.remove(ids)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codes, ids and vectors to a safetensors file, atomically.

        Raises:
            TypeError: If an id is neither a string, nor an integer, nor a tuple of these.
            ValueError: If no codes are held.
        """
        self._held.save(path)

    def load(self, path: str | os.PathLike[str], *, memory_map: bool = False) -> None:
        """Hold what a file of `save` or `HashingModel.encode` holds.

        What was held before stays if this fails. An approximate index is not in the file: it is
        built from the codes by the next search.

        Args:
            path: The file.
            memory_map: Leave the codes in the file, and read them from there when they are
                searched: for more of them than memory holds. Changes stay in memory. The file may
                be replaced or removed meanwhile, but never be written into.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such file, is not whole, holds codes of another length, or no
                vectors where they are wanted.
        """
        self._held.load(path, memory_map=memory_map)

    def _passed(self, reference: Tensor) -> Searched:
        packed_codes, code_length = to_packed(reference, "reference", self._fixed_length)
        vectors = reference
        if self._rerank == "vectors":
            vectors = to_vectors(reference, "reference")
        return passed_codes(packed_codes, code_length, vectors, self._recipe)
