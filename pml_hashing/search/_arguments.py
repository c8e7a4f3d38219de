"""What callers of search pass, checked and in one form: packed codes, ids, vectors."""

from collections.abc import Hashable, Iterable

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_codes, check_finite
from pml_hashing.codes import BITS_OF_A_BYTE, check_packed_codes, pack


def to_packed(codes: Tensor, name: str, code_length: int | None) -> tuple[Tensor, int]:
    """Return checked codes as packed codes on their device, and their length.

    Args:
        codes: Real, binary or packed codes.
        name: That of the argument, for messages.
        code_length: Number of bits there must be, if known.

    Raises:
        TypeError: If `codes` is no tensor.
        ValueError: If a shape or the length is wrong, a code is NaN or infinite, or a packed code
            has bits behind its length.
    """
    if not isinstance(codes, Tensor) or codes.dtype != torch.uint8:
        check_codes(codes, name, code_length)
        check_finite(codes, name)
        return pack(codes), codes.shape[1]
    check_packed_codes(codes, name, code_length)
    code_length = code_length or codes.shape[1] * BITS_OF_A_BYTE
    bits_of_last = code_length - (codes.shape[1] - 1) * BITS_OF_A_BYTE
    if bits_of_last < BITS_OF_A_BYTE and (codes[:, -1].int() >> bits_of_last).any():
        raise ValueError(
            f"Expected zeros in `{name}` after the {code_length} bits of each code, got ones."
        )
    return codes.contiguous(), code_length


def to_vectors(codes: Tensor, name: str) -> Tensor:
    """Return real-valued codes in float32, for re-ranking.

    Raises:
        TypeError: If they are packed: their values are gone.
    """
    if codes.dtype == torch.uint8:
        raise TypeError(f"Expected real codes in `{name}` to re-rank, got packed codes (uint8).")
    return codes.detach().float()


def to_ids(ids: Iterable[Hashable], count: int | None = None) -> list[Hashable]:
    """Return checked ids as a list, numbers of numpy and torch as Python's.

    Args:
        ids: Hashable objects, or a vector of numbers.
        count: How many there must be, if known.

    Raises:
        TypeError: If they are no list of hashable objects.
        ValueError: If their number is wrong or one of them comes twice.
    """
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise TypeError(f"Expected `ids` to be a list of ids, got {type(ids).__name__}.")
    if isinstance(ids, (Tensor, np.ndarray)):
        ids = ids.tolist()
    ids = [id_.item() if isinstance(id_, np.generic) else id_ for id_ in ids]
    if count not in (None, len(ids)):
        raise ValueError(f"Expected {count} `ids`, one for each code, got {len(ids)}.")
    _check_distinct(ids)
    return ids


def _check_distinct(ids: list[Hashable]) -> None:
    seen = set()
    for id_ in ids:
        # A tensor hashes by identity: no other tensor would ever find it again.
        if isinstance(id_, Tensor) or not _is_hashable(id_):
            raise TypeError(f"Expected hashable `ids`, got {id_!r} of type {type(id_).__name__}.")
        if id_ in seen:
            raise ValueError(f"Expected `ids` without duplicates, got {id_!r} twice.")
        seen.add(id_)


def _is_hashable(id_: object) -> bool:
    try:
        hash(id_)
    except TypeError:  # as isinstance(id_, Hashable) does not look into tuples
        return False
    return True
