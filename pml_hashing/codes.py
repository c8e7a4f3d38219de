"""What a bit is: a code's bit is set where the code is not negative."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pml_hashing._checks import check_at_least, check_codes, check_finite

BITS_OF_A_BYTE = 8
OF_NUMPY = (torch.float32, torch.float64, torch.float16)
WITHOUT_SIGN = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def binarize(codes: Tensor) -> Tensor:
    """Return -1 or 1 for every element of `codes`, in its dtype. Zero becomes 1.

    Booleans are bits: -1 or 1 for them is float32. Values on the CPU are checked; those on a GPU,
    which it would stop to read back, are not.

    Raises:
        TypeError: If `codes` are unsigned integers, which have no sign.
        ValueError: If `codes` hold NaN or infinity, or 0 and 1 alone.
    """
    if codes.device.type == "cpu":
        check_finite(codes, "codes")
    return binarize_unchecked(codes)


def binarize_unchecked(codes: Tensor) -> Tensor:
    """Return what `binarize` does, without a look at the values: of NaN it is -1."""
    return bits_to_signs(
        _is_set(codes), torch.float32 if codes.dtype == torch.bool else codes.dtype
    )


def bits_to_signs(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return 1 where a bit is set and -1 where it is not.

    Args:
        bits: Booleans, or zeros and ones of any dtype.
        dtype: Of the result, one with a sign.
    """
    return bits.to(dtype) * 2 - 1


