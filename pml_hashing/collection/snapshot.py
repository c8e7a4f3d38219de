"""One state of a collection on disk: a manifest that is replaced in one step, and what it names."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch

from pml_hashing._files import open_file, write_atomically
from pml_hashing._tensor_files import read_tensors
from pml_hashing.codes import packed_length
from pml_hashing.collection.file_records import FILES_FORMAT, Files
from pml_hashing.collection.labels import LABEL, Metadata, labels_of
from pml_hashing.search import HammingKNN, MemoryStore
from pml_hashing.search.store import Value

Rerank: TypeAlias = Literal["asymmetric", "vectors"]

MANIFEST = "collection.json"
FORMAT = {"format": "pml_hashing.Collection", "format_version": "1"}
BATCH = 2**16


@dataclass(frozen=True)
class Manifest:
    """What a collection is, and which of the files beside it are its present state."""

    model: str  # a fingerprint of its weights
    model_class: str
    code_length: int
    vectors: bool
    generation: int = 0
    count: int = 0
    images: str | None = None  # the folder of the last sync
    labels: str | None = None  # where labels come from
    ignored: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the manifest of a collection.

        Raises:
            FileNotFoundError: If there is no collection.
            ValueError: If it is damaged, or of another version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected a collection, which has a {MANIFEST}, in {folder}, got none: "
                "`Collection.create` makes one."
            )
        try:
            content = json.loads(path.read_bytes())
            found = {key: content.pop(key, None) for key in FORMAT}
            if found != FORMAT:
                raise ValueError(f"it says {found}, not {FORMAT}.")
            manifest = cls(**content)
            manifest.check()
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"Expected a whole manifest at {path}, got another: {error}"
            ) from error
        return manifest

    def check(self) -> None:
        """Raise a `ValueError` unless all values are of their types."""
        numbers = self.code_length, self.generation, self.count
        texts = self.images, self.labels
        if (
            any(type(number) is not int or number < 0 for number in numbers)
            or not all(isinstance(text, str | None) for text in texts)
            or not isinstance(self.ignored, dict)
            or type(self.vectors) is not bool
        ):
            raise ValueError("a value of it is of another type.")

    def write(self, folder: Path) -> None:
        """Make this the manifest, in one step."""
        text = json.dumps(FORMAT | asdict(self), indent=2) + "\n"
        write_atomically(folder / MANIFEST, lambda path: path.write_text(text, encoding="ascii"))

    @property
    def names(self) -> tuple[str, str]:
        """The names of the files of codes and of what the images were."""
        return tuple(f"{kind}-{self.generation}.safetensors" for kind in ("codes", "files"))  # pyright: ignore[reportReturnType]


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn what is wrong with the content of a file into one error that names it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected a whole file that Collection.sync wrote, got `{path}`: {error}"
        ) from error


class Snapshot:
    """One state of a collection, for reading: later ones do not change it.

    Args:
        folder: The collection.
        manifest: What it is.

    Raises:
        FileNotFoundError: If a file of it is gone.
        ValueError: If a file of it is damaged, or of another state.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._store = MemoryStore()
        self._knn = self.knn("vectors" if manifest.vectors else None)
        if manifest.count:
            self._knn.load(folder / manifest.names[0], memory_map=True)
        if len(self._knn) != manifest.count:
            raise ValueError(
                f"Expected {manifest.count} codes in {folder / manifest.names[0]}, as {MANIFEST} "
                f"says, got {len(self._knn)}."
            )
        self.files = self._read_files() if manifest.generation else Files.empty()

    def _read_files(self) -> Files:
        path, manifest = self.folder / self.manifest.names[1], self.manifest
        with _whole(path), open_file(path, "a file of Collection.sync") as file:
            tensors, _ = read_tensors(file, FILES_FORMAT | {"generation": str(manifest.generation)})
            files = Files.of(tensors)
        if len(files) != manifest.count:
            raise ValueError(
                f"Expected {manifest.count} files in {path}, as {MANIFEST} says, got {len(files)}."
            )
        return files

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the present state of a collection, also while another process changes it.

        Raises:
            FileNotFoundError: If there is no collection, or a file of it is gone.
            ValueError: If a file of it is damaged.
        """
        while True:
            manifest = Manifest.read(folder)
            try:
                return cls(folder, manifest)
            except FileNotFoundError:
                if Manifest.read(folder).generation == manifest.generation:
                    raise

    def latest(self) -> "Snapshot":
        """Return the present state: this one, if it still is.

        Raises:
            FileNotFoundError: If the collection is gone.
            ValueError: If a file of it is damaged, or it was made anew with another model.
        """
        manifest, held = Manifest.read(self.folder), self.manifest
        if manifest == held:
            return self
        if manifest.model != held.model:
            raise ValueError(f"Expected {self.folder} with its model, got another: open it anew.")
        return Snapshot.read(self.folder)

    @property
    def root(self) -> Path:
        """The folder of the images.

        Raises:
            ValueError: If there was no sync.
        """
        if self.manifest.images is None:
            raise ValueError(f"Expected `images` in the first sync of {self.folder}, got None.")
        return Path(self.manifest.images)

    def knn(self, rerank: Rerank | None = None, num_candidates: int = 100) -> HammingKNN:
        """Return a search in the codes."""
        options: dict[str, Any] = {"rerank": rerank, "num_candidates": num_candidates}
        return HammingKNN(code_length=self.manifest.code_length, store=self._store, **options)

    @property
    def names(self) -> list[str]:
        """The names of all images, sorted, in the order of the codes."""
        return self._rows[0]

    @property
    def columns(self) -> Metadata:
        """All metadata, in the order of the codes."""
        return self._rows[1]

    @cached_property
    def _rows(self) -> tuple[list[str], Metadata]:
        names = list[str]()
        columns: Metadata = {name: [] for name in self._knn.columns}
        for records in self._knn.batches(BATCH):
            names += map(str, records.ids)
            for name, values in records.metadata.items():
                columns[name] += values
        return names, columns

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The place of every name."""
        return {name: row for row, name in enumerate(self.names)}

    def row(self, name: str) -> int:
        """Return the place of a name.

        Raises:
            KeyError: If there is no such image.
        """
        row = self.row_of.get(name)
        if row is None:
            raise KeyError(f"Expected the name of an image in {self.folder}, got {name!r}.")
        return row

    def __len__(self) -> int:
        return self.manifest.count

    def codes(self, *, packed: bool = False) -> np.ndarray:
        """Return all codes, in their order: vectors, if they are kept, unless `packed`."""
        if not len(self):
            return self.to_rows([])
        if packed or not self.manifest.vectors:
            return self._store.first_codes(len(self), torch.device("cpu")).numpy()
        vectors = (records.vectors for records in self._knn.batches(BATCH))
        return np.concatenate([batch.numpy() for batch in vectors if batch is not None])

    def to_rows(self, codes: list[bytes]) -> np.ndarray:
        """Return the bytes of codes as the rows that the collection keeps."""
        dtype = np.float32 if self.manifest.vectors else np.uint8
        length = self.manifest.code_length
        width = length if self.manifest.vectors else packed_length(length)
        return np.frombuffer(bytearray(b"".join(codes)), dtype).reshape(-1, width)

    def counts(self, column: str) -> dict[str | int | float | bool, int]:
        """Return how many images have each value of a column, or each label."""
        values = self.columns.get(column)
        if values is None:
            raise ValueError(f"Expected a column of {sorted(self.columns)}, got {column!r}.")
        held = Counter(value for value in values if value is not None)
        if column != LABEL:
            return dict(held)
        counts = Counter[str]()
        for value, count in held.items():
            for label in labels_of(value):
                counts[label] += count
        return dict(sorted(counts.items()))

    @cached_property
    def label_values(self) -> set[Value]:
        """All values of the column of labels, each once."""
        return set(self.columns.get(LABEL, ()))

    def to_where(self, where: Mapping[str, object] | None) -> Mapping[str, object] | None:
        """Return a condition in which a label stands for all sets of labels that have it."""
        if not isinstance(where, Mapping) or LABEL not in where or LABEL not in self.columns:
            return where  # for the search, which refuses what is wrong
        wanted = where[LABEL]
        many = isinstance(wanted, list | tuple | set | frozenset)
        labels = set(wanted) if many else {wanted}  # pyright: ignore[reportArgumentType]
        sets = [
            value
            for value in self.label_values
            if value in labels or not labels.isdisjoint(labels_of(value))
        ]
        sets += [label for label in labels if not isinstance(label, str | None)]  # are refused
        return {**where, LABEL: sorted(sets, key=str)}


