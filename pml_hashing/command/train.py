"""`pml-hashing train`: a model from labelled images."""

import os
import shlex
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from pml_hashing.command import options
from pml_hashing.command.output import counted, say, shown, warn
from pml_hashing.command.training import (
    DSAH,
    LOSSES,
    Setup,
    make_model,
    read_images,
    start_or_resume,
)

if TYPE_CHECKING:
    from pml_hashing import Engine
    from pml_hashing.datasets import ImageFiles

ENDING, CHECKPOINTS = ".model", "checkpoints"


@click.command(short_help="Train a model on labelled images.")
@click.argument("data", type=options.FILE)
@click.option(
    "--output",
    type=options.FILE,
    metavar="FOLDER",
    help="Where the model will be. By default DATA.model in the current folder.",
)
@options.backbone_option
@options.checkpoint_option
@options.img_size_option
@options.bits_option
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default=DSAH,
    show_default=True,
    help="Its paper: see the documentation.",
)
@click.option("--fine-tune", is_flag=True, help="Train the backbone too: slow without a GPU.")
@click.option(
    "--train-size",
    type=click.IntRange(1),
    help="Pixels a side of images to --fine-tune on. By default those of --img-size: 0.8 of them "
    "take less time.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Passes over the images.",
)
@options.batch_size_option
@click.option(
    "--lr", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True,
    help="Learning rate. A tenth of it for the backbone.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of all random numbers.")
@options.workers_option
@options.allow_outside_option
@click.option("--allow-empty", is_flag=True, help="Let sub-folders have no images.")
@options.device_option
@options.progress_option
@options.traceback_option
def train(
    *,
    data: Path,
    output: Path | None,
    epochs: int,
    workers: int,
    allow_outside: bool,
    allow_empty: bool,
    device: str | None,
    progress: bool,
    **setup_options: Any,
) -> None:
    """Train a model on DATA: a folder with a sub-folder for each class, or a CSV file.

    The table has the columns "path", relative to it, and "label", which may hold several, as in
    sea|sand. The hash layer is trained on the features of a trained backbone. With --fine-tune the
    backbone is trained after it. Called again, it goes on where it was stopped, or with more
    --epochs.

    \b
    Examples:
        pml-hashing train photos/
        pml-hashing index photos/ --model photos.model --labels folders
        pml-hashing serve
    """
    setup = Setup(**setup_options)
    if setup.train_size is not None and not setup.fine_tune:
        raise click.UsageError("--train-size needs --fine-tune: no image is trained on without it.")
    place = Path(data.resolve().stem + ENDING) if output is None else output
    images = read_images(data, allow_outside=allow_outside, allow_empty=allow_empty)
    if images.ignored:
        warn(f"not used: {counted(images.ignored)}")
    setup.check(place, images)
    model = make_model(setup, options.to_device(device))
    engine = start_or_resume(setup, model, images, place / CHECKPOINTS, workers, progress)
    setup.write(place, images)
    engine.fit(epochs, on_round=_tell)
    model.save_pretrained(place)
    say(
        f"{shown(place)}: {setup.bits} bits, {len(images.classes):,} classes. "
        f'Next: "{shown(next_command(data, images, place))}"'
    )


def next_command(data: Path, images: "ImageFiles", model: Path) -> str:
    """Return the command that indexes the images that a model was trained on."""
    is_table = data.is_file()
    folders = {str(PurePath(name).parent) for name in images.names}
    folder = data.parent / os.path.commonpath(folders) if is_table else data
    labels = data if is_table else "folders"
    return shlex.join(
        ["pml-hashing", "index", str(folder), "--model", str(model), "--labels", str(labels)]
    )


def _tell(engine: "Engine") -> None:
    warn(f"epoch {engine.round}: loss {engine.loss.item():.4f}")
