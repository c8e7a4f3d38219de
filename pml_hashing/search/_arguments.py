"""What callers of search pass, checked and in one form: codes, ids, metadata, conditions."""

import math
from collections.abc import Hashable, Iterable, Mapping

import faiss
import numpy as np
import torch
from torch import Tensor

from pml_hashing._arrays import from_array, is_time
from pml_hashing._checks import check_codes, check_distinct, check_finite
from pml_hashing.codes import BITS_OF_A_BYTE, check_packed_codes, pack_unchecked, packed_length
from pml_hashing.search._ids import is_int64
from pml_hashing.search.store import (
    Codes,
    CodeStore,
    Records,
    Value,
    Where,
    check_types,
    is_of_type,
)

FEW_VALUES = 2**12  # of 64 codes with 64 bits: as fast as numpy then


def to_tensor(codes: Codes, name: str) -> Tensor:
    """Return codes as a tensor. Checks refuse whatever is neither that nor an array."""
    return from_array(codes, name) if isinstance(codes, np.ndarray) else codes


def to_packed(codes: Codes, name: str, code_length: int | None) -> tuple[Tensor, int]:
    """Return checked codes as packed codes on their device, and their length.

    Args:
        codes: Real, binary or packed codes.
        name: That of the argument, for messages.
        code_length: Number of bits there must be, if known.

    Raises:
        TypeError: If `codes` is no tensor or array.
        ValueError: If a shape or the length is wrong, a code is NaN or infinite, or a packed code
            has bits behind its length.
    """
    codes = to_tensor(codes, name)
    if not isinstance(codes, Tensor) or codes.dtype != torch.uint8:
        check_codes(codes, name, code_length)
        return _pack(codes, name), codes.shape[1]
    check_packed_codes(codes, name, code_length)
    code_length = code_length or codes.shape[1] * BITS_OF_A_BYTE
    bits_of_last = code_length - (codes.shape[1] - 1) * BITS_OF_A_BYTE
    if bits_of_last < BITS_OF_A_BYTE and (codes[:, -1].int() >> bits_of_last).any():
        raise ValueError(
            f"Expected zeros in `{name}` after the {code_length} bits of each code, got ones."
        )
    return codes.contiguous(), code_length


def _pack(codes: Tensor, name: str) -> Tensor:
    """Return codes as packed ones after `check_finite`. A few floats are packed by faiss, at once.

    It reads memory as it lies there, and packs few codes faster than numpy.
    Their sum of squares tells that there is nothing to look for: it is not finite if one of them is
    not, and an integer below their number if they are zeros and ones.
    """
    count, code_length = codes.shape
    is_plain = codes.is_cpu and codes.dtype is torch.float32 and codes.is_contiguous()
    if not is_plain or count * code_length > FEW_VALUES or codes.is_neg():
        check_finite(codes, name)
        return pack_unchecked(codes)
    values, size = faiss.cast_integer_to_float_ptr(codes.data_ptr()), count * code_length
    squares = faiss.fvec_norm_L2sqr(values, size)
    if not math.isfinite(squares) or (squares < size and squares.is_integer()):
        check_finite(codes, name)
    packed_codes = np.empty((count, packed_length(code_length)), np.uint8)
    faiss.fvecs2bitvecs(  # pyright: ignore[reportAttributeAccessIssue]
        values, faiss.swig_ptr(packed_codes), code_length, count
    )
    return torch.from_numpy(packed_codes)


def to_vectors(codes: Codes, name: str) -> Tensor:
    """Return real-valued codes in float32, for re-ranking.

    Raises:
        TypeError: If they are packed: their values are gone.
    """
    codes = to_tensor(codes, name)
    if codes.dtype == torch.uint8:
        raise TypeError(f"Expected real codes in `{name}` to re-rank, got packed codes (uint8).")
    return codes.detach().float()


def to_records(
    codes: Codes,
    ids: Iterable[Hashable] | None,
    metadata: Mapping[str, object],
    code_length: int | None,
    *,
    with_vectors: bool,
) -> tuple[Records, int]:
    """Return checked `codes` with their checked ids and metadata, and their length.

    Args:
        codes: Real, binary or packed codes.
        ids: As of `to_ids`. None, for automatic ones, if `None`.
        metadata: As of `to_metadata`.
        code_length: Number of bits there must be, if known.
        with_vectors: Whether the real-valued codes are kept.
    """
    packed_codes, code_length = to_packed(codes, "codes", code_length)
    vectors = to_vectors(codes, "codes") if with_vectors else None
    checked = [] if ids is None else to_ids(ids, len(codes))
    return Records(checked, packed_codes, vectors, to_metadata(metadata, len(codes))), code_length


