"""Collection: a folder of images, their codes, and a search in them."""

import copy
import os
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from pml_hashing._checks import check_integer, to_path
from pml_hashing.collection.encoded import CodesInMemory
from pml_hashing.collection.encoding import Transform
from pml_hashing.collection.labels import Labels, remembered
from pml_hashing.collection.learning import learn_itq
from pml_hashing.collection.manifest import Manifest
from pml_hashing.collection.places import storage_of
from pml_hashing.collection.searchable import SearchableContents
from pml_hashing.collection.state import State
from pml_hashing.collection.storage import Model, Storage, check_images
from pml_hashing.collection.sync import Sync, SyncOptions, SyncReport
from pml_hashing.datasets import list_images
from pml_hashing.models import HashingModel, TwoNetworkHashingModel
from pml_hashing.models.encoding import OnUnreadable, fingerprint

MODELS: dict[str, type[HashingModel] | type[TwoNetworkHashingModel]] = {
    model.__name__: model for model in (HashingModel, TwoNetworkHashingModel)
}


class Collection(SearchableContents):
    """Images of a folder and their codes, kept in step with it, and searched by name.

    A collection is a folder on disk: the model, packed codes with names and metadata, and what each
    file was when it was encoded. Or it is a table of a database, which several machines share, and
    a folder of the model on each. Make one with `create`, `from_itq` or `open`. Images are known by
    their paths in the folder of the images, never by their places, and always in the order of these
    names, whatever came first.

    Any number of threads may search while one syncs. They see what was there before it or after it.

    Args:
        storage: Where it is.
        model: The model that is saved in it.
        transform: Preprocesses an image. The model's own if `None`.

    Attributes:
        model: Gives the codes.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from PIL import Image
        >>> from pml_hashing import Collection, HashingModel
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("shoe/a.png", "shoe/b.png", "hat/c.png"):
        ...     (folder / name).parent.mkdir(exist_ok=True)
        ...     noise = np.random.default_rng(len(name)).integers(256, size=(32, 32, 3))
        ...     Image.fromarray(noise.astype(np.uint8)).save(folder / name)
        >>> model = HashingModel("test_resnet", code_length=16, img_size=32)
        >>> photos = Collection.create(folder / "photos.codes", model)
        >>> print(photos.sync(folder, labels="folders", progress=False))
        3 added, 0 changed, 0 renamed, 0 removed, 0 unchanged, 3 encoded, 0 unreadable, 0 ignored
        >>> (match,) = photos.search(folder / "hat/c.png", where={"label": "hat"})
        >>> match.name, match.distance, match.labels
        ('hat/c.png', 0, ('hat',))
        >>> sorted(match.name for match in photos.similar("hat/c.png"))
        ['shoe/a.png', 'shoe/b.png']
    """

    def __init__(
        self, storage: Storage, model: Model, *, transform: Transform | None = None
    ) -> None:
        super().__init__(storage, model, transform)
        self._learned = CodesInMemory()  # until the next sync

    @classmethod
    def create(
        cls,
        place: str | os.PathLike[str],
        model: Model,
        *,
        vectors: bool = False,
        transform: Transform | None = None,
        table: str | None = None,
        model_folder: str | os.PathLike[str] | None = None,
        cluster: str | None = None,
    ) -> Self:
        """Make a new collection, without images yet.

        The model is copied: what is trained later does not change the collection.

        Args:
            place: Where to make it: a folder that does not exist or is empty; or a database,
                `chdb:///folder` for an engine in this process or
                `clickhouse://user:password@host:8123/database`.
            model: Gives the codes.
            vectors: Whether real codes are kept beside the bits, in float32 at 32 times their size,
                for `search(..., rerank="vectors")`.
            transform: Preprocesses an image. The model's own if `None`.
            table: The name of the collection in a database, `images` if `None`.
            model_folder: Where on this machine the model is, if the place is a database. Needed
                for a server; else in the folder of the engine, if `None`.
            cluster: The name of a cluster, of which the server is one. The collection is spread
                over its shards. `open` finds out by itself.

        Raises:
            ConnectionError: If no server of the database answers. All methods raise it, and work
                again when one does.
            FileExistsError: If there is a collection, or something else, at the place, or another
                model in `model_folder`.
            TypeError: If `model` is no model of this library.
            ValueError: If the model does not say how it preprocesses images, and there is no
                `transform`.
        """
        if type(model).__name__ not in MODELS or not isinstance(model, nn.Module):
            raise TypeError(
                f"Expected `model` to be one of {', '.join(MODELS)}, got {type(model).__name__}."
            )
        own = copy.deepcopy(model).eval()
        if transform is None:
            own.transform()
        storage = storage_of(place, table, model_folder, cluster)
        storage.create(
            Manifest(fingerprint(own), type(model).__name__, model.code_length, vectors), own
        )
        return cls(storage, own, transform=transform)

    @classmethod
    def from_itq(
        cls,
        place: str | os.PathLike[str],
        images: str | os.PathLike[str],
        backbone: str | nn.Module,
        code_length: int = 64,
        *,
        vectors: bool = False,
        table: str | None = None,
        model_folder: str | os.PathLike[str] | None = None,
        cluster: str | None = None,
        allow_outside: bool = False,
        on_unreadable: OnUnreadable = lambda _: None,
        **options: Any,
    ) -> Self:
        """Make a new collection whose model is learned from a folder of images, without labels.

        Call `sync` next: it encodes them. Those that were learned from, all of a folder of up to
        `max_samples`, are not run through the backbone a second time, also if it is killed.

        Args:
            place: As of `create`.
            images: The folder of the images to learn from: more of them than `code_length`.
            backbone: As of `HashingModel`. It should have trained weights.
            code_length: Number of bits.
            vectors: As of `create`.
            table: As of `create`.
            model_folder: As of `create`.
            cluster: As of `create`.
            allow_outside: As of `sync`.
            on_unreadable: Called with the error of each image that cannot be read. `sync` reports
                them.
            **options: Other options of `HashingModel.from_itq`, such as `pretrained`,
                `checkpoint_path`, `img_size`, `max_samples`, `device` and `progress`.

        Raises:
            FileExistsError: As `create`.
            FileNotFoundError: If there is no such folder of images.
            ValueError: If there are too few images for so many bits, or as `create`.
        """
        storage = storage_of(place, table, model_folder, cluster)
        storage.check_new()
        listing, root = list_images(images, without=storage.folder), Path(images).resolve()
        if not listing.names:  # before a backbone is looked for
            others = sum(listing.ignored.values())
            raise ValueError(f"Expected images in {root}, got none and {others:,} other files.")
        options |= {"allow_outside": allow_outside, "on_unreadable": on_unreadable}
        learned = learn_itq(root, listing.names, backbone, code_length, vectors=vectors, **options)
        where: Any = {"table": table, "model_folder": model_folder, "cluster": cluster}
        photos = cls.create(place, learned.model, vectors=vectors, **where)
        photos._learned = learned.codes
        held, manifest = photos._storage, photos._state.manifest
        with held.writing(0), held.journal(manifest) as journal:
            journal.append(list(learned.codes))  # else a sync that is killed would lose them
        return photos

    @classmethod
    def open(
        cls,
        place: str | os.PathLike[str],
        *,
        table: str | None = None,
        model_folder: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
        transform: Transform | None = None,
        **backbones: nn.Module,
    ) -> Self:
        """Return a collection that was made before.

        Args:
            place: The collection, as of `create`.
            table: As of `create`.
            model_folder: As of `create`.
            device: Where to put the model.
            transform: Preprocesses an image. The model's own if `None`.
            **backbones: Modules that the model was made with, as of its `from_pretrained`.

        Raises:
            ConnectionError: As `create`.
            FileNotFoundError: If there is no collection, or no model.
            ValueError: If a part of it is damaged, or the model is another than its codes are of.
        """
        storage = storage_of(place, table, model_folder)
        manifest = storage.read_manifest()
        if manifest.model_class not in MODELS:
            raise ValueError(
                f"Expected a collection with one of {', '.join(MODELS)} at {storage.place}, "
                f"got {manifest.model_class!r}."
            )
        kind = MODELS[manifest.model_class]
        options: Any = {"device": device, **backbones}
        model = kind.from_pretrained(storage.model_folder, **options)
        return cls(storage, model, transform=transform)

    def sync(
        self,
        images: str | os.PathLike[str] | None = None,
        *,
        labels: Labels = None,
        batch_size: int = 64,
        num_workers: int = 0,
        allow_outside: bool = False,
        timeout: float = 0,
        progress: bool = True,
    ) -> SyncReport:
        """Bring the collection in step with a folder: add, encode again, rename, drop.

        A file of known size, times and inode is not read. Any other is compared by its content,
        so that one that was renamed, moved or swapped is not encoded again. Killed at any moment,
        the collection is as before, and the next sync goes on from what was encoded. At the end,
        all changes become visible at once.

        Args:
            images: The folder. That of the last sync if `None`.
            labels: Where metadata come from. `"folders"`: the first sub-folder is the label. A CSV
                file: its column `path` is relative to `images` or to the table, and `label` may
                hold several, as in `sea|sand`. A mapping of names to a label, a list of labels or
                a dict of columns. `"keep"`: they stay with their images. The first two are
                remembered, and read again by each sync whose `labels` are `None`.
            batch_size: Images at a time.
            num_workers: Processes that load images.
            allow_outside: Whether links out of the folder are followed. If not, an image behind one
                is among the unreadable.
            timeout: Seconds to wait for another process that writes. Without end if negative.
            progress: Show progress bars.

        Returns:
            What was done. An image that cannot be read has no code, and is named in it.

        Raises:
            FileNotFoundError: If there is no such folder or table.
            OSError: If the disk is full, or a sub-folder cannot be read.
            TimeoutError: If another process is writing.
            ValueError: If there was no sync before and `images` is `None`, if it is the collection
                or in it, or a table is none.
        """
        check_integer(batch_size, 1, "batch_size")
        options = SyncOptions(batch_size, num_workers, allow_outside, progress)
        storage = self._storage
        with storage.writing(timeout):
            state = self._latest()
            root = state.root if images is None else to_path(images, "images")
            check_images(root, storage.folder)
            labels = state.manifest.labels if labels is None else labels
            source = remembered(labels)
            run = Sync(storage, state, self._encoder, root.resolve(), options, self._learned)
            self._state, report = run.run(labels if source is None else source, source)
            self._learned = CodesInMemory()
        return report

    def refresh(self) -> bool:
        """Take over what another process has written, and return whether it had.

        Raises:
            FileNotFoundError: If the collection is gone.
            ValueError: If a file of it is damaged, or it was made anew with another model.
        """
        latest = self._latest()
        is_new = latest is not self._state
        if is_new:
            latest.prepare()
        self._state = latest
        return is_new

    def _latest(self) -> State:
        """Return the present state, in which codes are still of this model."""
        latest = self._storage.latest(self._state)
        self._check_model(latest.manifest)
        return latest

    def close(self) -> None:
        """Let go of the database: an engine in this process keeps its folder from others."""
        self._storage.close()

    def __repr__(self) -> str:
        return f"Collection({self.place!r}, {len(self):,} images, {self.code_length} bits)"
