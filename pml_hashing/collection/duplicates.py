"""Near-duplicates: groups of images whose codes are close, and which file of each to keep."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol, overload

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pml_hashing._files import write_atomically
from pml_hashing.codes import hamming_distance
from pml_hashing.collection.files import Content
from pml_hashing.collection.state import CodedImages, DistinctCodes, as_bytes
from pml_hashing.search import HammingKNN

MAX_FOUND = 2**24  # neighbors that a block of queries can find, at most
BLOCK = 1024  # queries
MANY_LINKS = 2**20  # are joined at a time: joining looks at all codes


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are linked by steps of at most the radius.

    Attributes:
        names: The images: the one to keep first, then by distance to it and by name.
        distances: Of each to the first, in bits. In a chain of images it may exceed the radius.
        contents: What is in each file.
    """

    names: list[str]
    distances: list[int]
    contents: Sequence[Content]

    @property
    def keep(self) -> str:
        """The one to keep: of most pixels, then of most bytes, then the first by name."""
        return self.names[0]

    @property
    def extra(self) -> list[str]:
        """All others."""
        return self.names[1:]

    def __len__(self) -> int:
        return len(self.names)


class DuplicateGroups(Sequence[DuplicateGroup]):
    """Groups of near-duplicates, the largest first and then by the name that is kept.

    Args:
        groups: The groups.
    """

    def __init__(self, groups: Sequence[DuplicateGroup]) -> None:
        self._groups = sorted(groups, key=lambda group: (-len(group), group.keep))

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> DuplicateGroup: ...

    @overload
    def __getitem__(self, index: slice) -> list[DuplicateGroup]: ...

    def __getitem__(self, index: int | slice) -> DuplicateGroup | list[DuplicateGroup]:
        return self._groups[index]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per image: its group, name, whether to keep it, distance, size.

        Raises:
            OSError: If it cannot be written.
        """
        write_atomically(path, self._write)

    def _write(self, path: Path) -> None:
        # Names of files are bytes: those that are no UTF-8 are written as they are.
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for number, group in enumerate(self._groups):
                rows = zip(group.names, group.distances, group.contents, strict=True)
                for name, distance, content in rows:
                    keep = "yes" if name == group.keep else "no"
                    sizes = content.width, content.height, content.size
                    writer.writerow((number, name, keep, distance, *sizes))


COLUMNS = ("group", "path", "keep", "distance", "width", "height", "bytes")


class CodesOfImages(Protocol):
    """Where images and their codes are, as a `State` has them."""

    def distinct_codes(self) -> DistinctCodes:
        """Return all codes, each once."""
        ...

    def with_codes(self, codes: np.ndarray) -> CodedImages:
        """Return the images that have one of some packed codes, each given once."""
        ...


def find_duplicates(images: CodesOfImages, code_length: int, radius: int) -> list[DuplicateGroup]:
    """Return the groups of images that are linked by distances of at most `radius`.

    All codes are in memory, each once; of the images, only those of the groups.

    Args:
        images: Where they are.
        code_length: Number of bits.
        radius: In bits, inclusive.
    """
    codes, counts = images.distinct_codes()
    if not len(codes):
        return []
    group_of_code = _components(codes, code_length, radius)
    is_shared = np.bincount(group_of_code, weights=counts)[group_of_code] > 1
    codes, group_of_code = codes[is_shared], group_of_code[is_shared]
    if not len(codes):
        return []
    found = images.with_codes(codes)
    group_of = group_of_code[np.searchsorted(as_bytes(codes), as_bytes(found.codes))]
    order = np.argsort(group_of, kind="stable")
    ends = np.flatnonzero(np.diff(group_of[order], append=-1)) + 1
    return [_to_group(rows, found) for rows in np.split(order, ends[:-1])]


def _components(codes: np.ndarray, code_length: int, radius: int) -> np.ndarray:
    """Return the number of the group of each of the distinct codes."""
    knn = HammingKNN(code_length=code_length)
    queries = torch.from_numpy(codes)
    knn.train(queries)
    group_of, waiting, num_waiting = np.arange(len(codes)), list[np.ndarray](), 0
    for links in _links(knn, queries, radius):
        waiting.append(links)
        num_waiting += links.shape[1]
        if num_waiting > MANY_LINKS:
            group_of = _joined(group_of, *np.concatenate(waiting, axis=1))
            waiting, num_waiting = [], 0
    return _joined(group_of, *np.concatenate(waiting, axis=1)) if waiting else group_of


def _links(knn: HammingKNN, queries: torch.Tensor, radius: int) -> Iterator[np.ndarray]:
    """Yield pairs of places of codes that are near, `(2, n)`, block by block, each pair once."""
    size = min(BLOCK, max(1, MAX_FOUND // len(queries)))
    for start in range(0, len(queries), size):
        _, found = knn.range_search(queries[start : start + size], radius)
        counts = np.array([len(row) for row in found])
        places = np.fromiter(chain.from_iterable(found), np.int64, counts.sum())
        own = np.repeat(np.arange(start, start + len(found)), counts)
        yield np.stack([own, places])[:, own < places]


def _joined(group_of: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the numbers of groups after some pairs were linked."""
    pairs = group_of[first], group_of[second]
    numbers, linked = np.unique(np.concatenate(pairs), return_inverse=True)
    linked = linked.astype(np.int32)  # as SciPy's graphs before 1.12 need them
    half, shape = len(first), (len(numbers), len(numbers))
    graph = coo_array((np.ones(half, bool), (linked[:half], linked[half:])), shape=shape)
    _, component = connected_components(graph, directed=False)
    merged = np.arange(len(group_of))
    least = np.full(len(numbers), len(group_of))
    np.minimum.at(least, component, numbers)
    merged[numbers] = least[component]
    return merged[group_of]


def _to_group(rows: np.ndarray, images: CodedImages) -> DuplicateGroup:
    names, packed_codes, contents = images

    def rank(row: int) -> tuple[int, int, str]:
        content = contents[row]
        return -content.width * content.height, -content.size, names[row]

    keep = min(rows.tolist(), key=rank)
    kept, others = (torch.from_numpy(packed_codes[of]) for of in ([keep], rows))
    distances = dict(zip(rows.tolist(), hamming_distance(kept, others)[0].tolist(), strict=True))
    order = sorted(rows.tolist(), key=lambda row: (row != keep, distances[row], names[row]))
    return DuplicateGroup(
        [names[row] for row in order],
        [distances[row] for row in order],
        [contents[row] for row in order],
    )
