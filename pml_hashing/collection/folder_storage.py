"""A collection in a folder: files of its present state, a manifest that is replaced in one step."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pml_hashing._files import remove_unfinished, write_atomically
from pml_hashing._locks import LockedError, locked_file
from pml_hashing.collection.file_records import Files
from pml_hashing.collection.folder_journal import FolderJournal
from pml_hashing.collection.folder_state import MANIFEST, FolderState, files_of
from pml_hashing.collection.labels import Metadata
from pml_hashing.collection.manifest import Manifest
from pml_hashing.collection.state import Change, State
from pml_hashing.collection.storage import Model, Storage
from pml_hashing.collection.waiting import wait_to_write
from pml_hashing.search import HammingKNN

MODEL_FOLDER, LOCK, JOURNAL = "model", ".lock", "encoded.journal"
SECONDS_BETWEEN_TRIES = 0.05


class FolderStorage(Storage):
    """A collection in a folder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.place, self.model_folder = str(self.folder), self.folder / MODEL_FOLDER
        self.name = self.folder.resolve().name

    def check_new(self) -> None:
        """Raise unless a collection can be made here, where a killed `create` may have begun.

        Raises:
            FileExistsError: If there is a collection, or something else.
        """
        folder = self.folder
        if (folder / MANIFEST).exists():
            raise FileExistsError(f"Expected no collection at {folder}, got one: `open` opens it.")
        left = {MODEL_FOLDER, LOCK}
        if folder.exists() and (
            not folder.is_dir() or {path.name for path in folder.iterdir()} - left
        ):
            raise FileExistsError(f"Expected `place` to be new or empty, got {folder}.")

    def create(self, manifest: Manifest, model: Model) -> None:
        self.check_new()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.writing(0):
            self.check_new()
            model.save_pretrained(self.model_folder)
            write_manifest(self.folder, manifest)

    def read_manifest(self) -> Manifest:
        return read_manifest(self.folder)

    def read(self) -> FolderState:
        while True:
            manifest = read_manifest(self.folder)
            try:
                return FolderState(self.folder, manifest)
            except FileNotFoundError:
                if read_manifest(self.folder).generation == manifest.generation:
                    raise

    def latest(self, state: State) -> State:
        return state if read_manifest(self.folder) == state.manifest else self.read()

    @contextmanager
    def writing(self, timeout: float) -> Iterator[None]:
        with ExitStack() as held:

            def take() -> str | None:
                try:
                    held.enter_context(locked_file(self.folder / LOCK))
                except LockedError:
                    return "another process that writes"
                return None

            wait_to_write(take, self.place, timeout, SECONDS_BETWEEN_TRIES)
            yield

    def journal(self, manifest: Manifest) -> FolderJournal:
        return FolderJournal(self.folder / JOURNAL, manifest.model, manifest.code_bytes)

    def commit(self, state: State, change: Change) -> State:
        if not isinstance(state, FolderState):
            raise TypeError(f"Expected a state of a folder, got a {type(state).__name__}.")
        codes, files, metadata = _applied(state, change)
        manifest = change.manifest
        codes_name, files_name = files_of(manifest.generation)
        if change.names:
            rerank: Any = "vectors" if manifest.vectors else None
            knn = HammingKNN(code_length=manifest.code_length, rerank=rerank)
            knn.train(torch.from_numpy(codes), change.names, **metadata)
            knn.save(self.folder / codes_name)
        files.write(self.folder / files_name, manifest.generation)
        write_manifest(self.folder, manifest)
        new = FolderState(self.folder, manifest)
        self.tidy(new)
        return new

    def tidy(self, state: State) -> None:
        kept = files_of(state.manifest.generation)
        for kind in ("codes", "files"):
            for path in self.folder.glob(f"{kind}-*.safetensors"):
                if path.name not in kept:
                    with suppress(PermissionError):  # on Windows, where a reader has it open
                        path.unlink(missing_ok=True)
        for name in (*files_of(state.manifest.generation + 1), MANIFEST):  # that a kill left
            remove_unfinished(self.folder / name)

    def close(self) -> None:
        """Do nothing: there are none."""


def _applied(state: FolderState, change: Change) -> tuple[np.ndarray, Files, Metadata]:
    """Return all codes, files and metadata after a change."""
    count, kept = len(change.names), np.flatnonzero(change.kept)
    files, held = Files.empty(count, change.unreadable), state.kept_codes(change.held)
    codes = np.empty((count, held.shape[1]), held.dtype)
    codes[kept] = held
    files.put(kept, state.files, change.held)
    metadata: Metadata = {column: [None] * count for column in change.columns}
    _put(metadata, kept, state.metadata(change.held))
    for images in change.images:
        codes[images.rows] = images.codes
        files.put(images.rows, images.files)
        _put(metadata, images.rows, images.metadata)
    for column, kind in change.columns.items():
        if kind is float:  # also where all that is left are integers
            metadata[column] = [None if v is None else float(v) for v in metadata[column]]  # pyright: ignore[reportArgumentType]
    return codes, files, metadata


def _put(metadata: Metadata, rows: np.ndarray, values: Metadata) -> None:
    places = rows.tolist()
    for column in metadata.keys() & values.keys():
        own = metadata[column]
        for place, value in zip(places, values[column], strict=True):
            own[place] = value


def read_manifest(folder: Path) -> Manifest:
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
    return Manifest.of(path.read_bytes(), path)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make this the manifest, in one step."""
    text = manifest.text
    write_atomically(folder / MANIFEST, lambda path: path.write_text(text, encoding="ascii"))
