"""Options that several subcommands have."""

import sys
from pathlib import Path
from typing import Any

import click

from pml_hashing._dsn import is_dsn
from pml_hashing.command.errors import SHOW

VARIABLE = "PML_HASHING_COLLECTION"
BACKBONE, BITS = "tf_efficientnet_lite0", 64


class NonEmpty(click.ParamType):
    """A text that is not empty, as that of a variable that is not set is."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text."""
        if value == "":
            self.fail("An empty text names nothing.", param, ctx)
        return value


class File(click.Path):
    """A path, which is not empty: the current folder is a dot."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        return super().convert(TEXT.convert(value, param, ctx), param, ctx)


TEXT = NonEmpty()
FILE = File()


def _show_traceback(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[SHOW] = value


def _or_terminal(_: click.Context, __: click.Parameter, value: bool | None) -> bool:
    return sys.stderr.isatty() if value is None else value


def to_device(asked: str | None) -> str:
    """Return the device that was asked for, or a GPU if there is one.

    It imports torch, after what a subcommand has to say to torch before.
    """
    if asked is not None:
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Place(NonEmpty):
    """Where a collection is: a folder, or the address of a database, which stays text."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path of a folder, or the address."""
        text = super().convert(value, param, ctx)
        return text if isinstance(text, Path) or is_dsn(text) else Path(text)


def _collection_option(text: str) -> Any:
    return click.option(
        "--collection",
        type=Place(),
        envvar=VARIABLE,
        show_envvar=True,
        metavar="FOLDER|DATABASE",
        help=f"{text} A database is chdb:///FOLDER or clickhouse://HOST:PORT/NAME.",
    )


def collection_options(command: Any) -> Any:
    """Add the options that tell where a collection is."""
    for option in (_model_option, table_option, _place_option):
        command = option(command)
    return command


_place_option = _collection_option(
    "The collection. By default the only *.codes in the current folder."
)
_model_option = click.option(
    "--model",
    "model_folder",
    type=FILE,
    metavar="FOLDER",
    help="Where the model of a collection in a database is.",
)
table_option = click.option(
    "--table", type=TEXT, help="The name of a collection in a database. By default images."
)
cluster_option = click.option(
    "--cluster",
    type=TEXT,
    metavar="NAME",
    help="The cluster of the database over which a new collection is spread.",
)
new_collection_option = _collection_option(
    "Where the collection is or will be. By default FOLDER.codes in the current folder."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
traceback_option = click.option(
    "--traceback",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_traceback,
    help="Show where an error comes from.",
)
progress_option = click.option(
    "--progress/--no-progress",
    default=None,
    callback=_or_terminal,
    help="Show progress bars. By default in a terminal.",
)
device_option = click.option(
    "--device",
    type=TEXT,
    help='Where the model runs, such as "cpu" or "cuda:1". By default a GPU if there is one.',
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Images at a time.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Processes that load images.",
)
allow_outside_option = click.option(
    "--allow-outside", is_flag=True, help="Follow paths and links out of the folder."
)
backbone_option = click.option(
    "--backbone",
    type=TEXT,
    default=BACKBONE,
    show_default=True,
    help="Any name of timm.list_models().",
)
checkpoint_option = click.option(
    "--checkpoint",
    type=FILE,
    metavar="FILE",
    help="A file of weights of the backbone, where timm's hub is out of reach.",
)
img_size_option = click.option(
    "--img-size", type=click.IntRange(1), help="Pixels a side. By default the backbone's own."
)
bits_option = click.option(
    "--bits", type=click.IntRange(1), default=BITS, show_default=True, help="Length of a code."
)
