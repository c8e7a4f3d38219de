"""Search for the nearest codes by Hamming distance, behind PML's `knn_func`."""

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping

import numpy as np
from torch import Tensor

from pml_hashing._checks import check_at_least, check_choice
from pml_hashing.search._arguments import is_id, to_ids, to_packed, to_records, to_vectors, to_where
from pml_hashing.search._ids import Ids
from pml_hashing.search._neighbors import NeighborSearch, Rerank, find_within, indexes_of
from pml_hashing.search._table import Table
from pml_hashing.search.approximate import HNSW, IVF, ApproximateIndex
from pml_hashing.search.files import fill_store, read_table, save_store
from pml_hashing.search.memory_store import MemoryStore, in_memory
from pml_hashing.search.multi_hash import MultiHash
from pml_hashing.search.store import Codes, CodeStore, Records, filled


class HammingKNN:
    r"""Nearest neighbors by Hamming distance, exact unless told otherwise.

    It is a `knn_func` of PML: `AccuracyCalculator(knn_func=HammingKNN())` searches the reference
    set of each call, and `InferenceModel(knn_func=HammingKNN(), normalize_embeddings=False)` the
    codes that were added. Neighbors at equal distance come in database order, which is the order
    of insertion: `update` leaves a code at its place, and one that is removed and added again comes
    last.

    Codes are real or binary, `(n, code_length)`, whose bit is set where they are not negative, or
    packed, uint8, `(n, ceil(code_length / 8))`: tensors on any device, or arrays. The search runs
    where the query is: on the CPU in faiss, elsewhere as a matrix product of codes of -1 and 1,
    with the same result.

    With `rerank`, the nearest `num_candidates` by Hamming distance are ordered anew by

    $$d(u, v) = \tfrac{1}{4} \lVert u - v \rVert^2$$

    where $u$ is the real-valued query and $v$ the binary code of the item (`"asymmetric"`), or its
    real-valued code (`"vectors"`, kept in float32 beside the bits). $d$ is the Hamming distance
    where both are binary.

    Args:
        code_length: Number of bits. That of the first codes if `None`, where packed codes count
            eight bits a byte: needed for packed codes of a length that is no multiple of 8.
        index: An approximate index for neighbors, `IVF()` or `HNSW()`, or `MultiHash()`, an exact
            one for `range_search`. All codes are compared if `None`.
        rerank: What candidates are ordered by; their Hamming distance if `None`.
        num_candidates: How many candidates are ordered anew, at least `k`.
        store: Where codes are kept, with what it holds already. In memory of its own if `None`.

    Raises:
        TypeError: If `index` is none of these, or given with a store that is not in memory.
        ValueError: If a number is less than 1, `rerank` is none of these, or the store holds codes
            of another length, or no vectors where they are wanted.

    Examples:
        >>> import torch
        >>> from pml_hashing.search import HammingKNN
        >>> database_codes = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.5, 2.0]])
        >>> knn = HammingKNN()
        >>> knn.train(database_codes, ids=["cat", "dog", "cow"], legs=[4, 4, 4], farm=[0, 0, 1])
        >>> distances, indices = knn(torch.tensor([[0.1, 0.2, 0.3]]), k=3)
        >>> distances
        tensor([[0, 0, 2]], dtype=torch.int32)
        >>> indices
        tensor([[1, 2, 0]])
        >>> knn.remove(["dog"])
        >>> knn.search(torch.tensor([[0.1, 0.2, 0.3]]), k=2)
        (tensor([[0, 2]], dtype=torch.int32), [['cow', 'cat']])
        >>> knn.search(torch.tensor([[0.1, 0.2, 0.3]]), k=1, where={"legs": 4, "farm": [0, 2]})
        (tensor([[2]], dtype=torch.int32), [['cat']])
    """

    def __init__(
        self,
        *,
        code_length: int | None = None,
        index: IVF | HNSW | MultiHash | None = None,
        rerank: Rerank | None = None,
        num_candidates: int = 100,
        store: CodeStore | None = None,
    ) -> None:
        if code_length is not None:
            check_at_least(code_length, 1, "code_length")
        check_choice(rerank, (None, "asymmetric", "vectors"), "rerank")
        check_at_least(num_candidates, 1, "num_candidates")
        if index is not None and not isinstance(store, MemoryStore | None):
            raise TypeError(
                f"Expected no `index` with a {type(store).__name__}, got {type(index).__name__}: "
                "an index reads its codes from main memory, so that it needs a MemoryStore."
            )
        self._code_length, self._search = code_length, NeighborSearch(rerank, num_candidates)
        self._index, self._range_index = indexes_of(index)
        self._own_store = store is None
        self._store = MemoryStore() if store is None else store
        if self._store.code_length is not None:
            self._check_fits(self._store, code_length, "store")
        elif code_length is not None:
            self._store.prepare(code_length, with_vectors=self._search.with_vectors)

    @property
    def code_length(self) -> int | None:
        """Number of bits of the codes held, or `None` as long as it is not known."""
        return self._store.code_length

    @property
    def ids(self) -> list[Hashable]:
        """The ids of all codes, in database order: `ids[index]` is that of a neighbor's index.

        They become a list. Only for codes in memory.
        """
        return in_memory(self._store).ids

    @property
    def columns(self) -> dict[str, type | None]:
        """The columns of metadata and the types of their values, `None` while they hold none."""
        return self._store.columns

    def __len__(self) -> int:
        return len(self._store)

    def __contains__(self, id_: object) -> bool:
        (id_,) = [id_.item()] if isinstance(id_, np.generic) else [id_]
        return is_id(id_) and self._store.contains(id_)

    def count(self, where: Mapping[str, object] | None = None) -> int:
        """Return the number of codes that match a condition, as of `search`.

        Raises:
            TypeError: If a value cannot be in its column.
            ValueError: If there is no such column.
        """
        return self._store.count(to_where(where, self._store))

    def get(self, ids: Iterable[Hashable]) -> Records:
        """Return the codes held under `ids`, with all that is kept of them, in this order.

        Raises:
            TypeError: If they are no list of ids.
            ValueError: If an id is not held or comes twice.
        """
        return self._store.get(to_ids(ids))

    def batches(self, size: int = 65536) -> Iterator[Records]:
        """Yield all codes in database order, at most `size` at a time.

        Each batch is one state, and a code that is held from beginning to end comes once.

        Raises:
            ValueError: If `size` is less than 1.
        """
        check_at_least(size, 1, "size")
        return self._store.batches(size)

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
            k: Number of neighbors.
            reference: Codes to search in, which are not kept. Those that were added if `None`.
            ref_includes_query: Whether query `i` is item `i` of what is searched. It is then not
                among its own neighbors.

        Returns:
            Distances in bits, int32, or float32 if re-ranked, and indices of database items,
            int64, both `(num_queries, k)` and on the device of `query`. An index counts the codes
            in database order, from 0; `search` returns ids instead.

        Raises:
            TypeError: If codes are no tensor, or packed where they are to be re-ranked, or are
                held elsewhere than in memory, where they have no positions.
            ValueError: If there is nothing to search in, fewer than `k` codes, a shape or code
                length is wrong, a code is NaN or infinite, or `ref_includes_query` is not true.
        """
        store, index = self._store, self._index
        if reference is not None:
            store = self._passed(reference)
            index = None if index is None else ApproximateIndex(index.recipe)
        own, store = int(ref_includes_query), in_memory(store)
        found = self._search.find(store, query, k, {}, index=index, own=own, with_ids=False)
        return found.distances, found.order

    def search(
        self, query: Codes, k: int, where: Mapping[str, object] | None = None
    ) -> tuple[Tensor, list[list[Hashable]]]:
        """Return the `k` nearest codes of every query, by their ids.

        Args:
            query: Codes to search for.
            k: Number of neighbors. There must be as many that match: `count(where)` tells.
            where: For each column named a value, or a list, tuple or set of values, one of which
                the code must have: `{"label": 3, "shop": ["a", "b"]}`. Under a condition the search
                is exact, whatever the index.

        Returns:
            Distances, `(num_queries, k)`, as of a call, and for each query the ids of its
            neighbors, the nearest first.

        Raises:
            TypeError: If codes are no tensor, or packed where they are to be re-ranked, or a value
                cannot be in its column.
            ValueError: If fewer than `k` codes match, there is no such column, a shape or the code
                length is wrong, or a code is NaN or infinite.
        """
        store = self._store
        found = self._search.find(store, query, k, to_where(where, store), index=self._index)
        return found.distances, found.ids

    def range_search(
        self, query: Codes, radius: float, where: Mapping[str, object] | None = None
    ) -> tuple[list[Tensor], list[list[Hashable]]]:
        """Return all codes within `radius` of every query, exactly, whatever the index.

        A `MultiHash` finds them without looking at all codes, up to its `max_radius`.

        Args:
            query: Codes to search for.
            radius: Largest Hamming distance in bits. It is inclusive.
            where: A condition, as of `search`.

        Returns:
            For each query the distances, int32, on the device of `query`, and the ids of what was
            found, the nearest first and ties in database order. Both are empty where nothing was.

        Raises:
            TypeError: If codes are no tensor, or a value cannot be in its column.
            ValueError: If no codes are held, there is no such column, a shape or the code length is
                wrong, a code is NaN or infinite, or `radius` is negative or beyond `max_radius`.
        """
        store = self._store
        where = to_where(where, store)
        return find_within(store, query, radius, where, index=self._range_index)

    def train(
        self, codes: Codes, ids: Iterable[Hashable] | None = None, **metadata: object
    ) -> None:
        """Hold `codes` instead of those held so far.

        A store that was passed must be empty: what it holds may be others' too. Its `clear` empties
        it.

        Args:
            codes: Codes to hold.
            ids: An id for each: strings, integers or tuples of these. Integers from 0 if `None`.
            metadata: Columns, as of `add`.

        Raises:
            TypeError: As `add`.
            ValueError: As `add`, or if the store that was passed is not empty.
        """
        store = self._emptied()
        self._append(store, codes, ids, metadata, expected=self._code_length)
        self._store = store

    def add(self, codes: Codes, ids: Iterable[Hashable] | None = None, **metadata: object) -> None:
        """Hold `codes` after those held so far, in constant time for a code.

        Args:
            codes: Codes to hold.
            ids: A new id for each: strings, integers or tuples of these. If `None`, integers that
                count on from the largest there was.
            metadata: Columns, one value per code each: `add(codes, label=labels, shop=shops)`.
                Strings, integers, floats, booleans or `None`, of one type in a column, as a
                sequence, tensor or array. A code without a value has `None`.

        Raises:
            TypeError: If `codes` is no tensor, is packed where vectors are kept, an id is something
                else, or a value in `metadata` is, or not of the type of its column.
            ValueError: If a shape, a number of values or the code length is wrong, a code is NaN or
                infinite, a name of a column is no identifier, or an id comes twice or is held
                already.
        """
        store = self._store
        self._append(store, codes, ids, metadata, expected=store.code_length)

    def update(self, ids: Iterable[Hashable], codes: Codes, **metadata: object) -> None:
        """Put `codes` in the place of those held under `ids`. Database order stays.

        Args:
            ids: Ids that are held.
            codes: A code for each.
            metadata: Columns, as of `add`. Those that are not named stay as they are.

        Raises:
            TypeError: As `add`.
            ValueError: As `add`, or if an id is not held.
        """
        store = self._store
        expected, with_vectors = filled(store), store.with_vectors
        store.replace(to_records(codes, ids, metadata, expected, with_vectors=with_vectors)[0])

    def remove(self, ids: Iterable[Hashable]) -> None:
        """Forget the codes held under `ids`. The indices of those behind them move up.

        Raises:
            TypeError: If they are no list of ids.
            ValueError: If an id is not held or comes twice.
        """
        self._store.remove(to_ids(ids))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codes, ids, metadata and vectors to a safetensors file, atomically.

        The graph of an `HNSW` index that has been searched is written too, unless codes were
        replaced or removed since it was built.

        Raises:
            ValueError: If no codes are held.
        """
        store = self._store
        filled(store)
        save_store(store, path, self._index)

    def load(self, path: str | os.PathLike[str], *, memory_map: bool = False) -> None:
        """Hold what a file of `save` or `HashingModel.encode` holds.

        What was held before stays if this fails. A store that was passed must be empty. An
        `HNSW` index takes the graph that is in the file, if it was built with the same `num_links`
        and `ef_construction`; else an index is built from the codes by the next search.

        Args:
            path: The file.
            memory_map: Leave codes and ids in the file, and read them from there when they are
                searched: for more of them than memory holds. Changes stay in memory. The file may
                be replaced or removed meanwhile, but never be written into.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such file, is not whole, holds codes of another length, or no
                vectors where they are wanted, or the store that was passed is not empty.
        """
        with_vectors = self._search.with_vectors
        table, graph, _ = read_table(path, memory_map=memory_map, with_vectors=with_vectors)
        self._check_fits(table, self._store.code_length, path)
        store = self._emptied()
        fill_store(store, table)
        if graph is not None and self._index is not None:
            self._index.restore(graph, table)
        self._store = store

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _append(
        self,
        store: CodeStore,
        codes: Codes,
        ids: Iterable[Hashable] | None,
        metadata: Mapping[str, object],
        *,
        expected: int | None,
    ) -> None:
        is_new = store.code_length is None
        with_vectors = self._search.with_vectors if is_new else store.with_vectors
        records, code_length = to_records(codes, ids, metadata, expected, with_vectors=with_vectors)
        store.prepare(code_length, with_vectors=with_vectors)
        store.append(records)

    def _emptied(self) -> CodeStore:
        """Return the store that was passed, if it is empty, or else a new one."""
        if self._own_store:
            return MemoryStore()
        if len(self._store):
            raise ValueError(
                "Expected an empty `store`, as it may be in use elsewhere, got "
                f"{len(self._store)} codes in it: `add` appends to them, `store.clear()` forgets "
                "them."
            )
        return self._store

    def _check_fits(self, held: CodeStore | Table, expected: int | None, where: object) -> None:
        """Raise unless codes are of the length that is expected, with vectors if it takes them."""
        if expected not in (None, held.code_length):
            raise ValueError(
                f"Expected codes of {expected} bits in `{where}`, got {held.code_length} bits."
            )
        if self._search.with_vectors and not held.with_vectors:
            raise ValueError(f"Expected vectors to re-rank by in `{where}`, got codes only.")

    def _passed(self, reference: Tensor) -> MemoryStore:
        """Return a reference, which no copy is made of, as a store for one call."""
        packed_codes, code_length = to_packed(reference, "reference", self._code_length)
        tensors = {"packed_codes": packed_codes if self._index is None else packed_codes.cpu()}
        if self._search.with_vectors:
            tensors["vectors"] = to_vectors(reference, "reference")
        return MemoryStore(Table(code_length, tensors, Ids(range(len(packed_codes)))))
