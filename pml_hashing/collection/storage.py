"""Where the states of a collection are kept, and who may write the next one."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

from pml_hashing.collection.encoded import Encoded
from pml_hashing.collection.manifest import Manifest
from pml_hashing.collection.state import Change, State
from pml_hashing.models import HashingModel, TwoNetworkHashingModel

Model: TypeAlias = HashingModel | TwoNetworkHashingModel


class Journal(ABC):
    """Codes of a sync that is under way: a killed one loses none.

    It speaks of contents and not of names, so that whatever happens to the files between two syncs,
    a code is never another image's. As a context it is open for writing.
    """

    @abstractmethod
    def append(self, encoded: list[Encoded]) -> None:
        """Write codes. A process that is killed afterwards has not lost them."""

    @abstractmethod
    def sizes_among(self, sizes: Collection[int]) -> set[int]:
        """Return those of some sizes, in bytes, that a content of it has."""

    @abstractmethod
    def known(self, digests: Collection[bytes]) -> dict[bytes, Encoded]:
        """Return the codes of those of some contents that it has, by their digests."""

    @abstractmethod
    def remove(self) -> None:
        """Delete it: its codes are in the collection."""

    @abstractmethod
    def __enter__(self) -> "Journal": ...

    @abstractmethod
    def __exit__(self, *error: object) -> None: ...


class Storage(ABC):
    """Where a collection is: in a folder, or in a database.

    Attributes:
        place: What it is called in messages.
        name: What it is called to people.
        folder: What of it is a folder on this machine, which no images are looked for in.
        model_folder: Where its model is.
    """

    place: str
    name: str
    folder: Path
    model_folder: Path

    @property
    def cluster(self) -> str | None:
        """The name of the cluster over which it is spread, if it is."""
        return None

    @abstractmethod
    def check_new(self) -> None:
        """Raise unless a collection can be made here.

        Raises:
            FileExistsError: If there is one, or something else.
        """

    @abstractmethod
    def create(self, manifest: Manifest, model: Model) -> None:
        """Make a collection without images.

        Raises:
            FileExistsError: As `check_new`.
        """

    @abstractmethod
    def read_manifest(self) -> Manifest:
        """Return what the collection is.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If that is damaged.
        """

    @abstractmethod
    def read(self) -> State:
        """Return the present state, also while another process changes it.

        Raises:
            FileNotFoundError: If there is no collection, or a part of it is gone.
            ValueError: If a part of it is damaged.
        """

    @abstractmethod
    def latest(self, state: State) -> State:
        """Return the present state: the given one, if it still is.

        Raises:
            FileNotFoundError: If the collection is gone.
            ValueError: If a part of it is damaged.
        """

    @abstractmethod
    def writing(self, timeout: float) -> AbstractContextManager[object]:
        """Return a context in which nobody else writes.

        Raises:
            TimeoutError: If another one writes for so many seconds.
        """

    @abstractmethod
    def journal(self, manifest: Manifest) -> Journal:
        """Return the codes of a sync that is under way, or was stopped."""

    @abstractmethod
    def commit(self, state: State, change: Change) -> State:
        """Make a new state the present one, and return it.

        Killed at any moment, the collection is in the state before or in this one.
        """

    @abstractmethod
    def tidy(self, state: State) -> None:
        """Remove what other states than the present one have left."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""


def check_images(images: Path, collection: Path) -> None:
    """Raise unless a folder can hold the images of a collection.

    Raises:
        FileNotFoundError: If it is not a folder.
        ValueError: If it is the collection, or lies in it.
    """
    if not images.is_dir():
        raise FileNotFoundError(f"Expected `images` to be a folder of images, got {images}.")
    if images.resolve().is_relative_to(collection.resolve()):
        raise ValueError(f"Expected `images` outside of the collection, got {images}.")
