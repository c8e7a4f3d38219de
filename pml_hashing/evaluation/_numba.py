"""The loop over all pairs, compiled. Imported only where numba is installed, and pays."""

from contextlib import suppress
from typing import Any

import numba  # pyright: ignore[reportMissingImports]
import numpy as np
from numba.extending import intrinsic  # pyright: ignore[reportMissingImports]

TILE = 2048  # items whose distances are held: in the first cache
LONGEST_CODE = 255  # of which the distances of two queries fit into 16 bits


def _popcount(_: Any, word: Any) -> Any:
    """Compile a call with a word to the processor's instruction that counts its ones."""
    return word(word), lambda context, builder, signature, words: builder.ctpop(words[0])


popcount: Any = intrinsic(_popcount)


@numba.njit(nogil=True)
def tally(
    queries: np.ndarray, items: np.ndarray, start: int, stop: int, scale: int, table: np.ndarray
) -> None:
    """Count some items by $d_1 + s d_2$, the distances to two queries.

    Args:
        queries: The two queries, `(2, num_words)`.
        items: All items, `(num_words, num_items)`.
        start: The first item that is counted.
        stop: The item after the last.
        scale: $s$, 0 to count by the first distance alone.
        table: The counters, which are set.
    """
    table[:] = 0
    keys, s = np.empty(TILE, np.uint16), np.uint64(scale)
    for low in range(start, stop, TILE):
        high = min(low + TILE, stop)
        keys[:] = 0
        for word in range(len(items)):
            a, b, row = queries[0, word], queries[1, word], items[word][low:high]
            for i in range(len(row)):
                keys[i] += popcount(a ^ row[i]) + s * popcount(b ^ row[i])
        for key in keys[: high - low]:
            table[key] += np.uint32(1)


def count_all(
    queries: np.ndarray, items: np.ndarray, first: np.ndarray, last: np.ndarray, counts: np.ndarray
) -> None:
    """Add to `counts` how many items are at each distance of each query, and how many relevant.

    Two queries share a table with a counter for each pair of distances: that is half as many steps,
    of which fewer wait for another at the same counter.

    Args:
        queries: Packed codes, uint64 `(num_queries, num_words)`.
        items: Packed codes, uint64 `(num_words, num_items)`.
        first: Of each query, where its relevant items begin.
        last: Where they end.
        counts: Counters of all and of relevant items, `(num_queries, num_distances, 2)`.
    """
    size, num_items = counts.shape[1], items.shape[1]
    joint, table = np.empty(size * size, np.uint32), np.empty(size, np.uint32)
    pair = np.empty((2, len(items)), np.uint64)
    for query in range(len(queries)):
        pair[0], pair[1] = queries[query], queries[min(query + 1, len(queries) - 1)]
        if query % 2 == 0:
            tally(pair, items, 0, num_items, size, joint)
            for distance in range(size):
                counts[query, distance, 0] += joint[distance::size].sum()
                if query + 1 < len(queries):
                    row = joint[distance * size : (distance + 1) * size]
                    counts[query + 1, distance, 0] += row.sum()
        tally(pair, items, first[query], last[query], 0, table)
        counts[query, :, 1] += table


compiled = numba.njit(nogil=True)(count_all)
with suppress(RuntimeError):  # where no folder may be written
    compiled.enable_caching()


def count(
    queries: np.ndarray, items: np.ndarray, first: np.ndarray, last: np.ndarray, counts: np.ndarray
) -> None:
    """Do what `count_all` does with codes that are packed row by row, in whole words."""
    words = np.ascontiguousarray(items.view(np.uint64).T)
    compiled(queries.view(np.uint64), words, first, last, counts)