def to_ids(ids: Iterable[Hashable], count: int | None = None) -> list[Hashable]:
    """Return checked ids as a list, integers of numpy and torch as Python's.

    Args:
        ids: Strings, integers and tuples of these, or a vector of integers.
        count: How many there must be, if known.

    Raises:
        TypeError: If they are no list, or hold something else: 1.0, True and 1 are equal in
            Python, and would be one id here and three in a file.
        ValueError: If their number is wrong or one of them comes twice.
    """
    checked = _to_list(ids, "ids", "ids")
    for id_ in () if set(map(type, checked)) <= {str, int} else checked:
        if not is_id(id_):
            raise TypeError(
                "Expected `ids` that are strings, integers or tuples of these, "
                f"got {id_!r} of type {type(id_).__name__}."
            )
    if count not in (None, len(checked)):
        raise ValueError(f"Expected {count} `ids`, one for each code, got {len(checked)}.")
    check_distinct(checked)
    return checked


def is_id(id_: object) -> bool:
    """Return whether this can be an id."""
    return type(id_) in (str, int) or (type(id_) is tuple and all(map(is_id, id_)))


def to_metadata(metadata: Mapping[str, object], count: int) -> dict[str, list[Value]]:
    """Return checked columns, one value for each of `count` codes.

    Args:
        metadata: For each column a sequence, a tensor or an array.
        count: Number of codes.

    Raises:
        TypeError: If a column is no sequence, or holds values of several types, or of another type
            than columns have.
        ValueError: If a name is no identifier, a number of values is wrong, or a number is NaN or
            beyond 64 bits.
    """
    columns = {name: _to_column(name, values, count) for name, values in metadata.items()}
    check_types({}, columns)
    return columns


def _to_column(name: str, values: object, count: int) -> list[Value]:
    if not name.isidentifier():
        raise ValueError(f"Expected names of columns that are identifiers, got {name!r}.")
    found = _to_list(values, name, f"{count} values, one for each code")
    is_plain = set(map(type, found)) <= {str, bool, type(None)}
    column = found if is_plain else [to_value(name, value) for value in found]
    if len(column) != count:
        raise ValueError(
            f"Expected {count} values of `{name}`, one for each code, got {len(column)}."
        )
    if float in set(map(type, column)):  # a column of floats may have come with some integers
        return [float(value) if type(value) is int else value for value in column]
    return column


def to_where(where: Mapping[str, object] | None, store: CodeStore) -> Where:
    """Return a checked condition: of each column the values that match.

    Args:
        where: For each column a value, or a list, tuple or set of values.
        store: Has the columns there are.

    Raises:
        TypeError: If it is no mapping, or a value cannot be in its column.
        ValueError: If there is no such column.
    """
    if where is None:
        return {}
    if not isinstance(where, Mapping):
        raise TypeError(f"Expected `where` to be a dict of columns, got {type(where).__name__}.")
    columns, checked = store.columns, {}
    for name, wanted in where.items():
        if name not in columns:
            known = ", ".join(map(repr, columns)) or "none"
            raise ValueError(f"Expected columns in `where` that are held ({known}), got {name!r}.")
        many = isinstance(wanted, (list, tuple, set, frozenset, range, Tensor, np.ndarray))
        found = _to_list(wanted, name, "values") if many else [wanted]
        checked[name] = tuple(to_value(name, value) for value in found)
        for value in checked[name]:
            if not is_of_type(value, columns[name]):
                raise TypeError(
                    f"Expected `where` to compare `{name}` with values of type "
                    f"{getattr(columns[name], '__name__', None)}, got {value!r}."
                )
    return checked


def to_value(name: str, value: object) -> Value:
    """Return a checked value of a column, those of numpy and torch as Python's.

    Raises:
        TypeError: If it is of another type than columns have.
        ValueError: If it is NaN, or an integer beyond 64 bits.
    """
    value = _to_plain(value)
    if value is not None and type(value) not in (str, int, float, bool):
        raise TypeError(
            f"Expected `{name}` to hold strings, integers, floats, booleans or None, "
            f"got {value!r} of type {type(value).__name__}."
        )
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"Expected `{name}` without NaN, got {value}: None is no value.")
    if isinstance(value, int) and not is_int64(value):
        raise ValueError(f"Expected `{name}` to hold integers of 64 bits, got {value}.")
    return value  # pyright: ignore[reportReturnType] - its type was checked


def _to_list(values: object, name: str, what: str) -> list:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"Expected `{name}` to be a list of {what}, got {type(values).__name__}.")
    if isinstance(values, (Tensor, np.ndarray)) and not is_time(values):
        return values.tolist() if values.ndim else [values.item()]
    found = list(np.atleast_1d(values) if isinstance(values, np.ndarray) else values)
    if not any(issubclass(kind, np.generic) for kind in set(map(type, found))):
        return found
    return [_to_plain(value) if isinstance(value, np.generic) else value for value in found]


def _to_plain(value: object) -> object:
    """Return a number of numpy or torch as Python's."""
    if isinstance(value, (np.generic, Tensor)) and value.ndim == 0 and not is_time(value):
        return value.item()
    return value
