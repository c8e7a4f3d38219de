"""`pml-hashing index`: make a collection of a folder of images, and keep it in step."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pml_hashing.command import options
from pml_hashing.command.errors import STOPPED, warn_left_out
from pml_hashing.command.output import counted, print_json, say, shown, warn
from pml_hashing.command.places import is_made, place_for

if TYPE_CHECKING:
    from pml_hashing import Collection
    from pml_hashing.collection import SyncReport

AS_IT_WAS = "The collection is as it was. The same command goes on from what was encoded."
NONE_YET = "There is no collection yet. The same command begins anew."


@dataclass(frozen=True)
class ModelOptions:
    """Which model a new collection has."""

    table: str | None
    cluster: str | None
    model: str | None
    backbone: str
    checkpoint: Path | None
    img_size: int | None
    bits: int
    vectors: bool
    device: str | None

    def database(self, place: Path | str) -> dict[str, Any]:
        """Return what tells which collection in a database is meant, and where its model is."""
        if isinstance(place, Path) or self.model is None:
            return {"table": self.table, "model_folder": None}
        return {"table": self.table, "model_folder": Path(self.model)}

    def make(self, place: Path | str, images: Path, **reading: Any) -> "Collection":
        """Return a new collection."""
        from pml_hashing import Collection, HashingModel

        database: dict[str, Any] = self.database(place) | {"cluster": self.cluster}
        if self.model is not None and (isinstance(place, Path) or Path(self.model).is_dir()):
            model = HashingModel.from_pretrained(self.model, device=options.to_device(self.device))
            return Collection.create(place, model, vectors=self.vectors, **database)
        return Collection.from_itq(
            place,
            images,
            self.backbone,
            self.bits,
            vectors=self.vectors,
            pretrained=self.checkpoint is None,
            checkpoint_path=self.checkpoint,
            img_size=self.img_size,
            device=options.to_device(self.device),
            **database,
            **reading,
        )

    def open(self, place: Path | str, images: Path | None, asked: set[str]) -> "Collection":
        """Return a collection that was made before.

        Args:
            place: Where it is.
            images: The folder that is to be indexed.
            asked: Names of the options that were given.

        Raises:
            ValueError: If it is another folder's, or has another model than was asked for.
        """
        from pml_hashing import Collection

        device = options.to_device(self.device)
        photos = Collection.open(place, device=device, **self.database(place))
        if images is not None and photos.generation and not _is_same(images, photos.images):
            raise ValueError(
                f"Expected {photos.images}, whose images {place} has, got {images.resolve()}: "
                "name another place for its collection by --collection."
            )
        for option, held in self._differing(photos, asked):
            raise ValueError(
                f"Expected {option} as {photos.place} was made with, {held}, got another: leave it "
                "out, or name another place for a new collection by --collection."
            )
        return photos

    def _differing(self, photos: "Collection", asked: set[str]) -> list[tuple[str, object]]:
        """Return the options that do not agree with a collection, and what it has."""
        from pml_hashing import HashingModel
        from pml_hashing.models.encoding import fingerprint

        held: dict[str, Any] = {
            "bits": photos.code_length,
            "cluster": photos.cluster,
            "vectors": photos.vectors,
        }
        if isinstance(photos.model, HashingModel):
            made: dict[str, Any] = photos.model.config()["options"]
            held |= {name: made[name] for name in ("backbone", "img_size")}
        differing: list[tuple[str, object]] = [
            (f"--{name.replace('_', '-')}", value)
            for name, value in held.items()
            if name in asked and getattr(self, name) != value
        ]
        if self.model is not None:
            model = HashingModel.from_pretrained(self.model)
            if fingerprint(model) != fingerprint(photos.model):
                differing.append(("--model", "another"))
        elif self.checkpoint is not None and not differing and not self._has_weights(photos):
            differing.append(("--checkpoint", "another"))
        return differing

    def _has_weights(self, photos: "Collection") -> bool:
        """Return whether the backbone of a collection has the weights of the checkpoint."""
        from pml_hashing import HashingModel
        from pml_hashing.models.encoding import fingerprint

        if not isinstance(photos.model, HashingModel):
            return False
        made = photos.model.config()["options"]
        size = {name: made[name] for name in ("in_chans", "img_size")}
        of_file = HashingModel(made["backbone"], 1, checkpoint_path=self.checkpoint, **size)
        return fingerprint(of_file.trunk) == fingerprint(photos.model.trunk)


def check_labels(labels: str | None, images: Path) -> None:
    """Raise for labels that cannot be read, before hours of learning."""
    from pml_hashing.collection.labels import rows_of
    from pml_hashing.datasets import list_images

    rows_of(labels, images.resolve(), list_images(images).names)


def _is_same(images: Path, held: Path) -> bool:
    """Return whether a folder is the one that is held, or that one is gone: it was moved."""
    return images.resolve() == held or not held.is_dir()


@click.command(short_help="Make a collection of a folder, or bring it in step.")
@click.argument("folder", required=False, type=options.FILE)
@options.new_collection_option
@options.table_option
@options.cluster_option
@click.option(
    "--labels",
    type=options.TEXT,
    metavar="folders|FILE.csv",
    help='Where labels come from, now and the next times. "folders": the first sub-folder. A '
    'table: its column "path" names images, "label" may hold several, as in sea|sand.',
)
@click.option(
    "--model",
    type=options.TEXT,
    metavar="FOLDER|USER/NAME",
    help='A model, as "train" writes it, or one on the hub, instead of learning one. With a '
    "database: the folder where its model is, or will be.",
)
@options.backbone_option
@options.checkpoint_option
@options.img_size_option
@options.bits_option
@click.option("--vectors", is_flag=True, help='Keep real codes too, for "search --rerank vectors".')
@options.batch_size_option
@options.workers_option
@click.option(
    "--timeout",
    type=float,
    default=0,
    show_default=True,
    help="Seconds to wait for another process that writes to the collection.",
)
@options.allow_outside_option
@options.device_option
@options.json_option
@options.progress_option
@options.traceback_option
@click.pass_context
def index(
    ctx: click.Context,
    *,
    folder: Path | None,
    collection: Path | str | None,
    labels: str | None,
    batch_size: int,
    workers: int,
    allow_outside: bool,
    timeout: float,
    as_json: bool,
    progress: bool,
    **model_options: Any,
) -> None:
    """Make a collection of the images in FOLDER, or bring it in step.

    The first time, codes are learned from the images, without labels. Call it again after images
    were added, changed, renamed or removed: only what is new is encoded. Without FOLDER, that of
    the last time is meant. --cluster and the options from --model to --vectors tell
    how a new collection is made.

    \b
    Examples:
        pml-hashing index photos/
        pml-hashing index photos/ --labels folders
        pml-hashing index photos/ --checkpoint tf_efficientnet_lite0.safetensors
        pml-hashing index photos/ --model photos.model
        pml-hashing index photos/ --collection clickhouse://db:8123/shop --model photos.model
        pml-hashing index
    """
    place, making = place_for(folder, collection), ModelOptions(**model_options)
    reading: Any = {"batch_size": batch_size, "num_workers": workers, "progress": progress}
    reading["allow_outside"] = allow_outside
    if is_made(place, **making.database(place)):
        ctx.meta[STOPPED] = AS_IT_WAS
        given = click.core.ParameterSource.COMMANDLINE
        asked = {name for name in ctx.params if ctx.get_parameter_source(name) == given}
        photos = making.open(place, folder, asked)
    elif folder is None:
        raise click.UsageError("Missing argument 'FOLDER'.")
    else:
        ctx.meta[STOPPED] = NONE_YET
        check_labels(labels, folder)
        try:
            photos = making.make(place, folder, **reading)
        except KeyboardInterrupt:  # perhaps when the collection was there already
            ctx.meta[STOPPED] = _to_say_if_stopped(place, **making.database(place))
            raise
        ctx.meta[STOPPED] = AS_IT_WAS
    report = photos.sync(folder, labels=labels, timeout=timeout, **reading)
    if as_json:
        print_json(_to_json(photos, report))
    else:
        _print(photos, report)


def _to_say_if_stopped(place: Path | str, **database: Any) -> str:
    with suppress(Exception):  # what is wrong is told by whoever meets it
        return AS_IT_WAS if is_made(place, **database) else NONE_YET
    return ""


def _to_json(photos: "Collection", report: "SyncReport") -> dict[str, Any]:
    unreadable = [{"path": error.path, "error": str(error)} for error in report.unreadable]
    about = {
        "collection": photos.place,
        "images": str(photos.images),
        "size": len(photos),
        "code_length": photos.code_length,
    }
    return about | vars(report) | {"unreadable": unreadable}


def _print(photos: "Collection", report: "SyncReport") -> None:
    for error in report.unreadable:
        warn_left_out(error)
    for name in report.unmatched:
        warn(f"in the table of labels, and not in the folder: {name}")
    say(str(report))
    if report.ignored:
        say(f"no images, by their endings: {counted(report.ignored)}")
    say(f"{shown(photos.place)}: {len(photos):,} images, {photos.code_length} bits each")
