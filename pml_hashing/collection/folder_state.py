"""One state of a collection in a folder: files that its manifest names, mapped into memory."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pml_hashing._files import open_file
from pml_hashing._tensor_files import read_tensors
from pml_hashing.codes import packed_length
from pml_hashing.collection.encoded import Encoded
from pml_hashing.collection.file_records import FILES_FORMAT, Files, Unreadable
from pml_hashing.collection.files import Content
from pml_hashing.collection.labels import Metadata
from pml_hashing.collection.manifest import Manifest, whole
from pml_hashing.collection.state import (
    PAGE,
    CodedImages,
    DistinctCodes,
    Rerank,
    Rows,
    State,
    as_bytes,
)
from pml_hashing.search import HammingKNN, MemoryStore
from pml_hashing.search.store import Value

MANIFEST = "collection.json"


def files_of(generation: int) -> tuple[str, str]:
    """Return the names of the files of codes and of what the images were."""
    return f"codes-{generation}.safetensors", f"files-{generation}.safetensors"


class FolderState(State):
    """One state of a collection in a folder.

    Args:
        folder: The collection.
        manifest: What it is.

    Raises:
        FileNotFoundError: If a file of it is gone.
        ValueError: If a file of it is damaged, or of another state.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(manifest, folder)
        self._store = MemoryStore()
        self._knn = self.knn("vectors" if manifest.vectors else None)
        codes, files = (folder / name for name in files_of(manifest.generation))
        if manifest.count:
            self._knn.load(codes, memory_map=True)
        if len(self._knn) != manifest.count:
            raise ValueError(
                f"Expected {manifest.count} codes in {codes}, as {MANIFEST} says, "
                f"got {len(self._knn)}."
            )
        self.files = _read_files(files, manifest) if manifest.generation else Files.empty()

    @property
    def columns(self) -> dict[str, type | None]:
        return self._knn.columns

    @property
    def unreadable(self) -> list[Unreadable]:
        return self.files.unreadable

    def knn(self, rerank: Rerank | None = None, num_candidates: int = 100) -> HammingKNN:
        options: dict[str, Any] = {"rerank": rerank, "num_candidates": num_candidates}
        return HammingKNN(code_length=self.manifest.code_length, store=self._store, **options)

    @property
    def all_names(self) -> list[str]:
        """The names of all images, sorted."""
        return self._read[0]

    @property
    def all_metadata(self) -> Metadata:
        """All values in each column."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[list[str], Metadata]:
        names = list[str]()
        columns: Metadata = {name: [] for name in self._knn.columns}
        for records in self._knn.batches(PAGE):
            names += map(str, records.ids)
            for name, values in records.metadata.items():
                columns[name] += values
        return names, columns

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.all_names)}

    @property
    def all_codes(self) -> np.ndarray:
        """All packed codes."""
        if not len(self):
            return np.empty((0, packed_length(self.manifest.code_length)), np.uint8)
        return self._store.first_codes(len(self), torch.device("cpu")).numpy()

    def names(self, rows: Rows) -> list[str]:
        if isinstance(rows, range):
            return self.all_names[rows.start : rows.stop]
        names = self.all_names
        return [names[row] for row in _list(rows)]

    def rows(self, names: Sequence[str]) -> np.ndarray:
        row_of = self._row_of
        return np.fromiter((row_of.get(name, -1) for name in names), np.int64, len(names))

    def states(self, rows: Rows) -> np.ndarray:
        return self.files.states[_index(rows)]

    def contents(self, rows: Rows) -> list[Content]:
        contents = self.files.contents
        return [contents[row] for row in _list(rows)]

    def metadata(self, rows: Rows) -> Metadata:
        places, columns = _list(rows), self.all_metadata
        return {column: [values[row] for row in places] for column, values in columns.items()}

    def codes(self, rows: Rows) -> np.ndarray:
        return self.all_codes[_index(rows)]

    def vectors(self, rows: Rows) -> np.ndarray:
        vectors = self._knn.get(self.names(rows)).vectors
        return self.to_rows([]) if vectors is None else vectors.numpy()

    def sizes_among(self, sizes: Collection[int]) -> set[int]:
        wanted = np.array(list(sizes), np.int64)
        return set(wanted[np.isin(wanted, self.files.sizes[:, 0])].tolist())

    def known(self, digests: Collection[bytes]) -> dict[bytes, Encoded]:
        wanted, rows = set(digests), self._rows_of_digests(digests)
        pairs = zip(self.contents(rows), self.kept_codes(rows), strict=True)
        found = (Encoded(content, code.tobytes()) for content, code in pairs)
        return {each.content.digest: each for each in found if each.content.digest in wanted}

    def _rows_of_digests(self, digests: Collection[bytes]) -> list[int]:
        """Return the rows whose digests begin as some do: hardly ever more than are equal."""
        heads, order = self._digest_heads
        wanted = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        wanted = np.unique(_heads(wanted))
        starts, stops = (np.searchsorted(heads, wanted, side) for side in ("left", "right"))
        runs = [order[start:stop] for start, stop in zip(starts, stops, strict=True)]
        return np.concatenate([order[:0], *runs]).tolist()

    @cached_property
    def _digest_heads(self) -> tuple[np.ndarray, np.ndarray]:
        """The first bytes of all digests, sorted, and their rows."""
        heads = _heads(self.files.digests)
        order = heads.argsort(kind="stable")
        return heads[order], order

    def value_counts(self, column: str) -> Mapping[Value, int]:
        return Counter(self.all_metadata[column])

    def distinct_codes(self) -> DistinctCodes:
        return DistinctCodes(*np.unique(self.all_codes, axis=0, return_counts=True))

    def with_codes(self, codes: np.ndarray) -> CodedImages:
        rows = np.flatnonzero(np.isin(as_bytes(self.all_codes), as_bytes(codes))).tolist()
        return CodedImages(self.names(rows), self.codes(rows), self.contents(rows))

    def prepare(self) -> None:
        _ = self._row_of


def _read_files(path: Path, manifest: Manifest) -> Files:
    with whole(path), open_file(path, "a file of Collection.sync") as file:
        tensors, _ = read_tensors(file, FILES_FORMAT | {"generation": str(manifest.generation)})
        files = Files.of(tensors)
    if len(files) != manifest.count:
        raise ValueError(
            f"Expected {manifest.count} files in {path}, as {MANIFEST} says, got {len(files)}."
        )
    return files


def _index(rows: Rows) -> Any:
    return slice(rows.start, rows.stop) if isinstance(rows, range) else np.asarray(rows, np.int64)


def _list(rows: Rows) -> Sequence[int]:
    return rows.tolist() if isinstance(rows, np.ndarray) else rows


def _heads(digests: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64).ravel()
