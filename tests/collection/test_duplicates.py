"""Groups of near-duplicates against all pairs, one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_hashing.codes import hamming_distance, pack
from pml_hashing.collection import duplicates
from pml_hashing.collection.files import Content
from pml_hashing.collection.state import CodedImages, DistinctCodes


def reference(names, codes, contents, radius):
    """Return the groups by a search from image to image."""
    distances = hamming_distance(codes, codes).tolist()
    left, groups = set(range(len(names))), []
    while left:
        group, waiting = set(), [min(left)]
        while waiting:
            row = waiting.pop()
            group.add(row)
            waiting += [o for o in left if distances[row][o] <= radius and o not in group]
        left -= group
        if len(group) > 1:
            pixels = {r: contents[r].width * contents[r].height for r in group}
            keep = min(group, key=lambda r: (-pixels[r], -contents[r].size, r))
            order = sorted(group, key=lambda r: (r != keep, distances[keep][r], r))
            groups.append([(names[r], distances[keep][r]) for r in order])
    return sorted(groups)


class Held:
    """Images with their codes, as a state has them."""

    def __init__(self, names, codes, contents):
        self.names, self.codes, self.contents = names, codes, contents

    def distinct_codes(self):
        return DistinctCodes(*np.unique(self.codes, axis=0, return_counts=True))

    def with_codes(self, codes):
        rows = np.flatnonzero((self.codes[:, None] == codes).all(axis=2).any(axis=1))
        parts = ([part[row] for row in rows] for part in (self.names, self.contents))
        names, contents = parts
        return CodedImages(names, self.codes[rows], contents)


def found(names, codes, contents, radius, code_length):
    held = Held(names, codes.numpy(), contents)
    groups = duplicates.find_duplicates(held, code_length, radius)
    return sorted(list(zip(group.names, group.distances, strict=True)) for group in groups)


@given(
    rows=st.lists(st.integers(0, 2**12 - 1), max_size=30),
    radius=st.integers(0, 12),
    seed=st.integers(0, 99),
    block=st.integers(1, 9),
)
def test_groups_are_those_of_all_pairs(rows, radius, seed, block):
    bits = (np.array(rows, np.int64).reshape(-1, 1) >> np.arange(12)) & 1
    codes = pack(torch.from_numpy(bits.astype(bool))) if rows else torch.empty(0, 2).byte()
    rng = np.random.default_rng(seed)
    contents = [Content(b"", *rng.integers(1, 4, 3).tolist()) for _ in rows]
    names = [f"{place:03d}" for place in range(len(rows))]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(duplicates, "BLOCK", block)
        patched.setattr(duplicates, "MANY_LINKS", block)
        groups = found(names, codes, contents, radius, 12)
    assert groups == (reference(names, codes, contents, radius) if rows else [])


def test_very_many_equal_codes_make_no_pairs():
    codes = np.zeros((200_000, 8), np.uint8)
    codes[::2] = 255
    names = [str(place) for place in range(len(codes))]
    contents = [Content(b"", 1, 1, 1)] * len(codes)
    groups = duplicates.find_duplicates(Held(names, codes, contents), 64, 3)
    assert sorted(map(len, groups)) == [100_000, 100_000]


def test_groups_are_a_sequence():
    few = duplicates.DuplicateGroup(["b", "c"], [0, 1], [])
    many = duplicates.DuplicateGroup(["x", "y", "z"], [0, 1, 2], [])
    first = duplicates.DuplicateGroup(["a", "d"], [0, 1], [])
    groups = duplicates.DuplicateGroups([few, many, first])
    assert list(groups) == [many, first, few]
    assert groups[0].keep == "x"
    assert groups[0].extra == ["y", "z"]
    assert groups[1:] == [first, few]