def commit(
    snapshot: Snapshot,
    names: list[str],
    codes: np.ndarray,
    metadata: Metadata,
    files: Files,
    **to: Any,
) -> Snapshot:
    """Make a new state the present one, and return it.

    Killed at any moment, the collection is in the state before or in this one.

    Args:
        snapshot: The present state.
        names: Of all images, sorted.
        codes: Packed or real rows, as the collection keeps them.
        metadata: Of all images.
        files: What their files are.
        **to: Changes of the manifest.
    """
    folder, old = snapshot.folder, snapshot.manifest
    manifest = replace(old, generation=old.generation + 1, count=len(names), **to)
    codes_name, files_name = manifest.names
    if names:
        knn = HammingKNN(
            code_length=old.code_length, rerank="vectors" if manifest.vectors else None
        )
        knn.train(torch.from_numpy(codes), names, **metadata)
        knn.save(folder / codes_name)
    files.write(folder / files_name, manifest.generation)
    manifest.write(folder)
    remove_old(folder, manifest)
    return Snapshot(folder, manifest)


def remove_old(folder: Path, manifest: Manifest) -> None:
    """Remove the files of all states but the present one."""
    for kind in ("codes", "files"):
        for path in folder.glob(f"{kind}-*.safetensors"):
            if path.name not in manifest.names:
                remove(path)


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file, or leave it to the next one who tries where a reader still has it open."""
    try:
        Path(path).unlink(missing_ok=True)
    except PermissionError:  # on Windows
        return
