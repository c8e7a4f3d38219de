"""Codes of files by their content, wherever such codes are known."""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple, Protocol

from pml_hashing.collection.files import Content


class Encoded(NamedTuple):
    """The code of a content."""

    content: Content
    code: bytes  # of a row: bits, or float32


class KnownCodes(Protocol):
    """A place where codes of contents are known."""

    def sizes_among(self, sizes: Collection[int]) -> set[int]:
        """Return those of some sizes, in bytes, that a known content has."""
        ...

    def known(self, digests: Collection[bytes]) -> dict[bytes, Encoded]:
        """Return the codes of those of some contents that are known, by their digests."""
        ...


class CodesInMemory:
    """Codes of contents in memory.

    Args:
        encoded: What is known at first.
    """

    def __init__(self, encoded: Iterable[Encoded] = ()) -> None:
        self._codes: dict[bytes, Encoded] = {}
        self._sizes: set[int] = set()
        self.add(encoded)

    def __iter__(self) -> Iterator[Encoded]:
        return iter(self._codes.values())

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._codes

    def add(self, encoded: Iterable[Encoded]) -> None:
        """Know more."""
        for each in encoded:
            self._codes[each.content.digest] = each
            self._sizes.add(each.content.size)

    def sizes_among(self, sizes: Collection[int]) -> set[int]:
        """Return those of some sizes that a known content has."""
        return self._sizes.intersection(sizes)

    def known(self, digests: Collection[bytes]) -> dict[bytes, Encoded]:
        """Return the codes of those of some contents that are known."""
        return {digest: self._codes[digest] for digest in digests if digest in self._codes}
