"""Exact search for the nearest codes by Hamming distance, behind PML's `knn_func`."""

import hashlib
import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from pml_hashing._checks import check_at_least, check_codes, check_finite
from pml_hashing._files import write_atomically
from pml_hashing.codes import BITS_OF_A_BYTE, check_packed_codes, pack, packed_length

FORMAT = "pml_hashing.HammingKNN"
FORMAT_VERSION = "1"

# faiss ranks with a heap or by counting. Counting is up to ten times as fast for many neighbours
# and slower for few, but sets aside k places of 8 bytes for each distance and each of 32 queries:
# up to 1 GiB of addresses here.
MIN_COUNTED_NEIGHBORS = 128
MAX_COUNTING_PLACES = 2**22


class HammingKNN:
    """Nearest neighbours by Hamming distance, exact, on faiss' binary flat index.

    It is a `knn_func` of PML: `AccuracyCalculator(knn_func=HammingKNN())` searches the reference
    set of each call, and `InferenceModel(knn_func=HammingKNN(), normalize_embeddings=False)` the
    codes that were added. Neighbours at equal distance come in database order.

    Codes are real or binary, `(n, code_length)`, whose bit is set where they are not negative, or
    packed, uint8, `(n, ceil(code_length / 8))`, on any device. faiss searches on the CPU: codes
    are packed where they are, and their bytes move there.

    Args:
        code_length: Number of bits. That of the first codes if `None`, where packed codes count
            eight bits a byte: needed for packed codes of a length that is no multiple of 8.

    Raises:
        ValueError: If `code_length` is less than 1.

    Examples:
        >>> import torch
        >>> from pml_hashing.search import HammingKNN
        >>> database_codes = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.5, 2.0]])
        >>> knn = HammingKNN()
        >>> knn.train(database_codes)
        >>> distances, indices = knn(torch.tensor([[0.1, 0.2, 0.3]]), k=3)
        >>> distances
        tensor([[0, 0, 2]], dtype=torch.int32)
        >>> indices
        tensor([[1, 2, 0]])
    """

    def __init__(self, *, code_length: int | None = None) -> None:
        if code_length is not None:
            check_at_least(code_length, 1, "code_length")
        self._fixed_length = code_length
        self._code_length = code_length
        self._index: Any = None  # a faiss.IndexBinaryFlat, once there are codes

    @property
    def code_length(self) -> int | None:
        """Number of bits of the codes held, or `None` as long as it is not known."""
        return self._code_length

    def __len__(self) -> int:
        return 0 if self._index is None else self._index.ntotal

    def __call__(
        self,
        query: Tensor,
        k: int,
        reference: Tensor | None = None,
        ref_includes_query: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the `k` nearest codes of every query, the nearest first.

        Args:
            query: Codes to search for.
            k: Number of neighbours.
            reference: Codes to search in, which are not kept. Those that were added if `None`.
            ref_includes_query: Whether query `i` is item `i` of what is searched. It is then not
                among its own neighbours.

        Returns:
            Distances in bits, int32, and indices of database items, int64, both
            `(num_queries, k)` and on the device of `query`.

        Raises:
            TypeError: If codes are no tensor.
            ValueError: If there is nothing to search in, fewer than `k` codes, a shape or code
                length is wrong, or a code is NaN or infinite.
        """
        if reference is None:
            index, code_length = self._filled_index(), self._code_length
        else:
            packed_codes, code_length = _to_packed(reference, "reference", self._fixed_length)
            index = _make_index(packed_codes)
        packed_codes, _ = _to_packed(query, "query", code_length)
        own = int(ref_includes_query)
        if not 1 <= k <= index.ntotal - own:
            raise ValueError(
                f"Expected `k` from 1 to {index.ntotal - own}, as {index.ntotal} codes are searched"
                f"{', the query itself among them' if own else ''}, got {k}."
            )
        places = k * (index.d + 1)
        index.use_heap = k < MIN_COUNTED_NEIGHBORS or places > MAX_COUNTING_PLACES
        arrays = index.search(packed_codes, k + own)
        distances, indices = (torch.from_numpy(array).to(query.device) for array in arrays)
        return _without_query(distances, indices) if own else (distances, indices)

    def train(self, codes: Tensor) -> None:
        """Hold `codes` instead of those held so far. A flat index has nothing to learn from them.

        Raises:
            TypeError: If `codes` is no tensor.
            ValueError: If a shape is wrong or a code is NaN or infinite.
        """
        packed_codes, code_length = _to_packed(codes, "codes", self._fixed_length)
        self._index, self._code_length = _make_index(packed_codes), code_length

    def add(self, codes: Tensor) -> None:
        """Hold `codes` after those held so far.

        Raises:
            TypeError: If `codes` is no tensor.
            ValueError: If a shape or the code length is wrong, or a code is NaN or infinite.
        """
        if self._index is None:
            self.train(codes)
        else:
            self._index.add(_to_packed(codes, "codes", self._code_length)[0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the codes held to a safetensors file, atomically.

        Raises:
            ValueError: If no codes are held.
        """
        packed_codes = faiss.vector_to_array(self._filled_index().xb).reshape(len(self), -1)
        metadata = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "code_length": str(self._code_length),
            "count": str(len(self)),
            "sha256": _checksum(packed_codes, self._code_length),
        }
        tensors = {"packed_codes": packed_codes}
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Hold the codes of a file that `save` wrote. Those held before stay if this fails.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such file, is not whole, or holds codes of another length.
        """
        packed_codes, code_length = _read(Path(path))
        if self._code_length not in (None, code_length):
            raise ValueError(
                f"Expected codes of {self._code_length} bits in `{path}`, got {code_length} bits."
            )
        self._index, self._code_length = _make_index(packed_codes), code_length

    def _filled_index(self) -> Any:
        if self._index is None:
            raise ValueError(
                "Expected codes in the index (from `train`, `add` or `load`) or `reference`, "
                "got an empty index."
            )
        return self._index


def _to_packed(codes: Tensor, name: str, code_length: int | None) -> tuple[np.ndarray, int]:
    """Return checked codes as packed codes in main memory, and their length."""
    if isinstance(codes, Tensor) and codes.dtype == torch.uint8:
        check_packed_codes(codes, name, code_length)
        code_length = code_length or codes.shape[1] * BITS_OF_A_BYTE
        bits_of_last = code_length - (codes.shape[1] - 1) * BITS_OF_A_BYTE
        if (codes[:, -1].int() >> bits_of_last).any():
            raise ValueError(
                f"Expected zeros in `{name}` after the {code_length} bits of each code, got ones."
            )
        return codes.cpu().numpy(), code_length
    check_codes(codes, name, code_length)
    check_finite(codes, name)
    return pack(codes).cpu().numpy(), codes.shape[1]


def _make_index(packed_codes: np.ndarray) -> Any:
    index = faiss.IndexBinaryFlat(packed_codes.shape[1] * BITS_OF_A_BYTE)
    index.add(packed_codes)
    return index


def _without_query(distances: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Drop item `i` from row `i`, and the last item where ties at distance 0 left it out."""
    rows = torch.arange(len(indices), device=indices.device)
    dropped = indices == rows[:, None]
    dropped[:, -1] |= ~dropped.any(dim=1)
    shape = (len(indices), indices.shape[1] - 1)
    return distances[~dropped].view(shape), indices[~dropped].view(shape)


