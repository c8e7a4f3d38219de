"""The codes that a search object holds: a store, and an approximate index that follows it."""

import os
from collections.abc import Hashable, Iterable

from torch import Tensor

from pml_hashing.search._arguments import to_ids, to_packed, to_vectors
from pml_hashing.search._following import FollowingIndex
from pml_hashing.search._searched import Searched, held_codes
from pml_hashing.search.approximate import HNSW, IVF
from pml_hashing.search.saving import read_content, save_store
from pml_hashing.search.store import CodeStore


class HeldCodes:
    """A store that gets checked codes and ids only, and the index over it, if any.

    Everything is checked before anything changes.

    Args:
        store: Where codes, ids and vectors are kept.
        recipe: An approximate index to build. The first search does, from all codes there are.
        code_length: Number of bits that all codes must have, if fixed.
        with_vectors: Whether the store keeps the real-valued codes too.
    """

    def __init__(
        self,
        *,
        store: CodeStore,
        recipe: IVF | HNSW | None,
        code_length: int | None,
        with_vectors: bool,
    ) -> None:
        if store.code_length is None:
            store.reset(code_length)
        elif code_length is not None:
            _check_length(store.code_length, code_length, "store")
        self.store = store
        self._recipe, self._fixed_length, self._with_vectors = recipe, code_length, with_vectors
        self._index: FollowingIndex | None = None

    def searched(self) -> Searched:
        """Return what is held as something to search in.

        Raises:
            ValueError: If there is nothing.
        """
        self._check_filled()
        if self._recipe is not None and self._index is None:
            self._index = FollowingIndex(self._recipe, self.store.packed_codes())
        return held_codes(self.store, self._index)

    def append(self, codes: Tensor, ids: Iterable[Hashable] | None, *, anew: bool) -> None:
        """Hold `codes` after those held so far, or instead of them."""
        expected = self._fixed_length if anew else self.store.code_length
        packed_codes, code_length = to_packed(codes, "codes", expected)
        vectors = self._vectors(codes)
        checked = None if ids is None else to_ids(ids, len(codes))
        if anew:
            self.store.reset(code_length)
            self._index = None
        elif checked is not None:
            self._check_new(checked)
        self.store.append(packed_codes, checked, vectors)
        if self._index is not None:
            self._index.append(packed_codes)

    def replace(self, ids: Iterable[Hashable], codes: Tensor) -> None:
        """Hold `codes` in the place of those of `ids`."""
        self._check_filled()
        packed_codes, _ = to_packed(codes, "codes", self.store.code_length)
        vectors, rows = self._vectors(codes), self._rows(to_ids(ids, len(codes)))
        self.store.replace(rows, packed_codes, vectors)
        if self._index is not None:
            self._index.replace(rows, packed_codes)

    def remove(self, ids: Iterable[Hashable]) -> None:
        """Forget the codes of `ids`."""
        rows = self._rows(to_ids(ids))
        self.store.remove(rows)
        if self._index is not None:
            self._index.remove(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that is held to a file."""
        self._check_filled()
        save_store(self.store, path, with_vectors=self._with_vectors)

    def load(self, path: str | os.PathLike[str], *, memory_map: bool) -> None:
        """Hold what is in a file instead of what was held so far, in the file or in memory."""
        content = read_content(path)
        if self.store.code_length is not None:
            _check_length(content.code_length, self.store.code_length, path)
        if self._with_vectors and content.vectors is None:
            raise ValueError(f"Expected vectors to re-rank by in `{path}`, got codes only.")
        vectors = content.vectors if self._with_vectors else None
        self.store.reset(content.code_length)
        keep = self.store.adopt if memory_map else self.store.append
        keep(content.packed_codes, content.ids, vectors)
        self._index = None

    def _vectors(self, codes: Tensor) -> Tensor | None:
        return to_vectors(codes, "codes") if self._with_vectors else None

    def _rows(self, ids: list[Hashable]) -> Tensor:
        rows = self.store.rows(ids)
        if (rows < 0).any():
            id_ = ids[int((rows < 0).nonzero()[0])]
            raise ValueError(f"Expected `ids` that are held, got {id_!r}, which is not.")
        return rows

    def _check_new(self, ids: list[Hashable]) -> None:
        held = self.store.rows(ids) >= 0
        if held.any():
            id_ = ids[int(held.nonzero()[0])]
            raise ValueError(
                f"Expected new `ids`, got {id_!r}, which is held: `update` changes it."
            )

    def _check_filled(self) -> None:
        if not len(self.store):
            raise ValueError(
                "Expected codes in the index (from `train`, `add` or `load`) or `reference`, "
                "got an empty index."
            )


def _check_length(found: int | None, expected: int, where: object) -> None:
    if found != expected:
        raise ValueError(f"Expected codes of {expected} bits in `{where}`, got {found} bits.")