def to_signs(
    codes: Tensor, code_length: int | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return real, binary or packed codes (uint8) as -1 and 1. Their values are not checked.

    Args:
        codes: Real or binary codes or bits (bool) `(n, code_length)`, or packed codes.
        code_length: Number of bits of packed codes. All bits of the bytes if `None`.
        dtype: Of the result.
    """
    if codes.dtype == torch.uint8:
        return unpack(codes, code_length, dtype)
    return bits_to_signs(_is_set(codes), dtype)


def _is_set(codes: Tensor) -> Tensor:
    if codes.dtype == torch.bool:
        return codes
    if codes.dtype in WITHOUT_SIGN:
        raise TypeError(
            f"Expected `codes` with a sign, real or -1 and 1, or bits (bool), got {codes.dtype}."
        )
    return codes >= 0


def at_least_float32(codes: Tensor) -> Tensor:
    """Return half precision, too coarse for sums, as float32, and float64 as it is."""
    return codes.to(torch.promote_types(codes.dtype, torch.float32))


class _StraightThroughSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(codes: Tensor) -> Tensor:
        return binarize_unchecked(codes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing: `torch.func` asks for this apart from `forward`."""

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad_output


def straight_through_sign(codes: Tensor) -> Tensor:
    r"""Binarize in the forward pass, and pass the gradient back unchanged.

    $$
    b = \operatorname{sign}(u), \qquad
    \frac{\partial L}{\partial u} := \frac{\partial L}{\partial b}
    $$

    Examples:
        >>> import torch
        >>> from pml_hashing.codes import straight_through_sign
        >>> codes = torch.tensor([-0.3, 0.0], requires_grad=True)
        >>> (straight_through_sign(codes) * torch.tensor([2.0, 3.0])).sum().backward()
        >>> codes.grad
        tensor([2., 3.])
    """
    return _StraightThroughSign.apply(codes)  # pyright: ignore[reportReturnType]


def packed_length(code_length: int) -> int:
    """Return the number of bytes that hold `code_length` bits."""
    return -(-code_length // BITS_OF_A_BYTE)


def pack(codes: Tensor) -> Tensor:
    """Pack the bits of real or binary codes, or of booleans, into bytes, eight to a byte.

    Bit `l` of a code is bit `l % 8`, the lowest first, of byte `l // 8`: the layout of
    `numpy.packbits(bitorder="little")` and of faiss. A code length that is not a multiple of 8 is
    padded with zero bits, which add nothing to a Hamming distance; whoever keeps packed codes keeps
    the code length beside them (`unpack` takes it).

    Args:
        codes: Real or binary codes, or bits (bool), `(n, code_length)`, on any device.

    Returns:
        Packed codes, uint8, `(n, ceil(code_length / 8))`, on the device of `codes`.

    Raises:
        TypeError: If `codes` are unsigned, or uint8 and thus packed already.
        ValueError: If `codes` is not a matrix, is empty, or holds NaN or infinity, or only
            0 and 1.

    Examples:
        >>> import torch
        >>> from pml_hashing.codes import pack
        >>> pack(torch.tensor([[1.0, -1.0, 1.0]]))  # bits 0 and 2: 1 + 4
        tensor([[5]], dtype=torch.uint8)
    """
    check_codes(codes, "codes")
    check_finite(codes, "codes")
    return pack_unchecked(codes)


def pack_unchecked(codes: Tensor) -> Tensor:
    """Return what `pack` does, without reading values back from the device to check them."""
    if codes.is_cpu:  # numpy packs faster, a single code five times
        codes = codes.detach().resolve_neg()
        bits = codes.numpy() >= 0 if codes.dtype in OF_NUMPY else _is_set(codes).numpy()
        return torch.from_numpy(np.packbits(bits, axis=1, bitorder="little")).contiguous()
    bits = _is_set(codes).to(torch.uint8)
    padding = packed_length(codes.shape[1]) * BITS_OF_A_BYTE - codes.shape[1]
    bits = torch.nn.functional.pad(bits, (0, padding)).view(len(bits), -1, BITS_OF_A_BYTE)
    places = torch.arange(BITS_OF_A_BYTE, dtype=torch.uint8, device=codes.device)
    return (bits << places).sum(dim=2, dtype=torch.uint8)


def check_packed_codes(packed_codes: Tensor, name: str, code_length: int | None = None) -> None:
    """Raise unless `packed_codes` is a uint8 matrix, wide enough for codes of `code_length`."""
    if not isinstance(packed_codes, Tensor) or packed_codes.dtype != torch.uint8:
        got = packed_codes.dtype if isinstance(packed_codes, Tensor) else type(packed_codes)
        raise TypeError(f"Expected `{name}` of dtype torch.uint8, got {got}.")
    width = None if code_length is None else packed_length(code_length)
    shape = tuple(packed_codes.shape)
    if len(shape) != 2 or 0 in shape or width not in (None, shape[1]):
        wanted = "num_bytes" if width is None else f"{width}, for {code_length} bits"
        unpacked = width is not None and shape[1:] == (code_length,)
        hint = f" Bits that are not packed are bool: `{name}.bool()`." if unpacked else ""
        raise ValueError(f"Expected `{name}` of shape (n, {wanted}), not empty, got {shape}.{hint}")


def check_codes_of_any_kind(codes: Tensor, name: str, code_length: int | None = None) -> None:
    """Raise unless `codes` are real, binary, bool or packed codes (uint8), one in each row.

    They must be finite, and not 0 and 1 alone.

    Args:
        codes: Whatever a caller passed.
        name: Of the argument.
        code_length: Number of bits that they must have. Any number if `None`.
    """
    if isinstance(codes, Tensor) and codes.dtype == torch.uint8:
        check_packed_codes(codes, name, code_length)
        return
    check_codes(codes, name, code_length)
    if codes.dtype in WITHOUT_SIGN or codes.is_complex():
        raise TypeError(
            f"Expected `{name}` with real codes, -1 and 1, bits (bool), or packed codes (uint8), "
            f"got {codes.dtype}."
        )
    check_finite(codes, name)


def unpack(
    packed_codes: Tensor, code_length: int | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the binary codes, -1 and 1, that `pack` packed.

    Args:
        packed_codes: uint8, `(n, ceil(code_length / 8))`.
        code_length: Number of bits. All bits of the bytes, padding included, if `None`.
        dtype: Of the result.

    Returns:
        Binary codes, `(n, code_length)`.

    Raises:
        TypeError: If `packed_codes` is not uint8.
        ValueError: If its width is not that of `code_length`.
    """
    if code_length is not None:
        check_at_least(code_length, 1, "code_length")
    check_packed_codes(packed_codes, "packed_codes", code_length)
    signs = torch.nn.functional.embedding(
        packed_codes.int(), _signs_of_bytes(dtype, packed_codes.device)
    )
    return signs.flatten(start_dim=1)[:, :code_length]


def _signs_of_bytes(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the bits of all bytes as -1 and 1, `(256, 8)`: looked up far faster than computed."""
    every_byte = torch.arange(2**BITS_OF_A_BYTE, dtype=torch.uint8, device=device)
    places = torch.arange(BITS_OF_A_BYTE, dtype=torch.uint8, device=device)
    return bits_to_signs((every_byte[:, None] >> places) & 1, dtype)


def _check_pair(query_codes: Tensor, database_codes: Tensor) -> None:
    check_codes(query_codes, "query_codes")
    check_codes(database_codes, "database_codes", query_codes.shape[1])
    check_finite(query_codes, "query_codes")
    check_finite(database_codes, "database_codes")
    check_both_packed(query_codes, database_codes)


def check_both_packed(query_codes: Tensor, database_codes: Tensor) -> None:
    """Raise if the codes of one side are packed, and those of the other are not."""
    if (query_codes.dtype == torch.uint8) != (database_codes.dtype == torch.uint8):
        raise TypeError(
            "Expected `query_codes` and `database_codes` both packed (uint8) or both not, "
            f"got {query_codes.dtype} and {database_codes.dtype}."
        )


def hamming_distance(
    query_codes: Tensor, database_codes: Tensor, block_size: int = 65536
) -> Tensor:
    r"""Return the number of differing bits between every query and every database item.

    $$d(q, x) = \tfrac{1}{2} (K - b_q^\top b_x), \qquad b \in \{-1, 1\}^K$$

    Computed as that matrix product, which is exact, over blocks of the database.

    Args:
        query_codes: Real or binary codes or bits (bool) `(num_queries, code_length)`, or packed
            codes (uint8).
        database_codes: Codes of the same kind and length, `(num_database, code_length)`.
        block_size: Database items whose bits are held as floats at a time.

    Returns:
        Distances from 0 to `code_length`, int32, `(num_queries, num_database)`.

    Raises:
        TypeError: If one side is packed and the other is not.
        ValueError: If a shape is wrong, or codes are NaN or infinite, or 0 and 1 alone.

    Examples:
        >>> import torch
        >>> from pml_hashing.codes import hamming_distance, pack
        >>> codes = torch.tensor([[0.2, -1.0, 3.0], [-0.1, -2.0, 0.0]])
        >>> hamming_distance(codes, codes)
        tensor([[0, 1],
                [1, 0]], dtype=torch.int32)
        >>> hamming_distance(pack(codes), pack(codes))[0, 1]
        tensor(1, dtype=torch.int32)
    """
    _check_pair(query_codes, database_codes)
    check_at_least(block_size, 1, "block_size")
    queries = to_signs(query_codes)
    code_length = queries.shape[1]
    distances = queries.new_empty(len(queries), len(database_codes), dtype=torch.int32)
    for start in range(0, len(database_codes), block_size):
        block = to_signs(database_codes[start : start + block_size])
        with torch.autocast(queries.device.type, enabled=False):  # bf16 cannot count past 256
            inner = queries @ block.T
        distances[:, start : start + block_size] = inner.sub_(code_length).mul_(-0.5)
    return distances


def paired_hamming_distance(query_codes: Tensor, database_codes: Tensor) -> Tensor:
    """Return the number of differing bits between each query and the item in the same row.

    Args:
        query_codes: Real or binary codes or bits (bool) `(n, code_length)`, or packed codes
            (uint8).
        database_codes: Codes of the same kind and shape.

    Returns:
        Distances from 0 to `code_length`, int32, `(n,)`.

    Raises:
        TypeError: If one side is packed and the other is not.
        ValueError: If a shape is wrong, or codes are NaN or infinite, or 0 and 1 alone.
    """
    _check_pair(query_codes, database_codes)
    if len(query_codes) != len(database_codes):
        raise ValueError(
            f"Expected `database_codes` of shape {tuple(query_codes.shape)}, one for each query, "
            f"got {tuple(database_codes.shape)}."
        )
    return (to_signs(query_codes) != to_signs(database_codes)).sum(dim=1, dtype=torch.int32)