def _checksum(packed_codes: np.ndarray, code_length: int | None) -> str:
    digest = hashlib.sha256(f"{code_length} ".encode())
    digest.update(packed_codes.data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[np.ndarray, int]:
    """Return packed codes and code length of a saved index, after checking all that it says."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a file that HammingKNN.save wrote, got none at `{path}`."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            return _check_content(file, file.metadata() or {})
    except (KeyError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"Expected a whole file that HammingKNN.save wrote, got `{path}`: {error}"
        ) from error


def _check_content(file: Any, metadata: dict[str, str]) -> tuple[np.ndarray, int]:
    found = metadata.get("format"), metadata.get("format_version")
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"format and version are {found}, not {(FORMAT, FORMAT_VERSION)}.")
    code_length, count = int(metadata["code_length"]), int(metadata["count"])
    stored = file.get_slice("packed_codes")
    shape, expected = tuple(stored.get_shape()), (count, packed_length(code_length))
    if shape != expected or stored.get_dtype() != "U8":
        raise ValueError(f"codes are {stored.get_dtype()} {shape}, not U8 {expected}.")
    packed_codes = file.get_tensor("packed_codes")
    if _checksum(packed_codes, code_length) != metadata["sha256"]:
        raise ValueError("the codes do not have the checksum that was saved with them.")
    return _to_packed(torch.from_numpy(packed_codes), "packed_codes", code_length)
