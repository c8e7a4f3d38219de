"""Bits, packing and distances against numpy, faiss and loops."""

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pml_hashing.codes import (
    at_least_float32,
    binarize,
    bits_to_signs,
    check_packed_codes,
    hamming_distance,
    pack,
    packed_length,
    paired_hamming_distance,
    straight_through_sign,
    to_signs,
    unpack,
)

SIZES = {"n": st.integers(1, 6), "code_length": st.integers(1, 40)}
SIGNED = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64]


def make_codes(seed, n, code_length):
    """Return codes with zeros of both signs among them."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-2, 3, (n, code_length), generator=generator) / 2
    codes[codes == 1] = 1.5  # 0 and 1 alone would be refused
    return torch.where(torch.rand(n, code_length, generator=generator) < 0.1, -0.0, codes)


def hamming_distance_reference(query_codes, database_codes):
    return [
        [sum((a >= 0) != (b >= 0) for a, b in zip(q, x, strict=True)) for x in database_codes]
        for q in query_codes
    ]


@pytest.mark.parametrize("kind", SIGNED)
def test_zero_is_a_set_bit(kind, device):
    codes = torch.tensor([-2, 0, 2], dtype=kind, device=device)
    assert_close(binarize(codes), torch.tensor([-1, 1, 1], dtype=kind, device=device))
    assert_close(binarize(torch.tensor([-0.0])), torch.tensor([1.0]))


def test_half_precision_becomes_single():
    found = [at_least_float32(torch.ones(1, dtype=kind)).dtype for kind in SIGNED[:4]]
    assert found == [torch.float32, torch.float32, torch.float32, torch.float64]


def test_straight_through_sign(device, dtype):
    codes = torch.tensor([[-0.5, 0.0, 2.0]], dtype=dtype, device=device, requires_grad=True)
    weights = torch.tensor([[3.0, 5.0, 7.0]], dtype=dtype, device=device)
    binary_codes = straight_through_sign(codes)
    (binary_codes * weights).sum().backward()
    assert binary_codes.tolist() == [[-1.0, 1.0, 1.0]]
    assert_close(codes.grad, weights)


@given(seed=st.integers(0, 2**32 - 1), **SIZES)
def test_pack_is_that_of_numpy(seed, n, code_length):
    codes = make_codes(seed, n, code_length)
    packed_codes = pack(codes)
    expected = np.packbits((codes >= 0).numpy(), axis=1, bitorder="little")
    assert_close(packed_codes, torch.from_numpy(expected))
    assert packed_codes.shape == (n, packed_length(code_length))
    assert packed_length(code_length) == (code_length + 7) // 8


@given(seed=st.integers(0, 2**32 - 1), **SIZES)
def test_unpack_is_the_inverse_of_pack(seed, n, code_length):
    codes = make_codes(seed, n, code_length)
    assert_close(unpack(pack(codes), code_length), binarize(codes))
    padded = unpack(pack(codes), dtype=torch.int8)
    assert_close(padded[:, :code_length], binarize(codes).to(torch.int8))
    assert (padded[:, code_length:] == -1).all()


@given(seed=st.integers(0, 2**32 - 1), num_queries=st.integers(1, 4), **SIZES)
def test_hamming_distance(seed, num_queries, n, code_length):
    queries, database = (
        make_codes(seed, num_queries, code_length),
        make_codes(seed + 1, n, code_length),
    )
    expected = hamming_distance_reference(queries.tolist(), database.tolist())
    expected = torch.tensor(expected, dtype=torch.int32)
    packed_queries, packed_database = pack(queries), pack(database)
    for block_size in (1, 2, 65536):
        assert_close(hamming_distance(queries, database, block_size), expected)
        assert_close(hamming_distance(packed_queries, packed_database, block_size), expected)
    index = faiss.IndexBinaryFlat(8 * packed_length(code_length))
    index.add(packed_database.numpy())
    distances, order = index.search(packed_queries.numpy(), n)
    assert_close(expected.gather(1, torch.from_numpy(order)), torch.from_numpy(distances))
    rows = min(n, num_queries)
    expected = expected[:rows, :rows].diag()
    assert_close(paired_hamming_distance(queries[:rows], database[:rows]), expected)
    assert_close(paired_hamming_distance(packed_queries[:rows], packed_database[:rows]), expected)


@pytest.mark.parametrize("kind", SIGNED)
def test_codes_of_any_type(kind, device):
    codes = torch.tensor([[1, 1, -1], [-1, 2, -3], [0, 1, 1]], dtype=kind, device=device)
    expected = torch.tensor([[0, 1, 1], [1, 0, 2], [1, 2, 0]], dtype=torch.int32, device=device)
    assert_close(hamming_distance(codes, codes), expected)
    assert_close(hamming_distance(pack(codes), pack(codes)), expected)
    assert_close(paired_hamming_distance(codes, codes.flip(0)), expected[:, [2, 1, 0]].diag())


@pytest.mark.parametrize("code_length", [700, 2048])
def test_autocast_does_not_round_distances(code_length, device):
    """Bfloat16 has 8 bits: it cannot tell 257 from 256."""
    codes = torch.randn(20, code_length, device=device)
    expected = (binarize(codes)[:, None] != binarize(codes)[None]).sum(dim=2, dtype=torch.int32)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert_close(hamming_distance(codes, codes), expected)
        assert_close(hamming_distance(pack(codes), pack(codes)), expected)


def test_gradients_end_at_the_bits():
    codes = torch.randn(3, 8, requires_grad=True)
    for result in (pack(codes), hamming_distance(codes, codes)):
        assert not result.requires_grad


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("function", [binarize, pack, to_signs, lambda c: hamming_distance(c, c)])
def test_unsigned_integers_have_no_sign(function, dtype):
    with pytest.raises(TypeError, match=rf"`codes` with a sign, .*, got {dtype}"):
        function(torch.ones(2, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float32, torch.float64])
def test_codes_of_all_kinds_become_the_same_signs(dtype, device):
    codes = torch.randn(5, 11, device=device)
    expected = [[1 if value >= 0 else -1 for value in row] for row in codes.tolist()]
    for kind in (codes, codes.double(), binarize(codes).to(torch.int8)):
        signs = to_signs(kind, dtype=dtype)
        assert (signs.dtype, signs.tolist()) == (dtype, expected)
    signs = to_signs(pack(codes), 11, dtype)
    assert (signs.dtype, signs.tolist()) == (dtype, expected)
    assert to_signs(pack(codes)).shape == (5, 16)
    for bits in (codes >= 0, (codes >= 0).to(torch.uint8), (codes >= 0).float()):
        signs = bits_to_signs(bits, dtype)
        assert (signs.dtype, signs.tolist()) == (dtype, expected)


def test_booleans_are_bits(device):
    codes = torch.randn(5, 11, device=device)
    bits = codes >= 0
    assert_close(binarize(bits), binarize(codes))
    assert_close(to_signs(bits, dtype=torch.int8), to_signs(codes, dtype=torch.int8))
    assert_close(pack(bits), pack(codes))
    assert_close(hamming_distance(bits, codes), hamming_distance(codes, codes))
    assert_close(paired_hamming_distance(codes, bits), torch.zeros(5, dtype=torch.int32).to(device))


@pytest.mark.parametrize("kind", SIGNED)
@pytest.mark.parametrize(
    "function",
    [binarize, pack, lambda c: hamming_distance(-c, c), lambda c: paired_hamming_distance(c, -c)],
)
def test_zeros_and_ones_are_refused(function, kind):
    with pytest.raises(ValueError, match=r"got 0 and 1 alone.* pass `2 \* \w+ - 1`, or `\w+\.bool"):
        function(torch.tensor([[0, 1, 1], [1, 1, 1]], dtype=kind))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_binarize_refuses_what_is_no_number(value):
    with pytest.raises(ValueError, match="finite values in `codes`"):
        binarize(torch.tensor([-1.0, value]))


@pytest.mark.parametrize("function", [binarize, pack])
def test_packed_codes_are_not_binarized_again(function):
    with pytest.raises(TypeError, match=r"`codes` with a sign, .*, got torch\.uint8"):
        function(pack(torch.ones(2, 8)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (pack, "codes"),
        (lambda c: hamming_distance(c, torch.ones(2, 3)), "query_codes"),
        (lambda c: hamming_distance(torch.ones(2, 3), c), "database_codes"),
        (lambda c: paired_hamming_distance(torch.ones(4, 3), c), "database_codes"),
    ],
)
def test_codes_that_are_not_finite_are_named(function, name, value):
    codes = torch.ones(4, 3)
    codes[2:, 1] = value
    message = f"finite values in `{name}`, got NaN or infinity in 2 of 4 rows, .* row 2"
    with pytest.raises(ValueError, match=message):
        function(codes)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3), (3, 0)])
def test_wrong_shapes_are_named(shape):
    codes, got = torch.zeros(shape), str(shape).replace("(", r"\(").replace(")", r"\)")
    for function, name in [
        (pack, "codes"),
        (lambda c: hamming_distance(c, torch.ones(2, 3)), "query_codes"),
        (lambda c: hamming_distance(torch.ones(2, 3), c), "database_codes"),
    ]:
        with pytest.raises(ValueError, match=f"`{name}` of shape .*, not empty, got {got}"):
            function(codes)
    with pytest.raises(ValueError, match=rf"`packed_codes` of shape \(n, num_bytes\), .*{got}"):
        unpack(codes.to(torch.uint8))


def test_pairs_are_of_one_kind_and_shape():
    codes = torch.ones(2, 8)
    message = r"both packed \(uint8\) or both not, got torch\.float32 and torch\.uint8"
    for function in (hamming_distance, paired_hamming_distance):
        with pytest.raises(TypeError, match=message):
            function(torch.ones(2, 1), pack(codes))
        with pytest.raises(ValueError, match=r"`database_codes` of shape \(batch_size, 8\), .*9"):
            function(codes, torch.ones(2, 9))
    with pytest.raises(ValueError, match=r"`database_codes` of shape \(2, 8\), .* got \(3, 8\)"):
        paired_hamming_distance(codes, torch.ones(3, 8))
    with pytest.raises(ValueError, match="`block_size` of at least 1, got 0"):
        hamming_distance(codes, codes, block_size=0)


def test_packed_codes_are_checked():
    packed_codes = pack(torch.ones(2, 12))
    with pytest.raises(TypeError, match=r"`packed_codes` of dtype torch\.uint8, got torch\.int64"):
        unpack(packed_codes.long())
    with pytest.raises(TypeError, match=r"`index` of dtype torch\.uint8, got .*list"):
        check_packed_codes([1, 2], "index")
    with pytest.raises(ValueError, match=r"`packed_codes` of shape \(n, 3, for 17 bits\), .*2, 2"):
        unpack(packed_codes, 17)
    with pytest.raises(ValueError, match=r"`packed_codes` of shape \(n, 1, for 8 bits\), .*2, 2"):
        unpack(packed_codes, 8)
    with pytest.raises(ValueError, match="`code_length` of at least 1, got 0"):
        unpack(packed_codes, 0)
    with pytest.raises(TypeError, match=r"`codes` to be a torch\.Tensor, got ndarray"):
        pack(np.ones((2, 8)))


def test_bits_in_place_of_packed_codes_are_named():
    bits = (torch.randn(2, 16) >= 0).to(torch.uint8)
    for function in (lambda c: unpack(c, 16), lambda c: to_signs(c, 16)):
        with pytest.raises(
            ValueError, match=r"\(n, 2, for 16 bits\), .* Bits .* `packed_codes\.bo"
        ):
            function(bits)
