"""What a place for codes has to do: a small interface in ids, and the errors that belong to it."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

Codes: TypeAlias = Tensor | np.ndarray
"""Real, binary or packed codes, as callers have them."""

Value: TypeAlias = str | int | float | bool | None
"""A value in a column of metadata. `None` is that of a code added without one."""

Where: TypeAlias = Mapping[str, Sequence[Value]]
"""A condition: in each of the columns one of the values. Without columns all codes match."""

Fetched: TypeAlias = Literal["packed_codes", "vectors"]


class GoneError(RuntimeError):
    """What was to be read was there, and is not any more."""


class Records(NamedTuple):
    """Codes with all that is kept of them.

    Attributes:
        ids: One for each code: strings, integers and tuples of these.
        packed_codes: uint8, `(n, ceil(code_length / 8))`, on the CPU.
        vectors: float32, `(n, code_length)`, on the CPU, or `None` where none are kept.
        metadata: For each column one value per code.
    """

    ids: list[Hashable]
    packed_codes: Tensor
    vectors: Tensor | None
    metadata: dict[str, list[Value]]


class Neighbors(NamedTuple):
    """The nearest codes of queries, on the device of the queries.

    Attributes:
        distances: int32, `(num_queries, k)`.
        ids: For each query those of its neighbors.
        order: int64, `(num_queries, k)`, numbers that grow with database order.
        values: What was to be fetched of each neighbor, `(num_queries, k, width)`, if anything.
    """

    distances: Tensor
    ids: list[list[Hashable]]
    order: Tensor
    values: Tensor | None


class CodeStore(ABC):
    """A place for codes, each with an id of its own, metadata, and vectors if wanted.

    Implement it to keep codes elsewhere than in memory. `HammingKNN` checks whatever does not
    depend on what is held: shapes, code lengths, types, ids that come twice in one call. A store
    checks the rest, because only it can do so in one step with the change, and raises `id_held`,
    `id_missing` or, by `check_types`, a `TypeError`; nothing has changed then.

    **Database order** is the order of insertion: `replace` leaves a code at its place, and a code
    that is removed and appended again comes last. Everything ties in this order.

    The constructor opens what exists. No method takes or returns all codes or all ids at once.
    """

    @property
    @abstractmethod
    def code_length(self) -> int | None:
        """Number of bits of a code, or `None` as long as it is not known."""

    @property
    @abstractmethod
    def with_vectors(self) -> bool:
        """Whether the real-valued codes are kept beside the bits."""

    @property
    @abstractmethod
    def next_id(self) -> int:
        """The next automatic id: one more than the largest integer id that there ever was."""

    @property
    @abstractmethod
    def columns(self) -> dict[str, type | None]:
        """Columns of metadata and the type of their values, `None` while they hold none."""

    @abstractmethod
    def count(self, where: Where) -> int:
        """Return the number of codes that match."""

    def __len__(self) -> int:
        return self.count({})

    @abstractmethod
    def prepare(self, code_length: int, *, with_vectors: bool, next_id: int = 0) -> None:
        """Expect codes of this length. Nothing that is held is lost.

        Raises:
            ValueError: If codes are held and are of another kind (`other_kind`).
        """

    @abstractmethod
    def append(self, records: Records) -> None:
        """Keep codes after those kept so far. A new column holds `None` for all codes before.

        Args:
            records: What to copy, from any device. With no ids at all, they are the integers from
                `next_id`. A column that is not named holds `None`.

        Raises:
            TypeError: If a value is not of the type of its column.
            ValueError: If an id is held already.
        """

    @abstractmethod
    def replace(self, records: Records) -> None:
        """Put other codes in the place of those of the same ids. Columns not named stay.

        Raises:
            TypeError: If a value is not of the type of its column.
            ValueError: If an id is not held.
        """

    @abstractmethod
    def remove(self, ids: Sequence[Hashable]) -> None:
        """Forget the codes of `ids`.

        Raises:
            ValueError: If an id is not held.
        """

    @abstractmethod
    def clear(self) -> None:
        """Forget everything, the code length too. `HammingKNN` never calls this on its own."""

    @abstractmethod
    def get(self, ids: Sequence[Hashable]) -> Records:
        """Return the codes of `ids`, in the order of `ids`.

        Raises:
            ValueError: If an id is not held.
        """

    @abstractmethod
    def contains(self, id_: Hashable) -> bool:
        """Return whether a code of this id is held."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[Records]:
        """Yield all codes in database order, at most `size` at a time.

        A code that is there from beginning to end comes once, whatever changes meanwhile.
        """

    @abstractmethod
    def nearest(
        self, packed_query: Tensor, k: int, where: Where, *, fetch: Fetched | None = None
    ) -> Neighbors:
        """Return the `k` nearest codes that match, or all that match if these are fewer.

        They are exact, the nearest first, and ties in database order.

        Args:
            packed_query: uint8, on any device.
            k: Number of neighbors, at least 1.
            where: A condition on columns that there are.
            fetch: What of the neighbors is wanted with them.
        """

    @abstractmethod
    def within(
        self, packed_query: Tensor, radius: int, where: Where
    ) -> tuple[list[Tensor], list[list[Hashable]]]:
        """Return distances, int32, and ids of all matching codes within `radius` of each query.

        The radius is inclusive. The nearest come first, and ties in database order.
        """

    def frozen(self) -> AbstractContextManager[object]:
        """Return a context in which all that this thread reads is one state.

        A store that has no such thing leaves it at this: each call then sees a state of its own.
        """
        return nullcontext()

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections. What is held stays, for a store that outlives this."""


def known_length(store: CodeStore) -> int:
    """Return the code length, or raise if there are no codes, as far as that is known at once.

    A store elsewhere takes as long to count as to search: it is asked when nothing was found.
    """
    code_length = store.code_length
    return filled(store) if code_length is None else code_length


def filled(store: CodeStore) -> int:
    """Return the code length, or raise if there are no codes."""
    code_length = store.code_length
    if code_length is None or not len(store):
        raise ValueError(
            "Expected codes in the index (from `train`, `add` or `load`) or `reference`, "
            "got an empty index."
        )
    return code_length


def id_held(id_: Hashable) -> ValueError:
    """Return the error of an id that is there already."""
    return ValueError(f"Expected new `ids`, got {id_!r}, which is held: `update` changes it.")


def id_missing(id_: Hashable) -> ValueError:
    """Return the error of an id that is not there."""
    return ValueError(f"Expected `ids` that are held, got {id_!r}, which is not.")


def other_kind(code_length: int | None, held: int | None, with_vectors: bool) -> ValueError:
    """Return the error of a store that cannot be prepared, for the codes that it holds."""
    return ValueError(
        f"Expected a `store` that is empty or holds codes of {code_length} bits "
        f"{'with' if with_vectors else 'without'} vectors, got one with others, of {held} bits."
    )


def type_of(values: Iterable[Value]) -> type | None:
    """Return the type of the values of a column, `None` if it has none."""
    return next((type(value) for value in values if value is not None), None)


def is_of_type(value: Value, kind: type | None) -> bool:
    """Return whether a column of this type can hold a value: integers count as floats."""
    return None in (value, kind) or type(value) is kind or (kind, type(value)) == (float, int)


def check_types(
    columns: Mapping[str, type | None], metadata: Mapping[str, Sequence[Value]]
) -> dict[str, Sequence[Value]]:
    """Return values as their columns keep them: integers become floats in a column of floats.

    Raises:
        TypeError: If one is not of the type of its column, or those of a new one are of several.
    """
    kept = dict(metadata)
    for name, values in metadata.items():
        kind = columns.get(name) or type_of(values)
        if set(map(type, values)) <= {kind, type(None)}:
            continue
        for value in values:
            if not is_of_type(value, kind):
                raise other_type(name, kind, value)
        kept[name] = [float(value) if type(value) is int else value for value in values]
    return kept


def other_type(name: str, kind: type | None, value: Value) -> TypeError:
    """Return the error of a value that is not of the type of its column."""
    return TypeError(
        f"Expected values of `{name}` of type {getattr(kind, '__name__', None)}, as those before, "
        f"got {value!r}."
    )
